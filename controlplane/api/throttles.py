"""Request rates by actor or address. When the cache is away nobody is refused: login lockout does not depend on it."""

from __future__ import annotations

from typing import Any

import redis
import structlog
from rest_framework.request import Request
from rest_framework.throttling import SimpleRateThrottle

from controlplane.api.actor import actor_of, address_of

log = structlog.get_logger(__name__)


class _Tolerant(SimpleRateThrottle):
    def allow_request(self, request: Request, view: Any) -> bool:
        try:
            return bool(super().allow_request(request, view))
        except (redis.RedisError, OSError) as error:
            log.warning("throttle_away", error=str(error))
            return True


class ActorThrottle(_Tolerant):
    """`actor` requests a period for a signed-in caller, `anonymous` for an address."""

    scope = "actor"

    def allow_request(self, request: Request, view: Any) -> bool:
        anonymous = actor_of(request).kind == "anonymous"
        self.rate = self.THROTTLE_RATES["anonymous" if anonymous else "actor"]
        self.num_requests, self.duration = self.parse_rate(self.rate)
        return super().allow_request(request, view)

    def get_cache_key(self, request: Request, view: Any) -> Any:
        actor = actor_of(request)
        return f"throttle:{actor.kind}:{actor.id or address_of(request._request)}"


class LoginThrottle(_Tolerant):
    """Attempts to sign in from one address, right or wrong, before any password is hashed."""

    scope = "login"

    def get_cache_key(self, request: Request, view: Any) -> Any:
        return f"throttle:login:{address_of(request._request)}"
