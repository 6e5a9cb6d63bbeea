"""A small D-Bus client: enough to ask systemd for a scope. Standard library only, loaded only where systemd manages cgroups."""

from agent.runtime.dbus.connection import Connection, DBusError, Signal

__all__ = ["Connection", "DBusError", "Signal"]
