"""OCI distribution as a raw ASGI app: one file a noun. `registry.v2.app.application` is the door."""
