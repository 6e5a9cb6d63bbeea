"""What a parent and the child that it made say to each other, in steps: the parent may do other things between two messages.

Each has `fileno()`, readable when `step` has something to do; `due`, time.monotonic s at which it has even so, or None; and
`hook`, the hooks that run meanwhile, or None. All three change with a step. The channel of whoever steps from a loop does not
wait (Channel.unblock); anybody else calls `finish`.
"""

from __future__ import annotations

import os

from agent.runtime import channel as wire
from agent.runtime import hooks, netdevices, spec, userns
from agent.runtime.errors import ExecFailed, RuntimeFailed, exit_code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from agent.runtime.channel import Channel
    from agent.runtime.container import Init
    from agent.runtime.plan import Plan

    Message = tuple[bytes, bytes, list[int]]


class Steps:
    """A conversation, and the hooks that are due within it."""

    __slots__ = ("_channel", "_init", "_plan", "hook")

    def __init__(self, plan: Plan, init: Init, channel: Channel) -> None:
        self._plan = plan
        self._init = init
        self._channel = channel
        self.hook: hooks.Series | None = None

    def fileno(self) -> int:
        return self._channel.fileno() if self.hook is None else self.hook.pidfd

    @property
    def due(self) -> float | None:
        return None if self.hook is None else self.hook.due

    def step(self) -> bool:
        """Do what can be done now; whether it is over. Raises RuntimeFailed: what the child reported, or its death."""
        while True:
            try:
                if self.hook is not None:
                    if not self.hook.step():
                        return False
                    self.hook = None
                    over = self._after_hooks()
                else:
                    over = self._take(self._next())
            except BlockingIOError:
                return False
            except ConnectionError as error:  # gone, perhaps with our last word unread
                raise self._died() from error
            if over:
                return True

    def finish(self) -> None:
        """Step to the end."""
        while not self.step():
            if self.hook is not None:
                self.hook.wait()

    def abandon(self) -> None:
        """Say no more; kill the hook that runs. The child sees the end of the channel, and ends."""
        if self.hook is not None:
            self.hook.abandon()
            self.hook = None
        self._channel.close()

    def _next(self) -> Message:
        return self._channel.receive()

    def _take(self, message: Message) -> bool:
        raise NotImplementedError

    def _after_hooks(self) -> bool:
        raise NotImplementedError

    def _died(self) -> RuntimeFailed:
        raise NotImplementedError


class SetUp(Steps):
    """Answer the child until it is ready (R). `staged`: a first process names the one that counts (P), and is gone.

    `reaps`: wait for the end of that first process; else whoever collects strays does.
    """

    __slots__ = ("_awaits_second", "_early", "_reaps")

    def __init__(self, plan: Plan, init: Init, channel: Channel, *, staged: bool, reaps: bool = True) -> None:
        super().__init__(plan, init, channel)
        self._awaits_second = staged
        self._reaps = reaps
        self._early: list[Message] = []  # what the second said before the first had named it

    def _next(self) -> Message:
        while self._awaits_second:
            message = self._channel.receive()
            if message[0] == b"P":
                self._meet(message)
                break
            self._early.append(message)
            self._awaits_second = bool(message[0])  # at its end the first has failed; what it said before says why
        return self._early.pop(0) if self._early else self._channel.receive()

    def _meet(self, message: Message) -> None:
        self._awaits_second = False
        if self._reaps:
            reap(self._init.pidfd)
        else:
            os.close(self._init.pidfd)
        self._init.pid, self._init.pidfd = int(message[1]), message[2][0]

    def _take(self, message: Message) -> bool:
        kind, payload, fds = message
        plan, init, channel = self._plan, self._init, self._channel
        if kind == b"R":
            return True
        if kind == b"C":
            init.console_fd = fds[0]
        elif kind == b"U":
            userns.serve(plan, init.pid, channel)
        elif kind == b"N":
            netdevices.move(plan.net_devices, init.pid)
            channel.send(b"G")
        elif kind == b"H":
            due = [pair for point in ("prestart", "createRuntime") for pair in hooks.at(point, plan.hooks.get(point, []))]
            self.hook = hooks.Series(due, state_of(plan, "created", init.pid), plan.annotations)
        elif kind == b"E":
            raise failure(payload, plan.process.args[0], plan.id)
        else:
            raise self._died()
        return False

    def _after_hooks(self) -> bool:
        self._channel.send(b"G")
        return False

    def _died(self) -> RuntimeFailed:
        return RuntimeFailed(
            "the container's process died during its set-up; a memory limit too small for it, or a kill, is the usual cause",
            stage="set-up",
            errno=0,
        )


class Start(Steps):
    """Let a child that is ready exec. The end of the channel says that it has; poststart hooks run then."""

    __slots__ = ()

    def __init__(self, plan: Plan, init: Init, channel: Channel) -> None:
        """Raises RuntimeFailed when it is dead; the channel is ours, and closed in every case."""
        super().__init__(plan, init, channel)
        try:
            channel.send(b"S")
        except BrokenPipeError as error:
            channel.close()
            raise self._died() from error

    def step(self) -> bool:
        try:
            return super().step()
        except BaseException:
            self._channel.close()
            raise

    def _take(self, message: Message) -> bool:
        kind, payload, _ = message
        plan = self._plan
        if kind == b"L":
            self._init.deliver_listener(int(payload))
            self._channel.send(b"S")
            return False
        self._channel.close()
        if kind == b"E":
            raise failure(payload, plan.process.args[0], plan.id)
        if "poststart" not in plan.hooks:
            return True
        due = hooks.at("poststart", plan.hooks["poststart"])
        self.hook = hooks.Series(due, state_of(plan, "running", self._init.pid), plan.annotations)
        return False

    def _after_hooks(self) -> bool:
        return True

    def _died(self) -> RuntimeFailed:
        return RuntimeFailed("the container's process died before it was started", stage="start", errno=32)


class Aftermath:
    """spec, lifecycle: a container that a hook stops goes on as after a delete, so its poststop hooks run, whatever they do."""

    __slots__ = ("_plan", "hook")

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.hook = hooks.Series.every(hooks.at("poststop", plan.hooks["poststop"]), state_of(plan, "stopped", 0))

    def fileno(self) -> int:
        return self.hook.pidfd

    @property
    def due(self) -> float | None:
        return self.hook.due

    def step(self) -> bool:
        """Whether all have run. What failed is among the plan's warnings then."""
        if not self.hook.step():
            return False
        self._plan.warnings += self.hook.failures
        return True

    def abandon(self) -> None:
        self.hook.abandon()


def failure(payload: bytes, program: bytes, id: str) -> RuntimeFailed:
    """The error that the child reported."""
    stage, number, text = wire.unpack_failure(payload)
    if stage == "exec":
        name = program.decode(errors="replace")
        detail = f"cannot run {name!r}: {text}"
        return ExecFailed(detail, stage=stage, errno=number, exit_code=exit_code(number), program=name)
    return RuntimeFailed(f"container {id} failed at {stage}: {text}", stage=stage, errno=number)


def reap(pidfd: int) -> None:
    """Wait for a child that is ending, and close its pidfd."""
    try:
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    except ChildProcessError:
        pass  # reaped by somebody else
    os.close(pidfd)


def state_of(plan: Plan, status: str, pid: int) -> dict[str, Any]:
    """The OCI state object (runtime-spec, "State")."""
    return oci_state(plan.id, status, pid, plan.bundle, plan.annotations)


def oci_state(id: str, status: str, pid: int, bundle: str, annotations: dict[str, str]) -> dict[str, Any]:
    """The same of a container whose plan is not at hand."""
    return {"ociVersion": spec.VERSION, "id": id, "status": status, "pid": pid, "bundle": bundle, "annotations": annotations}
