"""Why the supervisor says no.

NotFound       NoSuchContainer · NoSuchExec
Conflict       ContainerExists · NotRunning · AlreadyRunning · ContainerPaused · NotPaused · ContainerActive · Interrupted
               NotHere
InvalidInput   InvalidRequest · UnknownOperation
Denied         PeerDenied
"""

from __future__ import annotations

from agent.protocol.errors import Conflict, Denied, InvalidInput, NotFound


class NoSuchContainer(NotFound):
    code = "no_such_container"


class NoSuchExec(NotFound):
    code = "no_such_exec"


class ContainerExists(Conflict):
    code = "container_exists"


class NotRunning(Conflict):
    code = "container_not_running"


class AlreadyRunning(Conflict):
    code = "container_already_running"


class ContainerPaused(Conflict):
    code = "container_paused"


class NotPaused(Conflict):
    code = "container_not_paused"


class ContainerActive(Conflict):
    """Delete without force of a container that still has a process or waits for its restart."""

    code = "container_active"


class Interrupted(Conflict):
    """A creation or a start was ended before it was done: by a delete with force, a kill, a stop, the supervisor's own end."""

    code = "interrupted"


class NotHere(Conflict):
    """The command line has to do this itself."""

    code = "not_here"


class InvalidRequest(InvalidInput):
    """A parameter is missing or of the wrong kind."""

    code = "invalid_request"


class UnknownOperation(InvalidInput):
    code = "unknown_operation"


class PeerDenied(Denied):
    """The socket is for root."""

    code = "peer_denied"
