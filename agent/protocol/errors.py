"""The one exception base of all packages.

    WharfError
      ├── InvalidInput          the caller sent something that can never work
      ├── Unauthenticated       we do not know who is asking
      ├── Denied                we know, and they may not
      ├── NotFound              absent, or not visible to the caller
      ├── Conflict              the state of the thing forbids it now
      ├── PreconditionFailed    the caller's copy is stale (If-Match, fence, epoch)
      ├── TooLarge              over a limit that is stated in the detail
      ├── Throttled             too often; `retry_after` says when
      ├── Unavailable           try again: something we need is away
      └── Internal              our fault

`code` is stable and public: it is what a program compares. `status` is the HTTP status all three dialects share
(RFC 9457 problem+json for REST, the OCI error shape for /v2/, `{"message": …}` for the Engine API). `retry` is the one bit a
caller needs: may the very same request succeed later? `detail` is a sentence for a person that says what to do.
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing would cost the supervisor 2 MB; type checkers know this name
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, ClassVar


class WharfError(Exception):
    """Base of every error that crosses a room.

    `extra` is JSON-serialisable context for the caller (which grant was missing, which filter excluded how many nodes).
    """

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    retry: ClassVar[bool] = False

    def __init__(self, detail: str, **extra: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.extra: Mapping[str, Any] = extra

    def as_dict(self) -> dict[str, Any]:
        """The error as plain data: what travels on the link and on the supervisor's socket."""
        return {
            "code": self.code,
            "status": self.status,
            "retry": self.retry,
            "detail": self.detail,
            "extra": dict(self.extra),
        }


class InvalidInput(WharfError):
    code = "invalid_input"
    status = 400


class Unauthenticated(WharfError):
    code = "unauthenticated"
    status = 401


class Denied(WharfError):
    code = "denied"
    status = 403


class NotFound(WharfError):
    code = "not_found"
    status = 404


class Conflict(WharfError):
    code = "conflict"
    status = 409


class PreconditionFailed(WharfError):
    code = "precondition_failed"
    status = 412


class TooLarge(WharfError):
    code = "too_large"
    status = 413


class Throttled(WharfError):
    code = "throttled"
    status = 429
    retry = True

    def __init__(self, detail: str, retry_after: float = 1.0, **extra: Any) -> None:
        super().__init__(detail, retry_after=retry_after, **extra)
        self.retry_after = retry_after


class Unavailable(WharfError):
    code = "unavailable"
    status = 503
    retry = True


class Internal(WharfError):
    code = "internal"
    status = 500


BY_CODE: Mapping[str, type[WharfError]] = {
    cls.code: cls
    for cls in (
        InvalidInput,
        Unauthenticated,
        Denied,
        NotFound,
        Conflict,
        PreconditionFailed,
        TooLarge,
        Throttled,
        Unavailable,
        Internal,
    )
}


class RemoteError(WharfError):
    """An error that the other end of a link or socket reported, with its own code, status and retry bit."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        extra = data.get("extra")
        super().__init__(str(data.get("detail", "unspecified remote error")), **(extra if isinstance(extra, dict) else {}))
        self.code = str(data.get("code", "internal"))  # type: ignore[misc]  # the peer's code, per instance
        self.status = int(data.get("status", 500))  # type: ignore[misc]  # likewise
        self.retry = bool(data.get("retry", False))  # type: ignore[misc]  # likewise
