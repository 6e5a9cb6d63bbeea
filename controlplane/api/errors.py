"""Errors that only the REST interface has; the base and the general ones are in agent.protocol.errors."""

from agent.protocol.errors import Conflict, InvalidInput, PreconditionFailed, WharfError


class Gone(WharfError):
    """What was asked for existed and has been compacted away."""

    code = "gone"
    status = 410


class PreconditionRequired(PreconditionFailed):
    """A write that must name the version it was made from came without If-Match."""

    code = "precondition_required"
    status = 428


class MethodNotAllowed(WharfError):
    code = "method_not_allowed"
    status = 405


class UnsupportedMediaType(WharfError):
    code = "unsupported_media_type"
    status = 415


class NotAcceptable(WharfError):
    code = "not_acceptable"
    status = 406


class IdempotencyMismatch(InvalidInput):
    """The same Idempotency-Key came with another body."""

    code = "idempotency_mismatch"
    status = 422


class InFlight(Conflict):
    """The first request with this Idempotency-Key has not ended."""

    code = "in_flight"
    retry = True
