"""OCI hooks: programs that run at six points of a container's life, with its state as JSON on standard input."""

from __future__ import annotations

import os
import select
import time

from agent.runtime.errors import RuntimeFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Iterable, Mapping
    from typing import Any
else:
    import _signal as signal  # the signal module imports enum: 1 MB in the supervisor


OUTPUT = ("run.oci.hooks.stdout", "run.oci.hooks.stderr")  # crun's annotations: files to which hooks' output is added


class Series:
    """Hooks one after the other, each a child of ours; whoever steps may do other things while one runs.

    `step` has something to do when `pidfd` (-1 between two of them) is readable, or `due` (time.monotonic; None: never) has come.
    """

    __slots__ = ("_annotations", "_failures", "_hook", "_late", "_left", "_point", "_state", "due", "pid", "pidfd")

    def __init__(
        self, hooks: Iterable[tuple[str, dict[str, Any]]], state: dict[str, Any], annotations: Mapping[str, str]
    ) -> None:
        """`hooks`: (point, hook). Nothing runs before the first step."""
        import json

        self._left = list(hooks)
        self._state = json.dumps(state).encode() if self._left else b""
        self._annotations = annotations
        self._failures: list[str] | None = None
        self._late = False
        self.pid = self.pidfd = -1
        self.due: float | None = None

    @classmethod
    def every(cls, hooks: Iterable[tuple[str, dict[str, Any]]], state: dict[str, Any]) -> Series:
        """One that goes on after a hook that failed (spec, poststop). What failed is in `failures`."""
        series = cls(hooks, state, state["annotations"])
        series._failures = []
        return series

    @property
    def failures(self) -> list[str]:
        return self._failures or []

    def step(self) -> bool:
        """Whether all have ended. Raises RuntimeFailed for the first that failed or outlived its timeout; none runs then."""
        while True:
            try:
                if self.pidfd >= 0 and not self._over():
                    return False
                if not self._left:
                    return True
                self._begin(*self._left.pop(0))
            except RuntimeFailed as error:
                if self._failures is None:
                    raise
                self._failures.append(error.detail)

    def wait(self) -> None:
        """Return when `step` has something to do."""
        poller = select.poll()
        poller.register(self.pidfd, select.POLLIN)
        poller.poll(None if self.due is None else max(0.0, self.due - time.monotonic()) * 1000)

    def finish(self) -> None:
        """Step to the end."""
        while not self.step():
            self.wait()

    def abandon(self) -> None:
        """Kill the one that runs, and begin no other. Whoever collects our children reaps it."""
        self._left = []
        if self.pidfd >= 0:
            self._kill()
            self._forget()

    def _begin(self, point: str, hook: dict[str, Any]) -> None:
        self._point, self._hook = point, hook
        self.pid = _spawn(hook, point, self._state, self._annotations)
        self.pidfd = os.pidfd_open(self.pid)
        timeout = hook.get("timeout")
        self.due = None if timeout is None else time.monotonic() + timeout

    def _over(self) -> bool:
        """Whether the one that ran has ended. Raises RuntimeFailed when it failed."""
        found = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
        if found is None:
            if self.due is not None and time.monotonic() >= self.due:
                self._kill()
                self._late, self.due = True, None
            return False
        late, self._late = self._late, False
        self._forget()
        path = self._hook["path"]
        if late:
            detail = f"{self._point} hook {path} ran longer than its timeout of {self._hook['timeout']} s and was killed"
            raise RuntimeFailed(detail, stage=f"hook {self._point}", errno=0)
        if found.si_status:
            number = found.si_status
            how = (
                f"failed with exit status {number}"
                if found.si_code == os.CLD_EXITED
                else f"was killed by signal {number}: {_signal_text(number)}"
            )
            raise RuntimeFailed(f"error running hook {self._point}: {path} {how}", stage=f"hook {self._point}", errno=0)
        return True

    def _kill(self) -> None:
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass  # ended just now, or reaped

    def _forget(self) -> None:
        os.close(self.pidfd)
        self.pid = self.pidfd = -1
        self.due = None


def run(hooks: list[dict[str, Any]], point: str, state: dict[str, Any], annotations: Mapping[str, str] | None = None) -> None:
    """One after the other; the first that fails or outlives its timeout raises RuntimeFailed."""
    Series(at(point, hooks), state, annotations or {}).finish()


def run_all(hooks: list[dict[str, Any]], point: str, state: dict[str, Any]) -> list[str]:
    """Every one, whatever becomes of those before it (spec, poststop). Returns what failed."""
    series = Series.every(at(point, hooks), state)
    series.finish()
    return series.failures


def at(point: str, hooks: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Those of one point, as a Series takes them."""
    return [(point, hook) for hook in hooks]


def _spawn(hook: dict[str, Any], point: str, state: bytes, annotations: Mapping[str, str]) -> int:
    """Its pid. Raises RuntimeFailed."""
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
        return os.posix_spawn(
            path, hook.get("args") or [path], env, file_actions=actions, setsigmask=[], setsigdef=[signal.SIGPIPE]
        )
    except OSError as error:
        raise RuntimeFailed(
            f"{point} hook {path} cannot be started: {error}", stage=f"hook {point}", errno=error.errno
        ) from error
    finally:
        for fd in opened:
            os.close(fd)


def _signal_text(number: int) -> str:
    """In lower case, as Go's, which runc's callers see."""
    return (signal.strsignal(number) or "unknown signal").lower()
