"""Wrong passwords by address, whatever the account: the lock by account and address alone would let one host try every name.

Counted in the shared cache. When that is away nothing is counted: the other lock is in the database and still holds.
"""

from __future__ import annotations

import redis
import structlog
from django.conf import settings
from django.core.cache import cache

from agent.protocol.errors import Throttled

log = structlog.get_logger(__name__)


def _key(address: str) -> str:
    return f"login-failures:{address}"


def _period() -> int:
    return int(settings.AXES_COOLOFF_TIME * 3600)


def check(address: str) -> None:
    """Raises Throttled when `address` has failed too often."""
    try:
        count = int(cache.get(_key(address)) or 0)
    except (redis.RedisError, OSError) as error:
        log.warning("login_failures_away", error=str(error))
        return
    if count >= settings.LOGIN_FAILURES_PER_ADDRESS:
        raise Throttled("Too many wrong passwords from your address: wait and try again.", retry_after=float(_period()))


def note(address: str) -> None:
    """Counts one failure; the count begins anew after the cool-off time."""
    try:
        if not cache.add(_key(address), 1, _period()):
            cache.incr(_key(address))
    except (redis.RedisError, OSError) as error:
        log.warning("login_failures_away", error=str(error))
    except ValueError:
        return  # it ran out between the two calls
