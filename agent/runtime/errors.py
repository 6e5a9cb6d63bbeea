"""Errors of the runtime.

WharfError
  ├── InvalidInput
  │     ├── InvalidConfig     config.json says something that cannot be
  │     └── CgroupRefused     the kernel, or a missing controller, refused a resource limit
  ├── Conflict
  │     └── WrongState        the container is not in the state that the command needs
  └── Internal
        └── RuntimeFailed     the kernel refused a step of the set-up
              └── ExecFailed  execve failed; extra.errno, extra.program, extra.exit_code (127 not found, 126 not executable)
"""

from __future__ import annotations

import errno

from agent.protocol.errors import Conflict, Internal, InvalidInput


class InvalidConfig(InvalidInput):
    code = "invalid_config"


class CgroupRefused(InvalidInput):
    code = "cgroup_refused"


class WrongState(Conflict):
    code = "wrong_state"


class RuntimeFailed(Internal):
    """extra: stage (which step), errno (0 if it was not a system call)."""

    code = "runtime_failed"
    status = 500


class ExecFailed(RuntimeFailed):
    code = "exec_failed"
    status = 400


def exit_code(number: int) -> int:
    """The shell's number for an execve that failed with errno `number`."""
    return 127 if number in (errno.ENOENT, errno.ENOTDIR) else 126
