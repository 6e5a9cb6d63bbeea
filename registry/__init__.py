"""The trusted registry: OCI distribution, its storage, its rights."""
