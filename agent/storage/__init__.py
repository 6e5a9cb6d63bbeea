"""Graph drivers: layers and containers' file systems on disk. `choose` is the way in."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

from agent.storage import options as given
from agent.storage.base import DirectoryDriver
from agent.storage.btrfs import Btrfs
from agent.storage.devicemapper.driver import DeviceMapper
from agent.storage.driver import GraphDriver
from agent.storage.errors import DriverAmbiguous, DriverUnsupported
from agent.storage.fuse_overlayfs import FuseOverlayfs
from agent.storage.limits import Limits, Rights
from agent.storage.overlay2 import Overlay2
from agent.storage.table import LayerTable
from agent.storage.vfs import Vfs
from agent.storage.zfs import Zfs

# The first five are tried in this order when no choice is made; devicemapper wants to be asked for.
DRIVERS: Final[dict[str, type[DirectoryDriver]]] = {
    driver.name: driver for driver in (Overlay2, FuseOverlayfs, Btrfs, Zfs, Vfs, DeviceMapper)
}
_BY_ITSELF: Final = tuple(name for name in DRIVERS if name != DeviceMapper.name)
_INSTEAD: Final = {
    "aufs": "aufs is not in any kernel that is still maintained: use overlay2, which keeps layers the same way",
    "windowsfilter": "windowsfilter is for Windows hosts: on Linux use overlay2",
    "overlay": "overlay, with its copies of every layer's links, is superseded: use overlay2",
}


def choose(
    data_root: str,
    name: str | None = None,
    *,
    limits: Limits | None = None,
    rights: Rights | None = None,
    options: Iterable[str] = (),
) -> GraphDriver:
    """The graph driver for `data_root`, with `options` as Docker writes them ("btrfs.min_space=10G").

    By name if given, else the one that already holds layers (`DriverAmbiguous` if several do), else the first that works.
    Raises `DriverUnsupported`, `OptionInvalid`. Another driver's images are left alone, out of sight, and return with it.
    """
    os.makedirs(data_root, mode=0o711, exist_ok=True)
    wishes = given.parse(options)
    if not name:
        holding = populated(data_root)
        if len(holding) > 1:
            raise DriverAmbiguous(
                f"{data_root} holds images of the graph drivers {' and '.join(holding)}: name the one to use (--graph-driver)"
            )
        name = holding[0] if holding else _first_working(data_root, wishes)
    if name not in DRIVERS:
        raise DriverUnsupported(
            _INSTEAD.get(name, f"graph driver {name!r} is not known; there are {', '.join(DRIVERS)}"), driver=name
        )
    driver = DRIVERS[name]
    given.check(wishes, name, {known: cls.OPTIONS for known, cls in DRIVERS.items()})
    driver.probe(data_root, wishes)
    chosen: GraphDriver = driver(data_root, limits=limits, rights=rights, options=wishes)
    return chosen


def populated(data_root: str) -> list[str]:
    """The drivers that hold layers below `data_root`."""
    return [name for name in DRIVERS if _populated(data_root, name)]


def working(data_root: str) -> list[str]:
    """The drivers whose kernel and programs this node has, in the order of preference."""
    return [name for name in DRIVERS if _works(data_root, name)]


def elsewhere(data_root: str, name: str) -> dict[str, str]:
    """Containers whose file systems belong to other drivers than `name`: id -> driver. They are out of sight until it is back."""
    found: dict[str, str] = {}
    for other in DRIVERS:
        if other != name and os.path.isdir(os.path.join(data_root, "image", other)):
            found.update(dict.fromkeys(LayerTable(os.path.join(data_root, "image", other)).containers(), other))
    return found


def _works(data_root: str, name: str) -> bool:
    try:
        DRIVERS[name].probe(data_root, {})
    except DriverUnsupported:
        return False
    return True


def _populated(data_root: str, name: str) -> bool:
    directory = os.path.join(data_root, name, "layers")
    return os.path.isdir(directory) and bool(os.listdir(directory))


def _first_working(data_root: str, wishes: dict[str, str]) -> str:
    reasons: list[str] = []
    for name in _BY_ITSELF:
        driver = DRIVERS[name]
        try:
            driver.probe(data_root, {key: value for key, value in wishes.items() if key in driver.OPTIONS})
        except DriverUnsupported as error:
            reasons.append(error.detail)
        else:
            return name
    raise DriverUnsupported("no graph driver works: " + "; ".join(reasons))
