"""The product's settings with the guest that counts effects, for worker processes of the tests."""

from controlplane.settings import *  # noqa: F403  # settings build on settings

GUESTS = ["tests.integration.controlplane.effects"]
