"""The machine: qemu's command line, bounded in time, with what it may see of the host."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.guest import initramfs
from tests.guest.kernel import Kernel

HERE = Path(__file__).parent
BUSYBOX = Path("/bin/busybox")
DIRECTORIES = ("bin", "dev", "proc", "sys", "host", "layer", "new", "modules")
# psi: Debian builds pressure accounting but leaves it off. panic=-1 with -no-reboot: a kernel that panics ends qemu
COMMAND_LINE = (
    "console=ttyS0 quiet loglevel=3 panic=-1 psi=1 cgroup_no_v1=all systemd.unified_cgroup_hierarchy=1 systemd.unit=guest.target"
)
MEGABYTES, PROCESSORS = 3072, 2
DISK_BYTES = 4 << 30  # sparse


def boot(kernel: Kernel, shared: Path, seconds: int) -> int:
    """Run `shared`/run.sh in the guest, its output on ours. Returns 0, or timeout(1)'s status: 124 when it took too long."""
    initial = shared / "initramfs"
    initial.write_bytes(_initial(kernel))
    for name in ("guest.service", "guest.target"):
        (shared / name).write_bytes((HERE / name).read_bytes())
    _make_disk(shared / "disk")
    # timeout(1) outlives us if we are killed, and ends the machine
    command = ["timeout", "-k", "10", str(seconds), *_qemu(kernel, initial, shared)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        return process.wait()
    finally:
        process.terminate()
        process.wait()


def _make_disk(image: Path) -> None:
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,nodiscard", str(image)], check=True)


def _initial(kernel: Kernel) -> bytes:
    modules = kernel.early_modules()
    files: dict[str, bytes | Path] = {"init": HERE / "init.sh", "bin/busybox": BUSYBOX}
    files |= {f"modules/{path.name}": path for path in modules}
    files["modules/order"] = "\n".join(path.name for path in modules).encode()
    files["modules/path"] = str(kernel.modules).encode()
    return initramfs.build(files, DIRECTORIES)


def _qemu(kernel: Kernel, initial: Path, shared: Path) -> list[str]:
    return [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio",
        "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", str(PROCESSORS), "-m", str(MEGABYTES),
        "-kernel", str(kernel.image), "-initrd", str(initial), "-append", COMMAND_LINE,
        # multidevs: the host's root has other file systems mounted below it
        "-virtfs", "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap",
        "-virtfs", f"local,path={shared},mount_tag=guest,security_model=none",
        "-drive", f"file={shared}/disk,if=virtio,format=raw,cache=unsafe",
        "-device", "virtio-rng-pci",
    ]  # fmt: skip
