"""criu's options as it numbers them (criu images/rpc.proto), and those that a command line chooses."""

from __future__ import annotations

from dataclasses import dataclass

from agent.runtime.criu.protobuf import Value, message

FIELDS = {
    "images_dir_fd": 1, "pid": 2, "leave_running": 3, "ext_unix_sk": 4, "tcp_established": 5, "shell_job": 7, "file_locks": 8,
    "log_level": 9, "log_file": 10, "page_server": 11, "notify_scripts": 12, "root": 13, "parent_img": 14, "track_mem": 15,
    "auto_dedup": 16, "work_dir_fd": 17, "link_remap": 18, "ext_mnt": 23, "manage_cgroups": 24, "cg_root": 25, "rst_sibling": 26,
    "inherit_fd": 27, "manage_cgroups_mode": 34, "external": 37, "empty_ns": 38, "freeze_cgroup": 44, "tcp_skip_in_flight": 46,
    "lazy_pages": 48, "status_fd": 49, "orphan_pts_master": 50, "lsm_profile": 53, "lsm_mount_context": 55,
}  # fmt: skip
CGROUP_MODES = {"ignore": 0, "soft": 3, "full": 4, "strict": 5}
LOG_EVERYTHING = 4


@dataclass
class Choices:
    """What checkpoint and restore may be told. Paths are absolute; `status_fd` and `empty_ns` (CLONE_NEW flags) 0 when unused."""

    image_path: str
    work_path: str
    parent_path: str = ""
    leave_running: bool = False
    pre_dump: bool = False
    tcp_established: bool = False
    tcp_skip_in_flight: bool = False
    ext_unix_sk: bool = False
    shell_job: bool = False
    lazy_pages: bool = False
    status_fd: int = 0
    page_server: tuple[str, int] | None = None
    file_locks: bool = False
    link_remap: bool = False
    cgroup_mode: str = "soft"
    empty_ns: int = 0
    auto_dedup: bool = False
    lsm_profile: str = ""
    lsm_mount_context: str = ""
    binary: str = "criu"

    def common(self, images: int, work: int, log: str) -> list[tuple[str, Value]]:
        """For either direction, by name."""
        return [
            ("images_dir_fd", images), ("work_dir_fd", work), ("log_level", LOG_EVERYTHING), ("log_file", log),
            ("notify_scripts", True), ("manage_cgroups", True), ("manage_cgroups_mode", CGROUP_MODES[self.cgroup_mode]),
            ("tcp_established", self.tcp_established), ("ext_unix_sk", self.ext_unix_sk), ("shell_job", self.shell_job),
            ("file_locks", self.file_locks), ("link_remap", self.link_remap), ("auto_dedup", self.auto_dedup),
            ("lazy_pages", self.lazy_pages), ("orphan_pts_master", True), ("empty_ns", self.empty_ns or None),
            ("status_fd", self.status_fd or None), ("lsm_profile", self.lsm_profile or None),
            ("lsm_mount_context", self.lsm_mount_context or None),
        ]  # fmt: skip


def encode(options: list[tuple[str, Value]]) -> bytes:
    return message((FIELDS[name], value) for name, value in options)


def pair(first: Value, second: Value) -> bytes:
    """An inner message of two fields: a mount and its name, a controller and its path, a name and a descriptor."""
    return message([(1, first), (2, second)])
