"""The devicemapper driver's options, `dm.…`, under Docker's names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from agent.storage import options as given
from agent.storage.errors import OptionInvalid
from agent.sys import programs

SECTOR: Final = 512
FILE_SYSTEMS: Final = ("xfs", "ext4")
# Taken and without effect: dmsetup synchronises with udev by itself and logs on its own.
_WITHOUT_EFFECT: Final = ("dm.override_udev_sync_check", "dm.libdm_log_level")
NAMES: Final = frozenset(
    (
        "dm.thinpooldev",
        "dm.directlvm_device",
        "dm.directlvm_device_force",
        "dm.thinp_percent",
        "dm.thinp_metapercent",
        "dm.thinp_autoextend_threshold",
        "dm.thinp_autoextend_percent",
        "dm.loopdatasize",
        "dm.loopmetadatasize",
        "dm.basesize",
        "dm.blocksize",
        "dm.fs",
        "dm.mkfsarg",
        "dm.mountopt",
        "dm.blkdiscard",
        "dm.use_deferred_removal",
        "dm.use_deferred_deletion",
        "dm.min_free_space",
        *_WITHOUT_EFFECT,
    )
)


@dataclass(frozen=True, slots=True)
class Settings:
    """Sizes in bytes. One of `pool`, `lvm_device` and `loop_data` says where the thin pool comes from."""

    pool: str = ""  # name of a device below /dev/mapper
    lvm_device: str = ""
    lvm_force: bool = False
    lvm_percent: int = 95
    lvm_meta_percent: int = 1
    lvm_autoextend_threshold: int = 80
    lvm_autoextend_percent: int = 20
    loop_data: int = 0
    loop_metadata: int = 2 << 30
    base: int = 10 << 30
    block: int = 64 << 10
    fs: str = "xfs"
    mkfs: tuple[str, ...] = ()
    mount: tuple[str, ...] = ()
    discard: bool = True
    deferred_removal: bool = False
    deferred_deletion: bool = False
    min_free_percent: int = 10


def read(options: Mapping[str, str]) -> Settings:
    """Raises `OptionInvalid`; whether the pool exists is looked at later."""

    def size(name: str, default: int) -> int:
        return given.size(options[name], name) if name in options else default

    def flag(name: str, default: bool) -> bool:
        return given.flag(options[name], name) if name in options else default

    def percent(name: str, default: int) -> int:
        return given.percent(options[name], name) if name in options else default

    settings = Settings(
        pool=options.get("dm.thinpooldev", "").removeprefix("/dev/mapper/"),
        lvm_device=options.get("dm.directlvm_device", ""),
        lvm_force=flag("dm.directlvm_device_force", False),
        lvm_percent=percent("dm.thinp_percent", 95),
        lvm_meta_percent=percent("dm.thinp_metapercent", 1),
        lvm_autoextend_threshold=percent("dm.thinp_autoextend_threshold", 80),
        lvm_autoextend_percent=percent("dm.thinp_autoextend_percent", 20),
        loop_data=size("dm.loopdatasize", 0),
        loop_metadata=size("dm.loopmetadatasize", 2 << 30),
        base=size("dm.basesize", 10 << 30),
        block=size("dm.blocksize", 64 << 10),
        fs=options.get("dm.fs", "") or next((kind for kind in FILE_SYSTEMS if programs.find(f"mkfs.{kind}")), "ext4"),
        mkfs=tuple(options.get("dm.mkfsarg", "").split()),
        mount=tuple(word for word in options.get("dm.mountopt", "").split(",") if word),
        discard=flag("dm.blkdiscard", "dm.loopdatasize" in options),
        deferred_removal=flag("dm.use_deferred_removal", False),
        deferred_deletion=flag("dm.use_deferred_deletion", False),
        min_free_percent=percent("dm.min_free_space", 10),
    )
    _check(settings)
    return settings


def _check(settings: Settings) -> None:
    if settings.fs not in FILE_SYSTEMS:
        raise OptionInvalid(f"dm.fs={settings.fs}: say {' or '.join(FILE_SYSTEMS)}", option="dm.fs")
    if sum(map(bool, (settings.pool, settings.lvm_device, settings.loop_data))) > 1:
        raise OptionInvalid("give one of dm.thinpooldev, dm.directlvm_device and dm.loopdatasize", option="dm.thinpooldev")
    if "/" in settings.pool:
        raise OptionInvalid(f"dm.thinpooldev={settings.pool}: name a device below /dev/mapper", option="dm.thinpooldev")
    if settings.deferred_deletion and not settings.deferred_removal:
        raise OptionInvalid(
            "dm.use_deferred_deletion=true needs dm.use_deferred_removal=true as well", option="dm.use_deferred_deletion"
        )
    if settings.block % (64 << 10) or not 64 << 10 <= settings.block <= 1 << 30:
        raise OptionInvalid("dm.blocksize: a multiple of 64 KiB, at most 1 GiB", option="dm.blocksize")
