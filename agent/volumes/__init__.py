"""Volumes of a node, and what a container's mounts become. `agent.volumes.store.VolumeStore` is the way in."""
