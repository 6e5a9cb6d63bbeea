"""An agent without a link that does what it is told, a JSON line an order, so that it can be killed at any moment.

    python -m tests.integration.agent.soaked_agent HOME CGROUP

{"do": "run", "name": n, "isolation": "shim" or not at all} ·
{"do": "stop", "name": n} · {"do": "start", "name": n} · {"do": "remove", "name": n} · {"do": "list"};
each is answered by {"ok": what it came to} or {"error": why not}.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from agent.protocol.errors import WharfError
from agent.protocol.spec import ContainerSpec, Isolation, NetworkMode
from tests.integration.agent.test_containers import Bench


async def obey(bench: Bench, order: dict[str, Any]) -> Any:
    containers, name = bench.containers, order.get("name", "")
    if order["do"] == "run":
        spec = ContainerSpec(
            image="busybox",
            args=("sleep", "1000"),
            network_mode=NetworkMode.BRIDGE,
            stop_grace=0.0,
            isolation=Isolation(order.get("isolation", "")),
        )
        await containers.start(await containers.create(spec, image_id=bench.image, name=name))
    elif order["do"] == "remove":
        await containers.remove(name, force=True)
    elif order["do"] == "list":
        rows = [(record.name, containers.live(record.id)) for record in containers.records]
        return {name: live.pid if live and live.running else 0 for name, live in rows}
    else:
        await getattr(containers, order["do"])(name)
    return None


async def main(home: str, cgroup: str) -> None:
    bench = Bench(Path(home), cgroup)
    await bench.open()
    known = await asyncio.to_thread(bench.images.list)
    bench.image = known[0].id if known else await bench.load()
    print(json.dumps({"ok": "open"}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        try:
            answer: dict[str, Any] = {"ok": await obey(bench, json.loads(line))}
        except WharfError as error:
            answer = {"error": error.detail}
        print(json.dumps(answer), flush=True)
    bench.networks.teardown()
    await bench.containers.close()
    await bench.supervisor.shutdown()
    await bench.supervisor.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
