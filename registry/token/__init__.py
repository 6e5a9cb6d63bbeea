"""The token service's core: `issue` signs what somebody may do, `verify` reads it back."""

from registry.token.bearer import SERVICE, TTL_SECONDS, Claims, TokenInvalid, issue, verify

__all__ = ["SERVICE", "TTL_SECONDS", "Claims", "TokenInvalid", "issue", "verify"]
