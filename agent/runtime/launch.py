"""From a set-up child to the user's program: limits, directory, terminal, identity, capabilities, filter, execve.

The order is fixed (capabilities(7), seccomp(2)): bounding set, KEEPCAPS, groups, ids, capability sets, no_new_privs, filter.
Without no_new_privs a filter and Landlock need CAP_SYS_ADMIN: that one is held until they are in and goes with the last capset.
"""

from __future__ import annotations

import errno
import os
import stat

from agent.runtime import caps
from agent.runtime.errors import InvalidConfig, exit_code
from agent.runtime.targets import directory_in
from agent.sys import cred, process, tty
from agent.sys import mountapi as api
from agent.sys import seccomp as seccomp_kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.runtime.plan import Plan
    from agent.runtime.processplan import ProcessPlan

DEFAULT_PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


_callers_umask = 0o022  # as `isolate` found it


def isolate(plan: ProcessPlan, dumpable: bool = False) -> None:
    """First thing in any child: no inherited signal handlers, not readable by /proc, own session. `dumpable`: not that yet, for
    a user who is not root has to write the id maps there, and is refused the files of a process that is not."""
    import gc

    gc.disable()  # a collection would write to, and so copy, every page shared with the parent
    process.reset_signals()
    if not dumpable:
        process.prctl(process.PR_SET_DUMPABLE, 0)
    os.setsid()
    global _callers_umask
    _callers_umask = os.umask(0)
    if plan.oom_score_adj is not None:
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        os.write(fd, str(plan.oom_score_adj).encode())
        os.close(fd)


def limits(plan: ProcessPlan) -> None:
    for resource, soft, hard in plan.rlimits:
        process.set_rlimit(resource, soft, hard)
    if plan.io_priority is not None:
        process.ioprio_set(plan.io_priority)
    if plan.scheduler is not None:
        process.sched_setattr(plan.scheduler)
    os.umask(_callers_umask if plan.umask is None else plan.umask)


def keyring() -> None:
    """A session keyring that is neither the caller's nor one that somebody made beforehand under a name of ours."""
    try:
        process.new_session_keyring()
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOSYS, errno.EDQUOT):  # the process then has none of its own
            raise


def machine(plan: Plan) -> None:
    """What the container's every process has of its own: execution domain and NUMA policy."""
    if plan.personality is not None:
        process.personality(plan.personality)
    if plan.memory_policy is not None:
        process.set_memory_policy(*plan.memory_policy)


def enter_directory(path: bytes, create: bool) -> None:
    """chdir without magic links: /proc/self/fd/N could be a directory of the host (CVE-2024-21626)."""

    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    relative = path.strip(b"/") or b"."
    try:
        fd = directory_in(root, relative) if create else api.open_in(root, relative, os.O_PATH | os.O_DIRECTORY)
    except OSError as error:
        raise InvalidConfig(f"cwd {path.decode()!r} cannot be entered: {os.strerror(error.errno or 0)}") from error
    finally:
        os.close(root)
    os.fchdir(fd)
    os.close(fd)
    if not os.getcwdb().startswith(b"/"):
        raise InvalidConfig(f"cwd {path.decode()!r} is outside the container")


def wire_stdio(plan: ProcessPlan, stdio: tuple[int, int, int], slave: int) -> None:
    """Put the streams on 0, 1, 2, owned by the user so that /dev/stdout can be opened again; a terminal becomes controlling."""
    if slave >= 0:
        if plan.console_size:
            tty.resize(slave, *plan.console_size)
        tty.make_controlling(slave)
        os.fchown(slave, plan.uid, -1)
        stdio = (slave, slave, slave)
    # out of the way first: a stream may itself be numbered 0, 1 or 2
    copies = [os.dup(fd) for fd in stdio]
    for number, copy in enumerate(copies):
        os.dup2(copy, number, inheritable=True)
        os.close(copy)
        what = os.fstat(number)
        if stat.S_ISFIFO(what.st_mode) and what.st_uid != plan.uid:
            try:
                os.fchown(number, plan.uid, -1)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.EROFS, errno.EINVAL):
                    raise


def with_home(plan: ProcessPlan) -> list[bytes]:
    """The environment, with HOME from the container's own /etc/passwd when it is not given."""
    if any(item.startswith(b"HOME=") for item in plan.env):
        return plan.env
    home = b"/"
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = api.open_in(root, b"etc/passwd", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return [*plan.env, b"HOME=" + home]  # an image without users
    finally:
        os.close(root)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        wanted = b"%d" % plan.uid
        for line in os.read(fd, 1 << 20).split(b"\n"):
            fields = line.split(b":")
            if len(fields) > 5 and fields[2] == wanted:
                home = fields[5] or home
                break
    os.close(fd)
    return [*plan.env, b"HOME=" + home]


def drop(plan: ProcessPlan, keep_admin: bool, groups_denied: bool = False) -> None:
    """Become the user with the plan's capabilities. `keep_admin`: hold CAP_SYS_ADMIN until the filter is loaded.
    `groups_denied`: setgroups(2) is denied in this user namespace, so the caller's groups stay."""
    if groups_denied and plan.groups:
        raise InvalidConfig("process.user.additionalGids cannot be had: no range of group ids is mapped; see /etc/subgid")
    sets = plan.caps
    grantable = cred.permitted_capabilities()
    cred.drop_bounding(sets.bounding, sets.last)
    process.prctl(process.PR_SET_KEEPCAPS, 1)
    cred.set_ids(plan.uid, plan.gid, None if groups_denied else plan.groups)
    if keep_admin:
        held = (sets.permitted | caps.SYS_ADMIN) & grantable
        cred.set_capabilities(held, held, sets.inheritable & grantable)
    else:
        final_capabilities(plan, grantable)
    if plan.no_new_privs:
        process.prctl(process.PR_SET_NO_NEW_PRIVS, 1)


def final_capabilities(plan: ProcessPlan, grantable: int) -> None:
    """What the supervisor itself does not hold cannot be given: left out, as runc does."""
    sets = plan.caps
    permitted = sets.permitted & grantable
    inheritable = sets.inheritable & permitted
    cred.set_capabilities(sets.effective & permitted, permitted, inheritable)
    cred.set_ambient(sets.ambient & permitted & inheritable)


def execute(
    plan: ProcessPlan,
    seccomp: seccomp_kernel.Filter | None,
    flags: int,
    env: list[bytes],
    keep_fds: int,
    listener: Callable[[int], None],
    keep_admin: bool,
    before: Callable[[], None] | None = None,
) -> int:
    """Load the filter and exec. Returns only on failure, with the errno of execve. `keep_fds` descriptors stay open.

    `keep_admin`: as `drop` was told. `before` runs under the filter, as the program will.
    """
    image = process.ExecImage(plan.args, env)
    candidates = search(plan.args[0], env)
    process.close_on_exec_from(3 + keep_fds)
    grantable = cred.permitted_capabilities() if keep_admin else 0
    if seccomp is not None:
        fd = seccomp.load(flags)
        if flags & seccomp_kernel.FLAG_NEW_LISTENER:
            listener(fd)
    if keep_admin:
        final_capabilities(plan, grantable)
    if before is not None:
        before()
    failure = errno.ENOENT
    for path in candidates:
        number = image.execve(path)
        if number == errno.EACCES or failure != errno.EACCES:
            failure = number
        if number not in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
            break
    return failure


def look_up(name: bytes, env: list[bytes]) -> int:
    """0, or the errno that execve would give for want of such a program, asked as the user that we are by now."""
    failure = errno.ENOENT
    for path in search(name, env):
        try:
            regular = stat.S_ISREG(os.stat(path).st_mode)
            if regular and os.access(path, os.X_OK, effective_ids=True):
                return 0
            failure = errno.EACCES
        except OSError as error:
            if error.errno == errno.EACCES:
                failure = errno.EACCES
    return failure


def search(name: bytes, env: list[bytes]) -> list[bytes]:
    """Where execvp would look: only a name without a slash is searched on PATH."""
    if b"/" in name:
        return [name]
    path = next((item[5:] for item in env if item.startswith(b"PATH=")), DEFAULT_PATH)
    return [(directory or b".") + b"/" + name for directory in path.split(b":")]


def exit_after(number: int) -> None:
    """End as a shell would after a failed execve."""
    os._exit(exit_code(number))
