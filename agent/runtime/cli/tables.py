"""The command line as data: the union of runc's and crun's commands and options.

An option is (name, letter or "", kind, what it does). Kinds: "flag"; "text"; "number"; "many", which may be repeated.
Imported by the thin start: nothing here may import anything.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    Option = tuple[str, str, str, str]

GLOBAL: tuple[Option, ...] = (
    ("root", "", "text", "directory of container state (default: /run/wharf-runtime)"),
    ("log", "", "text", "where messages go: a file, file:PATH, journald:NAME or syslog:NAME (default: standard error)"),
    ("log-format", "", "text", "text (default) or json"),
    ("log-level", "", "text", "error, warning (default), info or debug"),
    ("debug", "", "flag", "the same as --log-level debug"),
    ("systemd-cgroup", "", "flag", "the same as --cgroup-manager systemd"),
    ("cgroup-manager", "", "text", "cgroupfs (default), systemd or disabled"),
    ("rootless", "", "text", "ignore cgroup permission errors: true, false or auto (default)"),
    ("criu", "", "text", "the criu program (default: criu)"),
    ("help", "h", "flag", "show help"),
    ("version", "v", "flag", "print the version"),
)
HELP: Option = ("help", "h", "flag", "show help")

_MAKE: tuple[Option, ...] = (
    ("bundle", "b", "text", "directory with config.json and the root filesystem (default: the current one)"),
    ("config", "f", "text", "another file than config.json of the bundle"),
    ("console-socket", "", "text", "unix socket that is sent the master of the terminal"),
    ("pid-file", "", "text", "file to write the process id to"),
    ("pidfd-socket", "", "text", "unix socket that is sent a pidfd of the container"),
    ("preserve-fds", "", "number", "pass so many more descriptors on, after 0 to 2 and those of $LISTEN_FDS"),
    ("no-pivot", "", "flag", "do not use pivot_root (for a root filesystem on a ramdisk)"),
    ("no-new-keyring", "", "flag", "keep the caller's session keyring"),
    ("no-subreaper", "", "flag", "do not adopt the container's orphans (nothing here does)"),
)
_RUN: tuple[Option, ...] = (
    *_MAKE,
    ("detach", "d", "flag", "return once the container runs"),
    ("keep", "", "flag", "keep the state after the exit"),
)
_EXEC: tuple[Option, ...] = (
    ("process", "p", "text", "file with an OCI process object"),
    ("detach", "d", "flag", "return once the process runs"),
    ("tty", "t", "flag", "give it a terminal"),
    ("env", "e", "many", "set an environment variable"),
    ("user", "u", "text", "UID[:GID]"),
    ("additional-gids", "g", "many", "additional group ids"),
    ("cwd", "", "text", "directory to start in"),
    ("cap", "c", "many", "add a capability"),
    ("no-new-privs", "", "flag", "set no_new_privs"),
    ("process-label", "", "text", "SELinux label"),
    ("apparmor", "", "text", "AppArmor profile"),
    ("console-socket", "", "text", "unix socket that is sent the master of the terminal"),
    ("pid-file", "", "text", "file to write the process id to"),
    ("pidfd-socket", "", "text", "unix socket that is sent a pidfd of the process"),
    ("preserve-fds", "", "number", "pass so many more descriptors on, after 0 to 2 and those of $LISTEN_FDS"),
    ("cgroup", "", "many", "existing cgroup below the container's: PATH or CONTROLLERS:PATH"),
    ("ignore-paused", "", "flag", "do not refuse a paused container"),
)
_UPDATE: tuple[Option, ...] = (
    ("resources", "r", "text", "file with an OCI resources object, - for standard input; other options are then ignored"),
    ("blkio-weight", "", "number", "block I/O weight, 10 to 1000"),
    ("cpu-period", "", "number", "CFS period, microseconds"),
    ("cpu-quota", "", "number", "CFS quota, microseconds a period"),
    ("cpu-burst", "", "number", "CFS burst, microseconds"),
    ("cpu-share", "", "number", "CPU weight against other containers"),
    ("cpu-rt-period", "", "number", "realtime period, microseconds"),
    ("cpu-rt-runtime", "", "number", "realtime runtime, microseconds a period"),
    ("cpu-idle", "", "number", "SCHED_IDLE for the whole cgroup: 0 or 1"),
    ("cpuset-cpus", "", "text", "CPUs to use"),
    ("cpuset-mems", "", "text", "memory nodes to use"),
    ("memory", "", "text", "limit in bytes, or with a unit (50M); -1 for none"),
    ("memory-reservation", "", "text", "soft limit"),
    ("memory-swap", "", "text", "limit of memory and swap together; -1 for none"),
    ("kernel-memory", "", "text", "ignored: kernels since 5.16 have no such limit"),
    ("kernel-memory-tcp", "", "text", "limit of TCP buffers"),
    ("pids-limit", "", "number", "limit of processes; -1 for none"),
    ("l3-cache-schema", "", "text", "Intel RDT L3 cache schema"),
    ("mem-bw-schema", "", "text", "Intel RDT memory bandwidth schema"),
)
_IMAGE: tuple[Option, ...] = (
    ("image-path", "", "text", "directory of the image (default: checkpoint in the current one)"),
    ("work-path", "", "text", "directory of criu's own files and logs"),
    ("parent-path", "", "text", "image of an earlier pre-dump, relative to the image"),
    ("tcp-established", "", "flag", "allow open TCP connections"),
    ("tcp-skip-in-flight", "", "flag", "leave out TCP connections that are not yet established"),
    ("ext-unix-sk", "", "flag", "allow unix sockets to processes outside"),
    ("shell-job", "", "flag", "allow a container on somebody's terminal"),
    ("lazy-pages", "", "flag", "leave the memory behind, to be fetched when it is touched"),
    ("file-locks", "", "flag", "handle file locks"),
    ("link-remap", "", "flag", "remap unlinked files by a link"),
    ("manage-cgroups-mode", "", "text", "soft (default), full, strict or ignore"),
    ("empty-ns", "", "many", "namespace to leave empty"),
    ("auto-dedup", "", "flag", "drop memory images that a later one replaces"),
)
_CHECKPOINT: tuple[Option, ...] = (
    *_IMAGE,
    ("leave-running", "", "flag", "let the container go on"),
    ("pre-dump", "", "flag", "dump memory only, and let the container go on"),
    ("page-server", "", "text", "ADDRESS:PORT of the server that takes the memory"),
    ("status-fd", "", "number", "descriptor that is told when the lazy server is ready"),
)
_RESTORE: tuple[Option, ...] = (
    *_IMAGE,
    *(option for option in _RUN if option[0] not in ("config", "keep", "pidfd-socket", "preserve-fds", "no-new-keyring")),
    ("lsm-profile", "", "text", "TYPE:NAME of another LSM profile"),
    ("lsm-mount-context", "", "text", "another LSM mount context"),
)

# name: (what it does, operands, fewest, most (-1: any), whether options end at the first operand, options)
COMMANDS: dict[str, tuple[str, str, int, int, bool, tuple[Option, ...]]] = {
    "checkpoint": ("checkpoint a running container", "<container-id>", 1, 1, False, _CHECKPOINT),
    "create": ("create a container", "<container-id>", 1, 1, False, _MAKE),
    "delete": (
        "delete any resources held by a container",
        "<container-id>",
        1,
        1,
        False,
        (
            ("force", "f", "flag", "kill it first; no error if it does not exist"),
            ("regex", "r", "flag", "the operand is a regular expression"),
            ("all", "a", "flag", "every container under --root"),
        ),
    ),
    "events": (
        "display usage and out-of-memory kills, as lines of JSON",
        "<container-id>",
        1,
        1,
        False,
        (
            ("interval", "", "text", "time between two reports (default: 5s)"),
            ("stats", "", "flag", "print one report and end"),
        ),
    ),
    "exec": ("run a program in a container", "<container-id> <command> [args...]", 1, -1, True, _EXEC),
    "features": ("show the enabled features", "", 0, 0, False, ()),
    "kill": (
        "send a signal (default: SIGTERM) to a container's init process",
        "<container-id> [signal]",
        1,
        2,
        False,
        (
            ("all", "a", "flag", "to every process of the container"),
            ("regex", "r", "flag", "the first operand is a regular expression"),
        ),
    ),
    "list": (
        "list the containers under --root",
        "",
        0,
        0,
        False,
        (
            ("format", "f", "text", "table (default) or json"),
            ("quiet", "q", "flag", "ids only"),
        ),
    ),
    "mounts": (
        "change the mounts of a running container",
        "add <container-id> <json> | remove <container-id> <json>",
        3,
        3,
        False,
        (),
    ),
    "pause": ("suspend all processes of a container", "<container-id>", 1, 1, False, ()),
    "ps": (
        "list the processes of a container",
        "<container-id> [ps options]",
        1,
        -1,
        True,
        (("format", "f", "text", "table (default) or json"),),
    ),
    "restore": ("restore a container from a checkpoint", "<container-id>", 1, 1, False, _RESTORE),
    "resume": ("let all processes of a paused container go on", "<container-id>", 1, 1, False, ()),
    "run": ("create, start, wait for and delete a container", "<container-id>", 1, 1, False, _RUN),
    "spec": (
        "write a default config.json",
        "",
        0,
        0,
        False,
        (
            ("bundle", "b", "text", "directory to write it to (default: the current one)"),
            ("file", "f", "text", "another name than config.json"),
            ("rootless", "", "flag", "for a container in a user namespace that maps the caller to root"),
        ),
    ),
    "start": ("run the program of a created container", "<container-id>", 1, 1, False, ()),
    "state": ("print a container's OCI state", "<container-id>", 1, 1, False, ()),
    "update": ("change a container's resource limits", "<container-id>", 1, 1, False, _UPDATE),
}
