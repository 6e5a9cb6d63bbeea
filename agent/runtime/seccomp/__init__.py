"""Seccomp: our own compiler from an OCI profile to a BPF program, and the default profile."""
