"""What each key of config.json may hold (runtime-spec 1.3: config.md, config-linux.md): types, ranges and words.

What keys mean to each other is checked in `spec`; seccomp's own in `seccomp`.
"""

from __future__ import annotations

from agent.runtime.shape import I32, I64, U16, U32, U64, Fields, Words

HOOK_POINTS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
NAMESPACES = ("mount", "pid", "network", "uts", "ipc", "cgroup", "user", "time")
_RLIMITS = "CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS LOCKS SIGPENDING MSGQUEUE NICE RTPRIO RTTIME"  # from 0
RLIMITS = {"RLIMIT_" + word: number for number, word in enumerate(_RLIMITS.split())}
PROPAGATIONS = ("", "shared", "slave", "private", "unbindable", "rshared", "rslave", "rprivate", "runbindable")
POLICIES = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
SCHEDULER_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
MEMORY_MODES = {
    "MPOL_DEFAULT": 0,
    "MPOL_PREFERRED": 1,
    "MPOL_BIND": 2,
    "MPOL_INTERLEAVE": 3,
    "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5,
    "MPOL_WEIGHTED_INTERLEAVE": 6,
}
MEMORY_FLAGS = {"MPOL_F_NUMA_BALANCING": 1 << 13, "MPOL_F_RELATIVE_NODES": 1 << 14, "MPOL_F_STATIC_NODES": 1 << 15}

_ID_MAPPINGS = [Fields("containerID hostID size", containerID=U32, hostID=U32, size=U32)]
_HOOKS = [Fields("path", path=str, args=[str], env=[str], timeout=I64)]

PROCESS = Fields(
    "args cwd",
    terminal=bool,
    consoleSize=Fields(height=U32, width=U32),
    cwd=str,
    env=[str],
    args=[str],
    user=Fields(uid=U32, gid=U32, umask=U32, additionalGids=[U32]),
    rlimits=[Fields("type soft hard", type=Words(*RLIMITS), soft=U64, hard=U64)],
    apparmorProfile=str,
    selinuxLabel=str,
    capabilities=Fields(effective=[str], bounding=[str], inheritable=[str], permitted=[str], ambient=[str]),
    noNewPrivileges=bool,
    oomScoreAdj=range(-1000, 1001),
    scheduler=Fields(
        "policy",
        policy=Words(*POLICIES),
        nice=I32,
        priority=I32,
        flags=[Words(*SCHEDULER_FLAGS)],
        runtime=U64,
        deadline=U64,
        period=U64,
    ),
    ioPriority=Fields("class", **{"class": Words(*IO_CLASSES), "priority": range(8)}),
    execCPUAffinity=Fields(initial=str, final=str),
)

_RATES = [Fields("major minor rate", major=I64, minor=I64, rate=U64)]
RESOURCES = Fields(
    devices=[Fields("allow", allow=bool, type=Words("", "a", "b", "c"), major=I64, minor=I64, access=str)],
    memory=Fields(
        limit=I64,
        reservation=I64,
        swap=I64,
        kernel=I64,
        kernelTCP=I64,
        swappiness=U64,
        disableOOMKiller=bool,
        useHierarchy=bool,
        checkBeforeUpdate=bool,
    ),
    cpu=Fields(
        shares=U64,
        quota=I64,
        burst=U64,
        period=U64,
        realtimeRuntime=I64,
        realtimePeriod=U64,
        cpus=str,
        mems=str,
        idle=range(2),
    ),
    blockIO=Fields(
        weight=U16,
        leafWeight=U16,
        weightDevice=[Fields("major minor", major=I64, minor=I64, weight=U16, leafWeight=U16)],
        throttleReadBpsDevice=_RATES,
        throttleWriteBpsDevice=_RATES,
        throttleReadIOPSDevice=_RATES,
        throttleWriteIOPSDevice=_RATES,
    ),
    hugepageLimits=[Fields("pageSize limit", pageSize=str, limit=U64)],
    network=Fields(classID=U32, priorities=[Fields("name priority", name=str, priority=U32)]),
    pids=Fields(limit=I64),
    rdma={None: Fields(hcaHandles=U32, hcaObjects=U32)},
    unified={None: str},
)

_LINUX = Fields(
    namespaces=[Fields("type", type=Words(*NAMESPACES), path=str)],
    uidMappings=_ID_MAPPINGS,
    gidMappings=_ID_MAPPINGS,
    timeOffsets={None: Fields(secs=I64, nanosecs=range(1_000_000_000))},
    devices=[
        Fields(
            "type path",
            type=Words("c", "b", "u", "p"),
            path=str,
            major=range(1 << 12),
            minor=range(1 << 20),
            fileMode=U32,
            uid=U32,
            gid=U32,
        )
    ],
    netDevices={None: Fields(name=str)},
    cgroupsPath=str,
    resources=RESOURCES,
    intelRdt=Fields(closID=str, l3CacheSchema=str, memBwSchema=str, schemata=[str], enableMonitoring=bool),
    memoryPolicy=Fields("mode", mode=Words(*MEMORY_MODES), nodes=str, flags=[Words(*MEMORY_FLAGS)]),
    sysctl={None: str},
    seccomp=Fields("defaultAction", listenerPath=str, listenerMetadata=str),
    rootfsPropagation=Words(*PROPAGATIONS),
    maskedPaths=[str],
    readonlyPaths=[str],
    mountLabel=str,
    personality=Fields("domain", domain=Words("LINUX", "LINUX32"), flags=[str]),
)

CONFIG = Fields(
    "ociVersion root linux",
    ociVersion=str,
    root=Fields("path", path=str, readonly=bool),
    hostname=str,
    domainname=str,
    annotations={None: str},
    mounts=[
        Fields(
            "destination",
            destination=str,
            type=str,
            source=str,
            options=[str],
            uidMappings=_ID_MAPPINGS,
            gidMappings=_ID_MAPPINGS,
        )
    ],
    process=PROCESS,
    hooks=Fields(**dict.fromkeys(HOOK_POINTS, _HOOKS)),
    linux=_LINUX,
)
