"""What goes wrong at the other end.

WharfError
  ├── InvalidInput ── EgressRefused     the guard lets no request go there
  ├── InvalidInput ── RemoteRefused     the other side answered that it will not (401, 403, 400, …)
  ├── InvalidInput ── RemoteBroken      it answered what no registry may answer: a wrong digest, a manifest that is none
  ├── NotFound ── RemoteUnknown         it has no such repository, manifest or blob
  ├── Throttled ── RemoteBusy           it asks to come back later
  └── Unavailable ── RemoteAway         no answer, a broken connection, or an error of its own
"""

from __future__ import annotations

from agent.protocol.errors import InvalidInput, NotFound, Throttled, Unavailable


class EgressRefused(InvalidInput):
    code = "egress_refused"


class RemoteRefused(InvalidInput):
    code = "remote_refused"


class RemoteBroken(InvalidInput):
    code = "remote_broken"


class RemoteUnknown(NotFound):
    code = "remote_unknown"


class RemoteBusy(Throttled):
    code = "remote_busy"


class RemoteAway(Unavailable):
    code = "remote_away"
