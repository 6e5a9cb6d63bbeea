from agent.protocol.spec import Placement, ServiceMode
from agent.protocol.states import Availability, NodeState, TaskState
from nodes.snapshot import NodeView
from tests.unit.nodes.cluster import Cluster, spec

S = TaskState


def everywhere(nodes: int = 3, **fields: object) -> Cluster:
    cluster = Cluster(nodes)
    cluster.create(spec(mode=ServiceMode.GLOBAL, **fields))
    cluster.run()
    return cluster


def test_one_task_on_every_node_and_on_each_that_joins() -> None:
    cluster = everywhere()
    assert cluster.per_node() == {"n1": 1, "n2": 1, "n3": 1}
    cluster.nodes["n4"] = NodeView("n4")
    cluster.run()
    assert cluster.per_node()["n4"] == 1


def test_only_nodes_that_meet_the_constraints() -> None:
    cluster = Cluster(2)
    cluster.node("n1", labels={"gpu": "yes"})
    cluster.create(spec(mode=ServiceMode.GLOBAL, placement=Placement(constraints=("node.labels.gpu==yes",))))
    cluster.run()
    assert cluster.per_node() == {"n1": 1, "n2": 0}
    cluster.node("n2", labels={"gpu": "yes"})
    cluster.node("n1", labels={})
    cluster.run()
    assert cluster.per_node() == {"n1": 0, "n2": 1}


def test_drained_and_lost_nodes_lose_their_task_and_get_it_back() -> None:
    cluster = everywhere()
    cluster.node("n1", availability=Availability.DRAIN)
    cluster.down("n2")
    cluster.run()
    assert cluster.per_node() == {"n1": 0, "n2": 0, "n3": 1}
    cluster.node("n1", availability=Availability.ACTIVE)
    cluster.node("n2", state=NodeState.READY, down_since=0.0)
    cluster.run()
    assert cluster.per_node() == {"n1": 1, "n2": 1, "n3": 1}


def test_a_paused_node_keeps_its_task_and_gets_no_new_one() -> None:
    cluster = everywhere(2)
    cluster.node("n1", availability=Availability.PAUSE)
    cluster.nodes["n3"] = NodeView("n3", availability=Availability.PAUSE)
    cluster.run()
    assert cluster.per_node() == {"n1": 1, "n2": 1, "n3": 0}
