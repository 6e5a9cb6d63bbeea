"""features: the OCI features document (runtime-spec features.md, features-linux.md). It must tell the truth."""

from __future__ import annotations

from agent.runtime import caps, lock, mounts, schema
from agent.runtime import spec as oci
from agent.runtime.cli import report
from agent.runtime.seccomp import compile as seccomp
from agent.runtime.seccomp import tables
from agent.sys import landlock, nr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.runtime.cli.arguments import Options
    from agent.runtime.cli.logs import Log


def features(options: Options, log: Log) -> int:
    report.show(
        {
            "ociVersionMin": oci.OLDEST,
            "ociVersionMax": oci.VERSION,
            "hooks": list(oci.HOOK_POINTS),
            "mountOptions": mounts.known_options(),
            "linux": {
                "namespaces": list(oci.NAMESPACES),
                "capabilities": list(caps.NAMES),
                "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": True, "rdma": True},
                "seccomp": {
                    "enabled": True,
                    "actions": list(seccomp.ACTIONS),
                    "operators": list(seccomp.OPERATORS),
                    "archs": [tables.SCMP_ARCH[nr.MACHINE], tables.SCMP_ARCH[tables.COMPAT[nr.MACHINE]]],
                    "knownFlags": list(seccomp.FLAGS),
                    "supportedFlags": list(seccomp.FLAGS),
                },
                "apparmor": {"enabled": True},
                "selinux": {"enabled": True},
                "memoryPolicy": {"modes": list(schema.MEMORY_MODES), "flags": list(schema.MEMORY_FLAGS)},
                "intelRdt": {"enabled": True, "schemata": True, "monitoring": True},
                "mountExtensions": {"idmap": {"enabled": True}},
                "netDevices": {"enabled": True},
            },
            "annotations": {lock.ANNOTATION: "on, off", f"{lock.ANNOTATION}.abi": str(landlock.abi())},
            "potentiallyUnsafeConfigAnnotations": ["run.oci."],
        }
    )
    return 0
