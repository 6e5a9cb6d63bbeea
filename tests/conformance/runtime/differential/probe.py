"""What a process sees of its container, as one flat JSON object of strings on standard output. Runs inside, without our packages.

python -I -S probe.py CALLS          CALLS is a JSON file: [name, number, [arguments]] of each system call to try
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import resource
import signal
import stat
import sys
from collections.abc import Iterator

# of this process at this moment, not of the container
VOLATILE = (
    "Name Umask State Tgid Ngid Pid PPid TracerPid FDSize Threads SigQ SigPnd ShdPnd voluntary_ctxt_switches"
    " nonvoluntary_ctxt_switches Mems_allowed Cpus_allowed"
)
NETWORK = (
    "ipv4/ip_unprivileged_port_start",
    "ipv4/ping_group_range",
    "ipv4/ip_forward",
    "core/somaxconn",
    "ipv6/conf/all/disable_ipv6",
)
KERNEL = "domainname hostname msgmax msgmnb msgmni sem shmall shmmax shmmni shm_rmid_forced"
LIMITS = (
    "pids.max memory.limit_in_bytes memory.max memory.swappiness memory.oom_control cpu.shares cpu.weight cpu.cfs_quota_us"
    " cpu.max cpuset.cpus cpuset.mems devices.list blkio.weight notify_on_release freezer.self_freezing cgroup.type"
)
PRCTL = {
    "PDEATHSIG": 2,
    "DUMPABLE": 3,
    "KEEPCAPS": 7,
    "SECUREBITS": 27,
    "TIMERSLACK": 30,
    "CHILD_SUBREAPER": 37,
    "THP_DISABLE": 42,
    "IO_FLUSHER": 58,
}
ADDRESSES = (2, 37)  # these write their answer to a pointer
FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def main() -> None:
    found: dict[str, str] = {}
    for part in (
        status,
        mounts,
        descriptors,
        devices,
        nodes,
        cgroups,
        namespaces,
        limits,
        process,
        sysctls,
        kernel_files,
        network,
    ):
        found.update(part())
    with open(sys.argv[1], encoding="utf-8") as file:
        for name, number, arguments in json.load(file):
            found[f"syscall {name}"] = tried(number, arguments)
    found.update(foreign())
    print(json.dumps(found))


def read(path: str) -> str:
    """A file's text, or how reading it failed."""
    try:
        fd = os.open(path, FLAGS)
    except OSError as error:
        return name_of(error.errno)
    try:
        return os.read(fd, 65536).decode(errors="replace").strip()
    except OSError as error:
        return name_of(error.errno)
    finally:
        os.close(fd)


def name_of(number: int | None) -> str:
    return errno.errorcode.get(number or 0, str(number))


def status() -> Iterator[tuple[str, str]]:
    for line in read("/proc/self/status").splitlines():
        name, _, value = line.partition(":")
        if name not in VOLATILE.split() and not name.startswith(("Vm", "Rss", "Hugetlb")):
            yield f"status {name}", " ".join(value.split())


def mounts() -> Iterator[tuple[str, str]]:
    """Of each mount point: in what order it lies there, what it is, its flags, its filesystem's options, its propagation."""
    seen: dict[str, int] = {}
    for line in read("/proc/self/mountinfo").splitlines():
        left, right = line.split(" - ")
        fields, (kind, source, options) = left.split(), right.split(" ", 2)
        point = fields[4]
        seen[point] = seen.get(point, 0) + 1
        name = f"mount {point}" + (f" ({seen[point]})" if seen[point] > 1 else "")
        yield f"{name} is", f"{kind} {source} {fields[3]}"
        yield f"{name} flags", fields[5]
        yield f"{name} options", options
        yield f"{name} propagation", " ".join(word.partition(":")[0] for word in fields[6:])


def descriptors() -> Iterator[tuple[str, str]]:
    for number in sorted(os.listdir("/proc/self/fd"), key=int):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue  # that of the listing itself
        yield f"fd {number}", target.partition(":")[0]


def devices() -> Iterator[tuple[str, str]]:
    for place, folders, files in os.walk("/dev"):
        for name in sorted(folders + files):
            path = f"{place}/{name}"
            info = os.lstat(path)
            words = [stat.filemode(info.st_mode), str(info.st_uid), str(info.st_gid)]
            if stat.S_ISLNK(info.st_mode):
                words = ["->", os.readlink(path)]
            elif not stat.S_ISDIR(info.st_mode):
                words.append(f"{os.major(info.st_rdev)}:{os.minor(info.st_rdev)}")
            yield path, " ".join(words)


def nodes() -> Iterator[tuple[str, str]]:
    """Device nodes that stand in the image: which the device controller lets be opened."""
    for name in sorted(os.listdir("/nodes")):
        for word, flag in (("read", os.O_RDONLY), ("write", os.O_WRONLY)):
            try:
                os.close(os.open(f"/nodes/{name}", flag | os.O_NONBLOCK | os.O_NOCTTY))
                yield f"open {name} {word}", "ok"
            except OSError as error:
                yield f"open {name} {word}", name_of(error.errno)


def cgroups() -> Iterator[tuple[str, str]]:
    for line in read("/proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        yield f"cgroup of {names or 'v2'}", path
    for place, folders, files in os.walk("/sys/fs/cgroup"):
        if place.count("/") > 4:
            folders[:] = []
        for name in sorted(set(files) & set(LIMITS.split())):
            yield f"{place}/{name}", "; ".join(read(f"{place}/{name}").splitlines())
        if "cgroup.procs" in files:
            yield f"{place} takes a child", made(f"{place}/probe")


def made(path: str) -> str:
    try:
        os.mkdir(path)
    except OSError as error:
        return name_of(error.errno)
    os.rmdir(path)
    return "yes"


def namespaces() -> Iterator[tuple[str, str]]:
    for name in sorted(os.listdir("/proc/self/ns")):
        yield f"namespace {name}", os.readlink(f"/proc/self/ns/{name}")
    for name in ("uid_map", "gid_map", "setgroups", "timens_offsets"):
        yield f"namespace {name}", "; ".join(" ".join(line.split()) for line in read(f"/proc/self/{name}").splitlines())


def limits() -> Iterator[tuple[str, str]]:
    for name in sorted(dir(resource)):
        if name.startswith("RLIMIT_"):
            yield f"limit {name[7:]}", "{} {}".format(*resource.getrlimit(getattr(resource, name)))


def process() -> Iterator[tuple[str, str]]:
    environment = read("/proc/self/environ").strip("\0").split("\0")
    yield "environment", " ".join(environment)
    yield "cwd", os.getcwd()
    yield "umask", oct(os.umask(0))
    yield "ids", " ".join(map(str, (os.getpid(), os.getppid(), os.getsid(0), os.getpgid(0))))
    yield "groups", " ".join(map(str, os.getgroups()))
    uname = os.uname()
    yield "host name", uname.nodename
    yield "scheduler", f"{os.sched_getscheduler(0)} nice {os.getpriority(os.PRIO_PROCESS, 0)}"
    yield "processors", str(sorted(os.sched_getaffinity(0)))
    yield "io priority", str(libc.syscall(252, 1, 0))
    for name in ("oom_score_adj", "coredump_filter", "timerslack_ns", "loginuid", "sessionid", "personality", "attr/current"):
        yield f"process {name}", read(f"/proc/self/{name}")
    yield "processes seen", " ".join(name for name in os.listdir("/proc") if name.isdigit())
    for name, number in PRCTL.items():
        answer = ctypes.c_int(0)
        value = libc.prctl(number, ctypes.byref(answer) if number in ADDRESSES else 0, 0, 0, 0)
        yield f"prctl {name}", str(answer.value if number in ADDRESSES else value)
    yield "keyring", keyring()


def keyring() -> str:
    """Of the session, KEYCTL_DESCRIBE: kind;uid;gid;permissions;name."""
    text = ctypes.create_string_buffer(200)
    size = libc.syscall(250, 6, -3, text, len(text), 0)
    return text.value.decode() if size > 0 else name_of(ctypes.get_errno())


def sysctls() -> Iterator[tuple[str, str]]:
    for name in [f"kernel/{name}" for name in KERNEL.split()] + [f"net/{name}" for name in NETWORK]:
        yield f"sysctl {name}", " ".join(read(f"/proc/sys/{name}").split())
    for place in ("fs/mqueue", "user"):
        for name in sorted(os.listdir(f"/proc/sys/{place}")):
            yield f"sysctl {place}/{name}", read(f"/proc/sys/{place}/{name}")


def kernel_files() -> Iterator[tuple[str, str]]:
    """Which of the kernel's files can be read and opened for writing; nothing is written."""
    for name in sorted(os.listdir("/proc")):
        path = f"/proc/{name}"
        if os.path.isdir(path):
            if not name.isdigit():
                yield path, "empty directory" if not os.listdir(path) else "directory"
            continue
        yield path, f"read {reads(path)}, write {opens(path)}"
    for place in ("/proc/sys", "/proc/self", "/proc/bus", "/proc/fs", "/proc/irq"):
        yield f"{place} writable", " ".join(writable(place))
    yield "/sys writable", " ".join(name for name in writable("/sys", deep=5) if not name.startswith("/sys/fs/cgroup"))
    for path in (
        "/sys/firmware",
        "/sys/devices/virtual/powercap",
        "/sys/devices/system/cpu/cpu0/thermal_throttle",
        "/sys/kernel/security",
    ):
        yield path, "empty" if os.path.isdir(path) and not os.listdir(path) else "not empty" if os.path.isdir(path) else "absent"


def reads(path: str) -> str:
    if path == "/proc/kcore":
        return "ok" if os.access(path, os.R_OK) and os.path.getsize(path) else "empty"
    try:
        fd = os.open(path, FLAGS)
    except OSError as error:
        return name_of(error.errno)
    try:
        return "ok" if os.read(fd, 1) else "empty"
    except OSError as error:
        return name_of(error.errno)
    finally:
        os.close(fd)


def opens(path: str) -> str:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY))
    except OSError as error:
        return name_of(error.errno)
    return "ok"


def writable(top: str, deep: int = 9) -> Iterator[str]:
    """What lies below `top` on a mount that can be written."""
    for place, folders, files in os.walk(top):
        if place.count("/") > deep or place.startswith("/proc/self/task"):
            folders[:] = []
        for name in sorted(files):
            path = f"{place}/{name}"
            if not os.path.islink(path) and os.access(path, os.W_OK):
                yield path


def network() -> Iterator[tuple[str, str]]:
    for line in read("/proc/net/dev").splitlines()[2:]:
        name = line.split(":")[0].strip()
        yield f"interface {name}", read(f"/sys/class/net/{name}/flags")
    yield "routes", str(len(read("/proc/net/fib_trie").splitlines()))


def tried(number: int, arguments: list[int]) -> str:
    """The call's end in a process of its own: ok, an error's name, or the signal that it died of."""
    child = os.fork()
    if child == 0:
        signal.alarm(5)
        result = libc.syscall(number, *(ctypes.c_long(value) for value in arguments))
        os._exit(ctypes.get_errno() if result == -1 else 0)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return f"signal {os.WTERMSIG(status)}"
    return name_of(os.WEXITSTATUS(status)) if os.WEXITSTATUS(status) else "ok"


def foreign() -> Iterator[tuple[str, str]]:
    """getpid by another architecture's door: i386 (int 0x80) and x32."""
    if os.uname().machine != "x86_64":
        return
    code = b"\xb8\x14\x00\x00\x00\xcd\x80\x48\x98\xc3"  # mov eax,20; int 0x80; cdqe; ret
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    call = ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    child = os.fork()
    if child == 0:
        os._exit(0 if call() == os.getpid() else 1)
    status = os.waitpid(child, 0)[1]
    yield (
        "syscall i386 getpid",
        f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else ["ok", "wrong"][os.WEXITSTATUS(status)],
    )
    yield "syscall x32 getpid", tried(0x40000000 | 39, [])


main()
