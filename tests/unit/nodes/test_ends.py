"""Enforcer, orphans, removed nodes."""

from agent.protocol.spec import Placement
from agent.protocol.states import Availability, NodeState, TaskState
from tests.unit.nodes.cluster import Cluster, spec

S = TaskState


def test_a_node_that_stops_matching_rejects_and_the_task_moves() -> None:
    cluster = Cluster(2)
    cluster.node("n1", labels={"zone": "a"})
    cluster.create(spec(replicas=2, placement=Placement(constraints=("node.labels.zone==a",))))
    cluster.run()
    assert cluster.per_node() == {"n1": 2, "n2": 0}
    cluster.node("n1", labels={"zone": "b"})
    cluster.node("n2", labels={"zone": "a"})
    cluster.run(60)
    assert cluster.per_node() == {"n1": 0, "n2": 2}


def test_only_active_nodes_reject() -> None:
    cluster = Cluster(1)
    cluster.node("n1", labels={"zone": "a"})
    cluster.create(spec(replicas=1, placement=Placement(constraints=("node.labels.zone==a",))))
    cluster.run()
    cluster.node("n1", labels={}, availability=Availability.PAUSE)
    cluster.run(60)
    assert len(cluster.running()) == 1


def test_a_node_that_shrank_rejects_its_newest_tasks() -> None:
    cluster = Cluster(1, memory=100)
    cluster.create(spec(replicas=2, memory=50))
    cluster.run()
    cluster.nodes["n1"] = cluster.nodes["n1"].__class__("n1", memory=60)
    cluster.check = lambda: None  # type: ignore[method-assign]  # overfull is the point
    cluster.run(60)
    assert [task.slot for task in cluster.running()] == [1]


def test_tasks_of_a_node_that_is_down_for_a_day_are_orphaned() -> None:
    cluster = Cluster(2)
    cluster.create(spec(replicas=2))
    cluster.run()
    cluster.down("n1")
    cluster.run(24 * 3600 - 1)
    assert [task.observed for task in cluster.tasks() if task.node_id == "n1"] == [S.RUNNING]
    cluster.run(1)
    cluster.run(1)
    assert [task.observed for task in cluster.tasks() if task.node_id == "n1"] == [S.ORPHANED]


def test_a_removed_node_frees_everything_at_once() -> None:
    cluster = Cluster(2)
    cluster.create(spec(replicas=4))
    cluster.run()
    cluster.node("n1", state=NodeState.LEFT)
    cluster.run()
    assert cluster.per_node() == {"n1": 0, "n2": 4}
    assert all(task.observed is S.ORPHANED for task in cluster.tasks() if task.node_id == "n1")


def test_a_removal_on_a_dead_node_waits_for_it() -> None:
    cluster = Cluster(1)
    cluster.create(spec(replicas=1))
    cluster.run()
    cluster.down("n1")
    cluster.scale("s1", 0)
    cluster.run(3600)
    assert [task.desired for task in cluster.tasks()] == [S.REMOVE]
    cluster.node("n1", state=NodeState.READY, down_since=0.0)
    cluster.run()
    assert not cluster.tasks()
