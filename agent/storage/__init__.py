"""Graph drivers: layers and containers' file systems on disk. `choose` is the way in."""

from __future__ import annotations

import os
from typing import Final

from agent.storage.driver import GraphDriver
from agent.storage.errors import DriverAmbiguous, DriverUnsupported
from agent.storage.limits import Limits, Rights
from agent.storage.overlay2 import Overlay2
from agent.storage.vfs import Vfs

# In the order of preference.
DRIVERS: Final[dict[str, type[Overlay2] | type[Vfs]]] = {"overlay2": Overlay2, "vfs": Vfs}


def choose(data_root: str, name: str | None = None, *, limits: Limits | None = None, rights: Rights | None = None) -> GraphDriver:
    """The graph driver for `data_root`.

    By name if given, else the one that already holds layers (`DriverAmbiguous` if several do), else the first that works.
    Raises `DriverUnsupported`. Another driver's images are left alone, out of sight, and return with it.
    """
    os.makedirs(data_root, mode=0o711, exist_ok=True)
    if name is None:
        populated = [known for known in DRIVERS if _populated(data_root, known)]
        if len(populated) > 1:
            raise DriverAmbiguous(f"{data_root} holds images of {' and '.join(populated)}: name the graph driver to use")
        name = populated[0] if populated else _first_working(data_root)
    if name not in DRIVERS:
        raise DriverUnsupported(f"graph driver {name!r} is not known; there are {', '.join(DRIVERS)}")
    driver = DRIVERS[name]
    driver.probe(data_root)
    return driver(data_root, limits=limits, rights=rights)


def _populated(data_root: str, name: str) -> bool:
    directory = os.path.join(data_root, name, "layers")
    return os.path.isdir(directory) and bool(os.listdir(directory))


def _first_working(data_root: str) -> str:
    reasons: list[str] = []
    for name, driver in DRIVERS.items():
        try:
            driver.probe(data_root)
        except DriverUnsupported as error:
            reasons.append(error.detail)
        else:
            return name
    raise DriverUnsupported("no graph driver works: " + "; ".join(reasons))
