"""What travels on a link, version 1. Both ends encode and decode with `agent.protocol.codec`; unknown fields are ignored.

A message has a `type` (the class's `TYPE`), its fields, and for sequenced ones the `seq` and `ack` that `agent.protocol.wire`
adds. Sequenced messages are delivered at least once and in order, across reconnects of the same link session; the others
(hello, welcome, heartbeat, stream data) live and die with their websocket.

Nothing here is an order to act at once: assignments are desired state (levels), `Action` is journalled by its id so that a repeat
returns the stored result. Who may send what is in `SENT_BY`; an end that receives a message of its own side ends the link.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from agent.protocol.codec import InvalidSpec
from agent.protocol.spec import ContainerSpec, NetworkSpec
from agent.protocol.states import TaskState

VERSION = 1
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
AGENT = "agent"
CONTROL = "control"


def _check_id(text: str, name: str) -> None:
    """The agent keeps a file by this id: it must not name another place."""
    if not _ID.fullmatch(text):
        raise InvalidSpec(f"{name}: {text[:40]!r} is no id", field=name)


@dataclass(frozen=True, slots=True)
class Hello:
    """First message of the agent. `session` is the link session to resume, "" for a new one; `received` the last seq it saw.

    `epoch` is the highest epoch the agent ever saw and `assign_rev` the revision of the assignment set it holds: figures above
    the database's mean that the database went back in time (adopt mode).
    """

    TYPE: ClassVar[str] = "hello"
    versions: tuple[int, ...]
    agent_version: str
    boot_id: str
    epoch: int
    assign_rev: int
    session: str = ""
    received: int = 0
    hostname: str = ""


@dataclass(frozen=True, slots=True)
class Welcome:
    """Answer to Hello. `resumed` false starts both sequences at 0. Periods in seconds, chosen by the server."""

    TYPE: ClassVar[str] = "welcome"
    version: int
    node_id: str
    session: str
    epoch: int
    resumed: bool
    received: int
    heartbeat: float
    grace: float
    registry: str  # host:port that serves /v2/ for this cluster; ":port" = on the host of this link
    adopt: bool = False
    reconnect_window: float = 2.0


@dataclass(frozen=True, slots=True)
class Refused:
    """The link cannot be: then the server closes. `retry_after` < 0 means never (removed node, no common version)."""

    TYPE: ClassVar[str] = "refused"
    code: str
    detail: str
    retry_after: float = -1.0


@dataclass(frozen=True, slots=True)
class Heartbeat:
    TYPE: ClassVar[str] = "heartbeat"
    epoch: int
    assign_rev: int  # revision of the set the agent has persisted
    sent: float  # CLOCK_BOOTTIME of the agent, seconds: leases count from here


@dataclass(frozen=True, slots=True)
class HeartbeatAck:
    """`assign_rev` is the node's current revision: a lost wake-up heals here. `lease` is 0 when nothing is granted."""

    TYPE: ClassVar[str] = "heartbeat_ack"
    sent: float
    assign_rev: int
    heartbeat: float
    grace: float
    lease: float = 0.0


@dataclass(frozen=True, slots=True)
class TaskAssignment:
    """One task of the node's desired set. `image` is pinned by digest: registry-less text means the cluster's registry."""

    task_id: str
    service_id: str
    service_name: str
    slot: int
    desired: TaskState
    spec: ContainerSpec
    image: str  # repository@digest
    generation: int = 0  # of the service spec
    fence: int = 0
    lease: float = 0.0  # exclusive: seconds that it may run on one granted heartbeat; 0 = not exclusive
    tenant: str = ""  # whose it is, for what tenants must not share: ids of user namespaces

    def __post_init__(self) -> None:
        _check_id(self.task_id, "task_id")


@dataclass(frozen=True, slots=True)
class AssignmentsFull:
    """The node's whole desired set at `rev`. The agent persists it, then reconciles."""

    TYPE: ClassVar[str] = "assignments_full"
    epoch: int
    rev: int
    tasks: tuple[TaskAssignment, ...]
    networks: tuple[NetworkSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class AssignmentsDelta:
    """Change from `base` to `rev`; another base makes the agent send `AssignmentsRequest`."""

    TYPE: ClassVar[str] = "assignments_delta"
    epoch: int
    base: int
    rev: int
    put: tuple[TaskAssignment, ...] = ()
    drop: tuple[str, ...] = ()  # task ids
    networks: tuple[NetworkSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class AssignmentsRequest:
    TYPE: ClassVar[str] = "assignments_request"
    have: int


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """Observed state of one task. `exit_code` is None while it runs or when nobody saw the exit (never invented)."""

    task_id: str
    observed: TaskState
    at: float  # unix seconds on the node
    message: str = ""
    error: str = ""
    container_id: str = ""
    pid: int = 0
    exit_code: int | None = None
    oom_killed: bool = False
    health: str = ""
    addresses: tuple[str, ...] = ()
    ports: tuple[Mapping[str, Any], ...] = ()  # {"host_ip","host_port","container_port","protocol"}


@dataclass(frozen=True, slots=True)
class StatusReport:
    TYPE: ClassVar[str] = "status_report"
    epoch: int
    tasks: tuple[TaskStatus, ...]


@dataclass(frozen=True, slots=True)
class ContainerInfo:
    """One container on the node, of a task or started by hand."""

    id: str
    name: str
    image: str
    image_id: str
    state: str
    created: float
    pid: int = 0
    started: float = 0.0
    finished: float = 0.0
    exit_code: int | None = None
    oom_killed: bool = False
    health: str = ""
    restarts: int = 0
    task_id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    addresses: tuple[str, ...] = ()
    ports: tuple[Mapping[str, Any], ...] = ()
    command: str = ""


@dataclass(frozen=True, slots=True)
class ImageInfo:
    id: str
    size: int
    created: float
    tags: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Inventory:
    """What the node is; sent after each welcome and when it changes."""

    TYPE: ClassVar[str] = "inventory"
    epoch: int
    hostname: str
    os: str
    architecture: str
    kernel: str
    cores: int
    nano_cpus: int
    memory: int
    disk: int
    disk_free: int
    cgroup: str  # v1, v2, hybrid
    graph_driver: str
    agent_version: str
    addresses: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    features: tuple[str, ...] = ()
    graph_drivers: tuple[str, ...] = ()  # those that work on this node, in its order of preference
    problems: tuple[str, ...] = ()  # disk_full, state_unwritable: what runs goes on, nothing new is placed here


@dataclass(frozen=True, slots=True)
class Contents:
    """Containers and images of the node, whole; sent after each welcome and, coalesced, when either changes."""

    TYPE: ClassVar[str] = "contents"
    epoch: int
    containers: tuple[ContainerInfo, ...]
    images: tuple[ImageInfo, ...]


@dataclass(frozen=True, slots=True)
class Samples:
    """Usage since the last batch: the node's own and each running container's. Counters are cumulative."""

    TYPE: ClassVar[str] = "samples"
    epoch: int
    at: float
    node: Mapping[str, float]  # cpu_seconds, memory_used, disk_used, load1, rx_bytes, tx_bytes
    containers: Mapping[str, Mapping[str, float]]  # id -> cpu_seconds, memory_used, memory_limit, pids, rx_bytes, tx_bytes


@dataclass(frozen=True, slots=True)
class Action:
    """A one-shot act on a container: journalled under `action_id`, so that a repeat returns the stored result.

    `kind` and `args`: container_create {spec, name} · container_start · container_stop {grace} · container_kill {signal} ·
    container_pause · container_unpause · container_restart {grace} · container_remove {force} · image_pull {reference} ·
    image_remove {reference, force} · renew_certificate {} · orphan_adopt {} · orphan_kill {}.
    """

    TYPE: ClassVar[str] = "action"
    epoch: int
    action_id: str
    kind: str
    target: str = ""  # container id
    args: Mapping[str, Any] = field(default_factory=dict)
    actor: str = ""

    def __post_init__(self) -> None:
        _check_id(self.action_id, "action_id")


@dataclass(frozen=True, slots=True)
class ActionResult:
    TYPE: ClassVar[str] = "action_result"
    epoch: int
    action_id: str
    ok: bool
    result: Mapping[str, Any] = field(default_factory=dict)
    error: Mapping[str, Any] = field(default_factory=dict)  # WharfError.as_dict()


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """The agent asks for a pull token of a repository that one of its assignments (or an image_pull action) names."""

    TYPE: ClassVar[str] = "token_request"
    request_id: str
    repository: str


@dataclass(frozen=True, slots=True)
class TokenReply:
    TYPE: ClassVar[str] = "token_reply"
    request_id: str
    token: str = ""
    error: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """Renewal over the node's own live link: a CSR (PEM) for a fresh key."""

    TYPE: ClassVar[str] = "certificate_request"
    request_id: str
    csr: str


@dataclass(frozen=True, slots=True)
class CertificateReply:
    TYPE: ClassVar[str] = "certificate_reply"
    request_id: str
    certificate: str = ""
    ca: str = ""
    error: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StreamOpen:
    """The control plane opens a stream to a target of the node.

    `target` and its args: "logs" {follow, since, until, tail, timestamps, stdout, stderr} · "exec" {command, env, user, cwd, tty,
    stdin, rows, cols} · "attach" {stdin} · "stats" {} (JSON lines) · "events" {} (JSON lines).
    """

    TYPE: ClassVar[str] = "stream_open"
    stream: int
    target: str
    container: str
    args: Mapping[str, Any] = field(default_factory=dict)
    actor: str = ""
    operation: str = ""


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """Pipes are subscribed: nothing written from now on is lost."""

    TYPE: ClassVar[str] = "stream_opened"
    stream: int
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StreamRefused:
    TYPE: ClassVar[str] = "stream_refused"
    stream: int
    error: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StreamEof:
    """That direction of that channel is finished; never mapped to close."""

    TYPE: ClassVar[str] = "stream_eof"
    stream: int
    channel: int


@dataclass(frozen=True, slots=True)
class StreamResize:
    TYPE: ClassVar[str] = "stream_resize"
    stream: int
    rows: int
    cols: int


@dataclass(frozen=True, slots=True)
class StreamExit:
    """After the last data of channels 1 and 2."""

    TYPE: ClassVar[str] = "stream_exit"
    stream: int
    code: int | None
    error: str = ""


@dataclass(frozen=True, slots=True)
class StreamCredit:
    """`bytes` were consumed by the receiver; the window is 256 KiB a stream and direction."""

    TYPE: ClassVar[str] = "stream_credit"
    stream: int
    bytes: int


@dataclass(frozen=True, slots=True)
class StreamReset:
    TYPE: ClassVar[str] = "stream_reset"
    stream: int
    reason: str


@dataclass(frozen=True, slots=True)
class Ack:
    """A bare acknowledgement, sent when nothing else carries it."""

    TYPE: ClassVar[str] = "ack"


STDIN, STDOUT, STDERR = 0, 1, 2
WINDOW = 256 << 10
MAX_DATA = 32 << 10

MESSAGES: tuple[type[Any], ...] = (
    Hello, Welcome, Refused, Heartbeat, HeartbeatAck, AssignmentsFull, AssignmentsDelta, AssignmentsRequest, StatusReport,
    Inventory, Contents, Samples, Action, ActionResult, TokenRequest, TokenReply, CertificateRequest, CertificateReply,
    StreamOpen, StreamOpened, StreamRefused, StreamEof, StreamResize, StreamExit, StreamCredit, StreamReset, Ack,
)  # fmt: skip
BY_TYPE: Mapping[str, type[Any]] = {message.TYPE: message for message in MESSAGES}

# Delivered at least once and in order across reconnects; everything else dies with its websocket.
SEQUENCED: frozenset[type[Any]] = frozenset({StatusReport, ActionResult, Action})

SENT_BY: Mapping[type[Any], frozenset[str]] = {
    **{
        m: frozenset({AGENT})
        for m in (Hello, Heartbeat, AssignmentsRequest, StatusReport, Inventory, Contents, Samples, ActionResult)
    },
    **{m: frozenset({AGENT}) for m in (TokenRequest, CertificateRequest, StreamOpened, StreamRefused, StreamExit)},
    **{m: frozenset({CONTROL}) for m in (Welcome, Refused, HeartbeatAck, AssignmentsFull, AssignmentsDelta, Action)},
    **{m: frozenset({CONTROL}) for m in (TokenReply, CertificateReply, StreamOpen, StreamResize)},
    **{m: frozenset({AGENT, CONTROL}) for m in (StreamEof, StreamCredit, StreamReset, Ack)},
}
