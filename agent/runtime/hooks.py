"""OCI hooks: programs that run at six points of a container's life, with its state as JSON on standard input."""

from __future__ import annotations

import os
import select

from agent.runtime.errors import RuntimeFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Mapping
    from typing import Any
else:
    import _signal as signal  # the signal module imports enum: 1 MB in the supervisor


OUTPUT = ("run.oci.hooks.stdout", "run.oci.hooks.stderr")  # crun's annotations: files to which hooks' output is added


def run(hooks: list[dict[str, Any]], point: str, state: dict[str, Any], annotations: Mapping[str, str] | None = None) -> None:
    """One after the other; the first that fails or outlives its timeout raises RuntimeFailed."""
    import json

    text = json.dumps(state).encode()
    for hook in hooks:
        _run_one(hook, point, text, annotations or {})


def run_all(hooks: list[dict[str, Any]], point: str, state: dict[str, Any]) -> list[str]:
    """Every one, whatever becomes of those before it (spec, poststop). Returns what failed."""
    failures = []
    for hook in hooks:
        try:
            run([hook], point, state, state["annotations"])
        except RuntimeFailed as error:
            failures.append(error.detail)
    return failures


def _run_one(hook: dict[str, Any], point: str, state: bytes, annotations: Mapping[str, str]) -> None:
    path = hook["path"]
    opened = [os.memfd_create("hook-state", os.MFD_CLOEXEC)]
    try:
        os.write(opened[0], state)
        os.lseek(opened[0], 0, os.SEEK_SET)
        actions: list[tuple[int, int, int]] = [(os.POSIX_SPAWN_DUP2, opened[0], 0)]
        for number, key in enumerate(OUTPUT, 1):
            if annotations.get(key):
                opened.append(os.open(annotations[key], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o700))
                actions.append((os.POSIX_SPAWN_DUP2, opened[-1], number))
        env = dict(item.split("=", 1) for item in hook.get("env") or () if item.find("=") > 0)
        pid = os.posix_spawn(
            path, hook.get("args") or [path], env, file_actions=actions, setsigmask=[], setsigdef=[signal.SIGPIPE]
        )
    except OSError as error:
        raise RuntimeFailed(
            f"{point} hook {path} cannot be started: {error}", stage=f"hook {point}", errno=error.errno
        ) from error
    finally:
        for fd in opened:
            os.close(fd)
    code = _wait(pid, hook.get("timeout"))
    if code is None:
        detail = f"{point} hook {path} ran longer than its timeout of {hook['timeout']} s and was killed"
        raise RuntimeFailed(detail, stage=f"hook {point}", errno=0)
    if code:
        how = f"failed with exit status {code}" if code > 0 else f"was killed by signal {-code}: {_signal_text(-code)}"
        raise RuntimeFailed(f"error running hook {point}: {path} {how}", stage=f"hook {point}", errno=0)


def _signal_text(number: int) -> str:
    """In lower case, as Go's, which runc's callers see."""
    return (signal.strsignal(number) or "unknown signal").lower()


def _wait(pid: int, timeout: float | None) -> int | None:
    """Exit status, None if the time ran out."""
    pidfd = os.pidfd_open(pid)
    try:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        in_time = bool(poller.poll(None if timeout is None else timeout * 1000))
        if not in_time:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(pidfd)
    return os.waitstatus_to_exitcode(status) if in_time else None
