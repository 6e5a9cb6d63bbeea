"""`Mount`: the plain datum in which storage and runtime meet."""

from __future__ import annotations

from collections import namedtuple

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
    # collections.namedtuple, because importing typing costs the supervisor half a megabyte
    Mount = namedtuple("Mount", ("type", "source", "target", "options"))
