"""Configuration from the environment alone; docs/howto/configuration.md explains every variable.

Importing this module touches no file: the secret key is read (and made, at the first start) when it is first used.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl, unquote, urlsplit

import structlog
from csp.constants import NONCE, NONE, SELF
from django.core.exceptions import ImproperlyConfigured
from django.utils.functional import SimpleLazyObject

from controlplane import house
from controlplane.home import default_home, secret_key

BASE_DIR = Path(__file__).resolve().parent.parent


def _text(name: str, default: str = "") -> str:
    return os.environ.get(name, default).strip()


def _number(name: str, default: int) -> int:
    text = _text(name, str(default))
    try:
        return int(text)
    except ValueError:
        raise ImproperlyConfigured(f"{name} must be a whole number, not {text!r}.") from None


def _flag(name: str, default: bool) -> bool:
    text = _text(name, "1" if default else "0").lower()
    if text not in {"0", "1", "true", "false", "yes", "no", "on", "off"}:
        raise ImproperlyConfigured(f"{name} must be 0 or 1, not {text!r}.")
    return text in {"1", "true", "yes", "on"}


def _words(name: str, default: str = "") -> list[str]:
    return [word for word in _text(name, default).replace(",", " ").split() if word]


HOME = Path(_text("WHARF_HOME") or default_home())
HOSTNAMES = _words("WHARF_HOSTNAMES")
ADDRESS = _text("WHARF_ADDRESS", "0.0.0.0")  # noqa: S104  # a control plane that only loopback reaches has no nodes
PORT = _number("WHARF_PORT", 8443)
NODE_PORT = _number("WHARF_NODE_PORT", 8444)
# host by which other web processes of this control plane reach this one's node port; "" = ADDRESS, or what this host is called.
INTERNAL_HOST = _text("WHARF_INTERNAL_HOST")
# host:port by which nodes reach /v2/; "" = the host that their link goes to, at PORT.
REGISTRY_ADDRESS = _text("WHARF_REGISTRY_ADDRESS")
PLAIN_PORT = _number("WHARF_PLAIN_PORT", 0)  # HTTP without TLS on loopback, for benchmarks only; 0 = off
LINK_RATE = _number("WHARF_LINK_RATE", 250)  # new links a second that a web process takes; a full mutual handshake costs 3 ms CPU
BLOB_STORE = _text("WHARF_BLOB_STORE") or str(HOME / "blobs")  # a directory, or s3://bucket/prefix?…
BLOB_STORE_ALSO = _text("WHARF_BLOB_STORE_ALSO")  # a second one that is read too, while blobs move from it or to it
TRUSTED_PROXIES = _words("WHARF_TRUSTED_PROXIES")
REDIS_URL = _text("WHARF_REDIS_URL") or f"unix://{HOME}/valkey.sock"
IN_MEMORY = REDIS_URL == "memory://"  # one process, unit tests only

SECRET_KEY_FILE = Path(_text("WHARF_SECRET_KEY_FILE") or HOME / "secret-key")
SECRET_KEY = cast(str, SimpleLazyObject(lambda: secret_key(SECRET_KEY_FILE)))
KEK_FILE = Path(_text("WHARF_KEK_FILE") or HOME / "kek")
PKI_DIR = HOME / "pki"
AUDIT_DIR = HOME / "audit"

DEBUG = _flag("WHARF_DEBUG", False)
# Names for the Host header. With no list every name is accepted: the console is reached by address before anybody knows a name,
# nothing here builds an absolute URL from the header, and the origin check of sockets compares with it.
ALLOWED_HOSTS = [*HOSTNAMES, "localhost", "127.0.0.1", "[::1]"] if HOSTNAMES else ["*"]
CSRF_TRUSTED_ORIGINS = _words("WHARF_TRUSTED_ORIGINS")

# Guests are plugged in by name; each may have <guest>.api.urls, .console.urls, .console.nav, .jobs, .asgi, .cli.app
GUESTS = list(house.GUESTS)

INSTALLED_APPS = [
    "django.contrib.auth",  # AnonymousUser and login(); its Permission and Group tables stay empty
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    "rest_framework",
    "drf_spectacular",
    "django_filters",
    "axes",
    "csp",
    "django_htmx",
    "django_structlog",
    "controlplane.api",
    "controlplane.events",
    "controlplane.users",
    "controlplane.pki",
    "controlplane.rbac",
    "controlplane.jobs",
    "controlplane.console",
    *GUESTS,
]

MIDDLEWARE = [
    "controlplane.api.headers.SecurityHeaders",
    "controlplane.api.compression.Compression",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "controlplane.users.sessions.SessionMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django_structlog.middlewares.RequestMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "axes.middleware.AxesMiddleware",
]

ROOT_URLCONF = "controlplane.urls"
ASGI_APPLICATION = "controlplane.asgi.application"
TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [str(Path(__file__).parent.parent / guest / "console" / "templates") for guest in GUESTS],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "csp.context_processors.nonce",
                "controlplane.console.context.frame",
            ]
        },
    }
]

# --- database -------------------------------------------------------------------------------------------------------------------


def database(url: str) -> dict[str, Any]:
    """A Django DATABASES entry from `sqlite:///path` or `postgresql://user:password@host:port/name?option=value`.

    A PostgreSQL socket directory goes in the query: `postgresql:///wharf?host=/run/postgresql`.
    """
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": unquote(parts.path).replace("//", "/", 1) or ":memory:",
            "OPTIONS": {
                # DEFERRED turns a read into a write half-way and fails at once when another writer came between
                "transaction_mode": "IMMEDIATE",
                "timeout": 20,
                "init_command": (
                    "PRAGMA journal_mode=WAL;"
                    f"PRAGMA synchronous={_text('WHARF_SQLITE_SYNCHRONOUS', 'NORMAL')};"
                    "PRAGMA foreign_keys=ON;"
                    "PRAGMA mmap_size=134217728;"
                ),
            },
        }
    if parts.scheme in {"postgresql", "postgres"}:
        query = dict(parse_qsl(parts.query))
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": unquote(parts.path.lstrip("/")),
            "USER": unquote(parts.username or query.pop("user", "")),
            "PASSWORD": unquote(parts.password or ""),
            "HOST": query.pop("host", "") or (parts.hostname or ""),
            "PORT": str(parts.port or query.pop("port", "")),
            "CONN_HEALTH_CHECKS": True,
            "OPTIONS": {**query, "pool": {"min_size": 0, "max_size": _number("WHARF_DATABASE_POOL", 16), "timeout": 10}},
        }
    raise ImproperlyConfigured(f"WHARF_DATABASE_URL must begin with sqlite:// or postgresql://, not {parts.scheme}://")


DATABASES = {"default": database(_text("WHARF_DATABASE_URL") or f"sqlite:///{HOME}/db.sqlite3")}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- hints between processes ----------------------------------------------------------------------------------------------------

if IN_MEMORY:
    CHANNEL_LAYERS: dict[str, Any] = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    CACHES: dict[str, Any] = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    CELERY_BROKER_URL = "memory://"
else:
    CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            # redis-py 8 reads with a 5 s timeout unless told None, which ends idle sockets (channels_redis#422)
            "CONFIG": {"hosts": [{"address": REDIS_URL, "socket_timeout": None}], "prefix": "wharf"},
        }
    }
    CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": REDIS_URL,
            "KEY_PREFIX": "wharf",
        }
    }
    CELERY_BROKER_URL = REDIS_URL.replace("unix://", "redis+socket://", 1)
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = False  # the Job row is the truth; a message is only a doorbell
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_SERIALIZER = "json"
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TIMEZONE = "UTC"

# --- who is asking --------------------------------------------------------------------------------------------------------------

AUTH_USER_MODEL = "users.User"
ACCESS_ENGINE = "controlplane.rbac.engine"
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "controlplane.users.backends.PasswordBackend"]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.Argon2PasswordHasher"]
AUTH_PASSWORD_VALIDATORS: list[dict[str, Any]] = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {
        "NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator",
        "OPTIONS": {"user_attributes": ("username", "email")},
    },
]
LOGIN_URL = "/login"
LOGIN_REDIRECT_URL = "/"

# account AND address: by the account alone anybody could lock the administrator out
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_FAILURE_LIMIT = _number("WHARF_LOGIN_FAILURES", 8)
LOGIN_FAILURES_PER_ADDRESS = _number("WHARF_LOGIN_FAILURES_PER_ADDRESS", 100)
AXES_COOLOFF_TIME = _number("WHARF_LOGIN_COOLOFF_MINUTES", 15) / 60  # hours
AXES_RESET_ON_SUCCESS = True
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False
AXES_CLIENT_IP_CALLABLE = "controlplane.api.actor.address_of"
AXES_ENABLE_ADMIN = False
AXES_DISABLE_ACCESS_LOG = True  # the audit trail has the logins
AXES_VERBOSE = False

SESSION_ENGINE = "django.contrib.sessions.backends.db"
SESSION_COOKIE_NAME = "__Host-wharf-session"
SESSION_COOKIE_SECURE = True
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_LIFETIME = _number("WHARF_SESSION_MINUTES", 60) * 60
SESSION_RENEWAL = min(_number("WHARF_SESSION_RENEWAL_MINUTES", 20) * 60, SESSION_LIFETIME)
SESSION_LIMIT = _number("WHARF_SESSIONS_PER_USER", 10)
SESSION_COOKIE_AGE = SESSION_LIFETIME
CSRF_COOKIE_NAME = "__Host-wharf-csrf"
CSRF_COOKIE_SECURE = True
CSRF_COOKIE_HTTPONLY = False  # htmx reads it for its header
CSRF_COOKIE_SAMESITE = "Lax"
CSRF_FAILURE_VIEW = "controlplane.api.problems.csrf_failure"
DEFAULT_NEW_USER_ROLE = _text("WHARF_DEFAULT_NEW_USER_ROLE", "Restricted Control")

# --- what browsers may do -------------------------------------------------------------------------------------------------------

SECURE_CONTENT_TYPE_NOSNIFF = True
# other sites learn nothing; "no-referrer" would make browsers send `Origin: null` with forms, which the CSRF check must refuse
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
SECURE_HSTS_SECONDS = _number("WHARF_HSTS_SECONDS", 0)  # off by default: a self-signed first start must not lock a browser out
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if TRUSTED_PROXIES else None
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF, NONCE],
        "style-src": [SELF, NONCE],
        "img-src": [SELF, "data:"],
        "font-src": [SELF],
        "connect-src": [SELF],
        "form-action": [SELF],
        "base-uri": [NONE],
        "frame-ancestors": [NONE],
        "manifest-src": [SELF],
    }
}

STATIC_URL = "/static/"
STATIC_ROOT = _text("WHARF_STATIC_ROOT") or None  # where collectstatic puts files; not needed
WHITENOISE_USE_FINDERS = True  # a clone serves its committed bundles without collectstatic
WHITENOISE_AUTOREFRESH = DEBUG

# --- REST -----------------------------------------------------------------------------------------------------------------------

DATA_UPLOAD_MAX_MEMORY_SIZE = 2 << 20
DATA_UPLOAD_MAX_NUMBER_FIELDS = 1000
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "controlplane.users.authentication.BearerAuthentication",
        "controlplane.users.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["controlplane.api.permissions.NamesItsOperation"],
    "DEFAULT_PARSER_CLASSES": ["controlplane.api.parsers.StrictJSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PAGINATION_CLASS": "controlplane.api.pagination.LinkPagination",
    "DEFAULT_FILTER_BACKENDS": ["django_filters.rest_framework.DjangoFilterBackend"],
    "DEFAULT_SCHEMA_CLASS": "controlplane.api.schema.Schema",
    "DEFAULT_THROTTLE_CLASSES": ["controlplane.api.throttles.ActorThrottle"],
    "DEFAULT_THROTTLE_RATES": {
        "anonymous": _text("WHARF_RATE_ANONYMOUS", "120/min"),
        "actor": _text("WHARF_RATE_ACTOR", "3000/min"),
        "login": _text("WHARF_RATE_LOGIN", "30/min"),
    },
    "EXCEPTION_HANDLER": "controlplane.api.problems.handler",
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
    "URL_FORMAT_OVERRIDE": None,
    "PAGE_SIZE": 50,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Wharfinger",
    "DESCRIPTION": "The control plane's REST interface. Errors are RFC 9457 problem documents.",
    "VERSION": "v1",
    "OAS_VERSION": "3.1.1",
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "SERVE_INCLUDE_SCHEMA": False,
    "COMPONENT_SPLIT_REQUEST": True,
    # enumerations stay in their place: drf-spectacular's hook that names them stumbles over every second "state"
    "POSTPROCESSING_HOOKS": ["controlplane.api.schema.add_problems"],
}

# --- the rest -------------------------------------------------------------------------------------------------------------------

LANGUAGE_CODE = "en"
USE_I18N = False
USE_TZ = True
TIME_ZONE = "UTC"
APPEND_SLASH = False

DJANGO_STRUCTLOG_CELERY_ENABLED = False
DJANGO_STRUCTLOG_USER_ID_FIELD = "pk"
_SHARED_PROCESSORS: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
    structlog.processors.format_exc_info,
]
LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "json": {
            "()": "structlog.stdlib.ProcessorFormatter",
            "processor": structlog.processors.JSONRenderer(),
            "foreign_pre_chain": _SHARED_PROCESSORS,
        }
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
    "root": {"handlers": ["stderr"], "level": _text("WHARF_LOG_LEVEL", "INFO").upper()},
    "loggers": {"django.server": {"propagate": True}, "axes": {"level": "WARNING"}},
}
structlog.configure(
    processors=[
        structlog.stdlib.filter_by_level,
        *_SHARED_PROCESSORS,
        structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    ],
    logger_factory=structlog.stdlib.LoggerFactory(),
    cache_logger_on_first_use=True,
)
