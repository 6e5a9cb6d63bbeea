"""What goes wrong in the fleet.

PreconditionFailed ── StaleSession        a link's session was superseded
Denied ──┬── NodeRemoved                  the node may never come back
         ├── EpochImplausible             its epoch is far above the database's
         ├── VersionMismatch              the agent speaks no version of the link that we do
         ├── JoinRefused                  token unknown, used up, expired, or not for this address
         └── NoSchedulingRight            no collection on the way up grants Node Schedule
Conflict ──┬── NameTaken
           ├── NothingToRollBack
           └── NodeInUse
InvalidInput ── NotSupported              legal, but this cluster cannot do it
Unavailable ── NodeUnreachable            no link to the node, or it did not answer in time
"""

from __future__ import annotations

from agent.protocol.errors import Conflict, Denied, InvalidInput, PreconditionFailed, Unavailable


class StaleSession(PreconditionFailed):
    code = "session_invalid"


class NodeRemoved(Denied):
    code = "node_removed"


class EpochImplausible(Denied):
    code = "epoch_implausible"


class VersionMismatch(Denied):
    code = "version_mismatch"


class JoinRefused(Denied):
    code = "join_refused"


class NoSchedulingRight(Denied):
    code = "no_scheduling_right"


class NameTaken(Conflict):
    code = "name_taken"


class NothingToRollBack(Conflict):
    code = "nothing_to_roll_back"


class NodeInUse(Conflict):
    code = "node_in_use"


class NotSupported(InvalidInput):
    code = "not_supported"


class NodeUnreachable(Unavailable):
    code = "node_unreachable"
