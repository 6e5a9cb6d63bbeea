"""Control groups of a container: make, join, limit, measure, freeze, kill, remove; on v1, v2 and hybrid machines."""

from agent.runtime.cgroup.cgroup import NO_CGROUP, Cgroup
from agent.runtime.cgroup.detect import Hierarchies, hierarchies

__all__ = ["NO_CGROUP", "Cgroup", "Hierarchies", "hierarchies"]
