"""features: the OCI features document (runtime-spec features.md, features-linux.md). It must tell the truth."""

from __future__ import annotations

from agent.runtime import caps, lock, mounts
from agent.runtime import spec as oci
from agent.runtime.cgroup import hierarchies
from agent.runtime.cli import report, version
from agent.runtime.seccomp import compile as seccomp
from agent.runtime.seccomp import tables
from agent.sys import landlock, nr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.runtime.cli.arguments import Options
    from agent.runtime.cli.logs import Log


def features(options: Options, log: Log) -> int:
    words = [*mounts.ATTRIBUTES, *("r" + word for word in mounts.ATTRIBUTES)]
    words += [*mounts.PROPAGATION, *("r" + word for word in mounts.PROPAGATION), "bind", "rbind", "idmap", "ridmap", "tmpcopyup"]
    tree = hierarchies()
    report.show(
        {
            "ociVersionMin": "1.0.0",
            "ociVersionMax": version.SPEC_VERSION,
            "hooks": list(oci.HOOKS),
            "mountOptions": sorted(words),
            "annotations": {lock.ANNOTATION: "on, off", f"{lock.ANNOTATION}.abi": str(landlock.abi())},
            "linux": {
                "namespaces": list(oci.NAMESPACES),
                "capabilities": list(caps.NAMES[: caps.last() + 1]),
                "cgroup": {"v1": bool(tree.v1), "v2": tree.v2 is not None, "systemd": False, "systemdUser": False, "rdma": True},
                "seccomp": {
                    "enabled": True,
                    "actions": list(seccomp.ACTIONS),
                    "operators": list(seccomp.OPERATORS),
                    "archs": [tables.SCMP_ARCH[nr.MACHINE], tables.SCMP_ARCH[tables.COMPAT[nr.MACHINE]]],
                    "knownFlags": list(seccomp.FLAGS),
                    "supportedFlags": list(seccomp.FLAGS),
                },
                "apparmor": {"enabled": False},
                "selinux": {"enabled": False},
                "intelRdt": {"enabled": False},
                "mountExtensions": {"idmap": {"enabled": True}},
            },
        }
    )
    return 0
