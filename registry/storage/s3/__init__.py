"""Blobs in an S3 bucket: a driver of registry.storage.store, see registry.storage.s3.store."""
