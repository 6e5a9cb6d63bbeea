"""Checkpoint and restore by criu, which is asked over its own protocol (criu.org/RPC): `criu swrk`, no service, no library."""
