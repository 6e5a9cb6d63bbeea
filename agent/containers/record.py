"""What the agent knows of a container that the supervisor does not: its spec, name, image and task."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.protocol.codec import decode, encode
from agent.protocol.spec import ContainerSpec
from agent.sys.files import write_durable


@dataclass(frozen=True, slots=True)
class Record:
    """Persisted as `<containers>/<id>/container.json`; never changes after creation but for `name` and `stopped`.

    `stopped` is True after a user stopped the container: "unless-stopped" then stays down over a restart of the node.
    """

    id: str
    name: str
    spec: ContainerSpec
    image: str  # reference as asked for
    image_id: str
    command: str  # for people
    created: float  # unix seconds
    task_id: str = ""
    stopped: bool = False
    stop_signal: int = 15
    volumes: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    tenant: str = ""


class Records:
    """All containers of this node, by id, on disk and in memory."""

    def __init__(self, root: Path, hidden: Collection[str] = ()) -> None:
        """`hidden`: ids that belong to another graph driver and are left as they are."""
        self._root = root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._by_id: dict[str, Record] = {}
        for directory in root.iterdir():
            if directory.name in hidden:
                continue
            path = directory / "container.json"
            if path.exists():
                record = decode(Record, json.loads(path.read_text()), unknown="ignore")
                self._by_id[record.id] = record
            else:
                shutil.rmtree(directory)  # its creation was never finished

    def directory(self, container_id: str) -> Path:
        return self._root / container_id

    def put(self, record: Record, process: dict[str, Any] | None = None) -> None:
        """Store a record; at creation with the OCI process, which later execs are made from."""
        directory = self.directory(record.id)
        directory.mkdir(mode=0o700, exist_ok=True)
        if process is not None:
            write_durable(directory / "process.json", json.dumps({"process": process}).encode(), more_follows=True)
        write_durable(directory / "container.json", json.dumps(encode(record)).encode())
        self._by_id[record.id] = record

    def remove(self, container_id: str) -> None:
        self._by_id.pop(container_id, None)
        directory = self.directory(container_id)
        (directory / "container.json").unlink(missing_ok=True)
        if directory.exists():
            shutil.rmtree(directory)

    def process(self, container_id: str) -> dict[str, Any]:
        """{"process": OCI process} as the container was made with."""
        found: dict[str, Any] = json.loads((self.directory(container_id) / "process.json").read_text())
        return found

    def get(self, container_id: str) -> Record | None:
        return self._by_id.get(container_id)

    def find(self, text: str) -> list[Record]:
        """By exact id, exact name, or unique id prefix, in this order of preference."""
        if text in self._by_id:
            return [self._by_id[text]]
        named = [record for record in self if record.name == text]
        return named or [record for record in self if text and record.id.startswith(text)]

    def __iter__(self) -> Iterator[Record]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)
