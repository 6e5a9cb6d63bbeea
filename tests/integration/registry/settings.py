"""Settings of the registry's test server: the tests' own, with the registry's times from the environment."""

import os

from tests.settings import *  # noqa: F403

for _name, _value in os.environ.items():
    if _name.startswith("WHARF_REGISTRY_"):
        globals()[_name.removeprefix("WHARF_")] = int(_value)

# the tests log in often and wrongly from one address; the lockout has its own tests with the users
AXES_ENABLED = False
REST_FRAMEWORK = {**REST_FRAMEWORK, "DEFAULT_THROTTLE_CLASSES": []}  # noqa: F405
