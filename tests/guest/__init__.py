"""The runtime's tests in a guest kernel: cgroup v2 alone, every capability, criu. `python -m tests.guest [pytest arguments]`."""
