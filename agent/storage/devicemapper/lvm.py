"""Direct LVM: a thin pool on a disk that is given to us whole, made once with LVM's programs, as Docker's daemon does."""

from __future__ import annotations

import os
from typing import Final

from agent.storage import durable
from agent.storage.devicemapper.settings import Settings
from agent.storage.errors import DriverUnsupported
from agent.sys import devmapper, programs

GROUP: Final = "wharfinger"
POOL: Final = "thinpool"
PROFILES: Final = "/etc/lvm/profile"


def ensure(settings: Settings) -> str:
    """The pool's device name; made when it is not there. Raises `ProgramFailed`, `DriverUnsupported`."""
    name = f"{GROUP}-{POOL}"
    if devmapper.exists(name):
        return name
    device = settings.lvm_device
    signatures = programs.run("wipefs", "--no-act", "--parsable", device)
    if [line for line in signatures.splitlines() if not line.startswith("#")]:
        if not settings.lvm_force:
            raise DriverUnsupported(
                f"dm.directlvm_device={device} holds data: name an empty disk,"
                " or let it be erased with dm.directlvm_device_force=true"
            )
        programs.run("wipefs", "--all", device)
    programs.run("pvcreate", "--yes", device)
    programs.run("vgcreate", GROUP, device)
    for volume, percent in ((POOL, settings.lvm_percent), (f"{POOL}meta", settings.lvm_meta_percent)):
        programs.run("lvcreate", "--yes", "--wipesignatures", "y", "--name", volume, "--extents", f"{percent}%VG", GROUP)
    programs.run(
        "lvconvert", "--yes", "--zero", "n", "--chunksize", "512K",
        "--thinpool", f"{GROUP}/{POOL}", "--poolmetadata", f"{GROUP}/{POOL}meta",
    )  # fmt: skip
    profile = (
        "activation {\n"
        f"  thin_pool_autoextend_threshold={settings.lvm_autoextend_threshold}\n"
        f"  thin_pool_autoextend_percent={settings.lvm_autoextend_percent}\n"
        "}\n"
    )
    os.makedirs(PROFILES, exist_ok=True)
    durable.write(os.path.join(PROFILES, f"{GROUP}-{POOL}.profile"), profile.encode())
    programs.run("lvchange", "--metadataprofile", f"{GROUP}-{POOL}", f"{GROUP}/{POOL}")
    return name
