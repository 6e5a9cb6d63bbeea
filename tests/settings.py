"""Settings of the tests: the product's own, in a home of their own, with no Redis and a cheap password hash.

WHARF_DATABASE_URL=postgresql://… runs the same suite on PostgreSQL; WHARF_REDIS_URL names a real Valkey.
"""

import atexit
import os
import shutil
import tempfile

# a worker of xdist inherits the home of the process that started it and must not share its files with the other workers;
# a server that a test starts inherits the worker's name too, and keeps the home the test gave it
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
if "WHARF_HOME" not in os.environ or os.environ.get("HOME_OF_WORKER", "") != WORKER:
    os.environ["WHARF_HOME"] = tempfile.mkdtemp(prefix="wharf-test-")
    os.environ["HOME_OF_WORKER"] = WORKER
    atexit.register(shutil.rmtree, os.environ["WHARF_HOME"], ignore_errors=True)
os.environ.setdefault("WHARF_REDIS_URL", "memory://")
os.environ.setdefault("WHARF_LOG_LEVEL", "WARNING")

from controlplane.settings import *  # noqa: E402, F403  # settings build on settings

PASSWORD_HASHERS = ["tests.hashers.CheapArgon2"]
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):  # noqa: F405  # settings build on settings
    # a file, not memory: threads of one test must meet the real locks
    DATABASES["default"]["TEST"] = {"NAME": f"{HOME}/test.sqlite3"}  # noqa: F405  # settings build on settings
# clients of the tests push where nothing is yet; the default is tested in tests/integration/registry/test_switches.py
REGISTRY_CREATE_ON_PUSH = 1
