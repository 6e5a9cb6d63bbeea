"""Settings of the registry's test server: the tests' own, without the limits on how often one address may ask."""

import os

from tests.settings import *  # noqa: F403  # settings build on settings

# the tests log in often and wrongly from one address; the lockout has its own tests with the users
AXES_ENABLED = False
REST_FRAMEWORK = {**REST_FRAMEWORK, "DEFAULT_THROTTLE_CLASSES": []}  # noqa: F405  # settings build on settings
# what is deleted is collected at once; the undo window has tests of its own
REGISTRY_UNDO_WINDOW = int(os.environ.get("REGISTRY_TEST_UNDO_WINDOW", "0"))
