"""Blobs move from files to S3 while clients push and pull, and the mover is killed again and again: no blob is lost."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.distribution.client import Registry
from tests.integration.controlplane.stores import wait_for
from tests.integration.registry.pushers import Pushers
from tests.integration.registry.server import ROOT, RegistryServer, registry_server
from tests.s3 import CREDENTIALS, s3_server

KILLS = int(os.environ.get("WHARF_KILLS", "1"))
MOVE = (
    "import django; django.setup()\n"
    "from registry.actions.moving import move\n"
    "from registry.storage import open_store\n"
    "done = move(open_store(), report=lambda done, total, text: print('step', flush=True))\n"
    "print('complete' if done.complete else done, flush=True)\n"
)
LOST = (
    "import django; django.setup()\n"
    "from registry.storage import open_store\n"
    "from tests.integration.registry import world\n"
    "print(world.lost_blobs(open_store()))\n"
)


class Mover:
    def __init__(self, server: RegistryServer) -> None:
        self.log = server.home / "mover.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", MOVE], cwd=ROOT, env=server.environment, stdout=log, stderr=log
            )

    def steps(self) -> int:
        return self.log.read_bytes().count(b"step\n")

    def reaches(self, steps: int) -> None:
        wait_for(lambda: self.steps() >= steps or self.process.poll() is not None, f"{steps} steps of the mover")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)

    def end(self) -> str:
        assert self.process.wait(100) == 0, self.log.read_text()[-3000:]
        return self.log.read_text().splitlines()[-1]


@pytest.mark.timeout(90 + 20 * KILLS)
def test_moving_to_s3_under_load(tmp_path: Path) -> None:
    rand = random.Random(3)
    files = str(tmp_path / "blobs")
    with s3_server() as s3, registry_server(tmp_path, settings={"WHARF_BLOB_STORE": files, **CREDENTIALS}) as server:
        alice = Registry(server.url, "alice", server.password, prefix="alice")
        with Pushers(server, threads=2, sizes=(100, 2000, 3 << 20)) as before:
            before.wait_for(12)
        begun = alice.start("alice/load-0")
        alice.call("PATCH", begun, b"begun before the switch", expect=202)

        new = s3.location(s3.bucket(), part=5)
        server.stop()
        server.settings |= {"WHARF_BLOB_STORE": new, "WHARF_BLOB_STORE_ALSO": files}
        server.start()
        with Pushers(server, threads=2, sizes=(100, 2000, 3 << 20)) as during:
            for _ in range(KILLS):
                mover = Mover(server)
                try:
                    mover.reaches(rand.randint(1, 200))
                finally:
                    mover.kill()
                before.check_all(alice)
            during.wait_for(5)
            alice.call("DELETE", begun, expect=204)
        assert before.failed == during.failed == []
        assert Mover(server).end() == "complete"

        server.stop()
        server.settings["WHARF_BLOB_STORE_ALSO"] = ""
        server.start()
        before.check_all(alice)
        during.check_all(alice)
        assert server.python(LOST).strip() == "[]"
        assert "defect" not in server.log(), server.log()
