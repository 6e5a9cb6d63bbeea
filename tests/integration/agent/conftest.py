"""The agent's integration tests run in namespaces of their own."""

from tests.nodes import private_node

__all__ = ["private_node"]
