"""Having an image: from the node's own store, else from the cluster's registry with a token asked for over the link.

Presence grants nothing by itself: the control plane names an image in an assignment only after it was authorised, and the
registry checks the token again for what is not here yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from agent.images.distribution import RegistryEndpoint
from agent.images.errors import ImageUnknown
from agent.images.images import ImageStore
from agent.images.pull import pull
from agent.link.link import Link
from agent.protocol.errors import Unavailable
from agent.protocol.oci import Reference


class NoRegistry(Unavailable):
    code = "no_registry"


class ClusterPuller:
    """`ensure` is what the worker and the image_pull action use."""

    def __init__(self, link: Link, images: ImageStore, ca_pem: str) -> None:
        self._link = link
        self._images = images
        self._ca_pem = ca_pem

    async def ensure(self, image: str, progress: Callable[[str], None]) -> str:
        """The image id of `image` (repository@digest, or a tag of the cluster's registry), pulled if it is not here.

        Raises `NoRegistry` while the cluster's registry is unknown, and what `pull` raises.
        """
        reference = Reference.parse(image)
        if reference.digest is not None:
            try:
                return (await asyncio.to_thread(self._images.get, image)).id
            except ImageUnknown:
                pass  # not here yet
        if not self._link.registry:
            raise NoRegistry("the address of the cluster's registry is not known yet: it comes with the link's welcome")
        pulled = await pull(
            reference,
            store=self._images,
            endpoint=RegistryEndpoint(f"https://{self._link.registry}", self._ca_pem, self._token),
            progress=_Summary(image, progress),
        )
        self._link.contents_changed()
        return pulled.id

    async def _token(self, scope: str) -> str | None:
        _, repository, _ = scope.split(":", 2)
        return await self._link.questions.pull_token(repository)


class _Summary:
    """Per-layer progress folded into one line for people: "pulling web@sha256…: 3 of 5 layers, 41 of 120 MB"."""

    def __init__(self, image: str, tell: Callable[[str], None]) -> None:
        self._image = image
        self._tell = tell
        self._layers: dict[str, tuple[str, int, int]] = {}
        self._last = ""

    def __call__(self, event: dict[str, Any]) -> None:
        self._layers[event["digest"]] = (event["status"], event["current"], event["total"])
        done = sum(status in ("done", "exists") for status, _, _ in self._layers.values())
        current = sum(current for _, current, _ in self._layers.values())
        total = sum(total for _, _, total in self._layers.values())
        text = f"pulling {self._image[:60]}: {done} of {len(self._layers)} layers, {current >> 20} of {total >> 20} MB"
        if text != self._last:
            self._last = text
            self._tell(text)
