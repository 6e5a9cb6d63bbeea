"""What a node does for itself now and then: watch its disk, keep its network in order, let go of images nobody uses."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from agent.containers.containers import Containers
from agent.images.images import ImageStore
from agent.protocol.errors import WharfError
from agent.sys import files
from agent.sys.ballast import Ballast

log = logging.getLogger(__name__)

DISK_EVERY = 5.0
NETWORK_EVERY = 30.0
IMAGES_EVERY = 600.0
UNUSED_FOR = 3600.0  # seconds an image must have been seen without a user
FULL, ENOUGH = 0.85, 0.80  # images go when the disk is fuller than FULL, until it is at ENOUGH

DISK_FULL, STATE_UNWRITABLE = "disk_full", "state_unwritable"


class Upkeep:
    """`problems` is what makes the node unfit for new tasks; `changed` is called when it differs."""

    def __init__(
        self,
        state: Path,
        containers: Containers,
        images: ImageStore,
        *,
        wanted: Callable[[], set[str]],
        changed: Callable[[], None],
    ) -> None:
        self.problems: tuple[str, ...] = ()
        self._state = state
        self._containers = containers
        self._images = images
        self._wanted = wanted
        self._changed = changed
        self._ballast = Ballast(str(state / "ballast"))
        self._unused: dict[str, float] = {}
        self._loops: list[asyncio.Task[None]] = []
        files.when_full(self._ballast.give)

    def start(self) -> None:
        self._loops = [
            asyncio.create_task(self._every(DISK_EVERY, self.look_at_disk), name="upkeep-disk"),
            asyncio.create_task(self._every(NETWORK_EVERY, self._containers.mend_network), name="upkeep-network"),
            asyncio.create_task(self._every(IMAGES_EVERY, self.prune_images), name="upkeep-images"),
        ]

    async def stop(self) -> None:
        files.when_full(None)
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)

    async def _every(self, period: float, work: Callable[[], Awaitable[object]]) -> None:
        while True:
            try:
                await work()
            except (WharfError, OSError) as error:
                log.warning("%s: %s; it is tried again", work.__name__, error)
            await asyncio.sleep(period)

    # -- disk ------------------------------------------------------------------------------------------------------------

    async def look_at_disk(self) -> None:
        """See whether state can be written and whether the ballast is there; tell the control plane when that changed."""
        problems = await asyncio.to_thread(self._disk_problems)
        if problems != self.problems:
            if problems:
                log.error("state directory %s: %s; containers go on, no new tasks are taken", self._state, ", ".join(problems))
            else:
                log.warning("state directory %s is in order again", self._state)
            self.problems = problems
            self._changed()

    def _disk_problems(self) -> tuple[str, ...]:
        try:
            files.write_durable(self._state / "probe", b"%d\n" % time.time_ns())
        except OSError as error:
            return (DISK_FULL if error.errno in (errno.ENOSPC, errno.EDQUOT) else STATE_UNWRITABLE,)
        try:
            return () if self._ballast.hold() else (DISK_FULL,)
        except OSError:
            return (STATE_UNWRITABLE,)

    # -- images ----------------------------------------------------------------------------------------------------------

    async def prune_images(self, now: float | None = None) -> list[str]:
        """When the disk is fuller than FULL: remove images without a user, longest unused first, until ENOUGH; their ids.

        A user is a container, or a task of this node's assignments. Unused means seen unused for UNUSED_FOR by this agent.
        """
        at = time.monotonic() if now is None else now
        idle = await asyncio.to_thread(self._idle_images, self._wanted())
        self._unused = {image_id: self._unused.get(image_id, at) for image_id in idle}
        gone: list[str] = []
        for image_id, since in sorted(self._unused.items(), key=lambda item: item[1]):
            if at - since < UNUSED_FOR or self._fullness() < (ENOUGH if gone else FULL):
                break
            await asyncio.to_thread(self._images.remove, image_id, force=True)
            gone.append(image_id)
        if gone:
            log.info("removed %d unused images: the disk is filling up", len(gone))
        return gone

    def _idle_images(self, wanted: set[str]) -> list[str]:
        return [
            image.id
            for image in self._images.list()
            if not wanted.intersection((image.id, *image.repo_digests, *image.repo_tags)) and not self._images.holders(image.id)
        ]

    def _fullness(self) -> float:
        disk = os.statvfs(self._images.root)
        return 1.0 - disk.f_bavail / max(1, disk.f_blocks)
