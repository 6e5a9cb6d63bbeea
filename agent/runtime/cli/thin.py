"""Placeholder during the build-up."""

from agent.runtime.cli.arguments import Options


def attempt(options: Options) -> int | None:
    return None
