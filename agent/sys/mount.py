"""`Mount`: the plain datum in which storage and runtime meet."""

from __future__ import annotations

from _operator import itemgetter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    class Mount(NamedTuple):
        """One mount of a root filesystem.

        type: filesystem ("overlay", "tmpfs"…) or "bind". source: host path or device. target: path inside the root filesystem,
        "" being the root itself. options: words of mount(8) and the OCI runtime spec; an overlay has one `lowerdir=<path>` per
        layer, topmost first. `idmap` on the root asks for layers shifted into the container's user namespace.
        """

        type: str
        source: str
        target: str
        options: tuple[str, ...]

else:

    class Mount(tuple):
        """The same by hand: importing typing costs the supervisor half a megabyte, importing collections 0.4."""

        __slots__ = ()

        def __new__(cls, type, source, target, options):
            return tuple.__new__(cls, (type, source, target, options))

        def _replace(self, **changes):
            values = {"type": self.type, "source": self.source, "target": self.target, "options": self.options}
            return Mount(**{**values, **changes})

        type, source, target, options = (property(itemgetter(index)) for index in range(4))
