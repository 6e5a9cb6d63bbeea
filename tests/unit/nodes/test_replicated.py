from agent.protocol.spec import RestartCondition, RestartPolicy
from agent.protocol.states import Availability, NodeState, TaskState
from tests.unit.nodes.cluster import Cluster, spec

S = TaskState


def test_replicas_are_made_and_spread() -> None:
    cluster = Cluster(3)
    cluster.create(spec(replicas=6))
    cluster.run()
    assert cluster.per_node() == {"n1": 2, "n2": 2, "n3": 2}
    assert sorted(task.slot for task in cluster.running()) == [1, 2, 3, 4, 5, 6]


def test_scale_up_fills_the_lowest_free_slots() -> None:
    cluster = Cluster(3)
    cluster.create(spec(replicas=3))
    cluster.run()
    cluster.scale("s1", 5)
    cluster.run()
    assert sorted(task.slot for task in cluster.running()) == [1, 2, 3, 4, 5]


def test_scale_down_takes_from_the_most_loaded_node_and_deletes_rows_only_after_the_stop() -> None:
    cluster = Cluster(2)
    cluster.create(spec(replicas=4))
    cluster.run()
    cluster.node("n2", availability=Availability.PAUSE)
    cluster.scale("s1", 6)
    cluster.run()
    assert cluster.per_node() == {"n1": 4, "n2": 2}
    cluster.scale("s1", 4)
    cluster.settle()
    removed = [task for task in cluster.tasks() if task.desired is S.REMOVE]
    assert [task.node_id for task in removed] == ["n1", "n1"], "rows stay while the node has not confirmed"
    cluster.run()
    assert cluster.per_node() == {"n1": 2, "n2": 2}
    assert len(cluster.tasks()) == 4


def test_scale_down_gives_up_slots_that_do_not_run_first() -> None:
    cluster = Cluster(3)
    cluster.outcome = lambda task: "hang" if task.slot == 2 else "run"
    cluster.create(spec(replicas=3))
    cluster.run()
    cluster.scale("s1", 2)
    cluster.run()
    assert sorted(task.slot for task in cluster.tasks()) == [1, 3]


def test_unassigned_tasks_go_at_once() -> None:
    cluster = Cluster(1)
    cluster.node("n1", state=NodeState.UNKNOWN)
    cluster.create(spec(replicas=3))
    cluster.settle()
    assert len(cluster.tasks()) == 3
    cluster.scale("s1", 1)
    cluster.settle()
    assert [task.slot for task in cluster.tasks()] == [1]


def test_a_dead_node_is_replaced_elsewhere_and_its_tasks_stop_when_it_returns() -> None:
    cluster = Cluster(3)
    cluster.create(spec(replicas=6))
    cluster.run()
    cluster.down("n1")
    cluster.run()
    assert cluster.per_node() == {"n1": 0, "n2": 3, "n3": 3}
    assert len(cluster.running()) == 6
    cluster.node("n1", state=NodeState.READY, down_since=0.0)
    cluster.run()
    assert cluster.per_node() == {"n1": 0, "n2": 3, "n3": 3}
    assert all(task.ended for task in cluster.tasks() if task.node_id == "n1")


def test_replacement_of_a_lost_node_waits_for_no_delay() -> None:
    cluster = Cluster(2)
    cluster.create(spec(replicas=1, restart=RestartPolicy(delay=3600)))
    cluster.run()
    (task,) = cluster.running()
    before = cluster.now
    cluster.down(task.node_id)
    cluster.run()
    assert len(cluster.running()) == 1
    assert cluster.now == before


def test_suspect_and_unknown_nodes_are_left_alone() -> None:
    for state in (NodeState.SUSPECT, NodeState.UNKNOWN):
        cluster = Cluster(2)
        cluster.create(spec(replicas=2))
        cluster.run()
        cluster.node("n1", state=state)
        cluster.run(60)
        assert cluster.per_node() == {"n1": 1, "n2": 1}
        assert cluster.made == 2


def test_drain_moves_tasks_and_pause_leaves_them() -> None:
    cluster = Cluster(2)
    cluster.create(spec(replicas=4, restart=RestartPolicy(delay=3600)))
    cluster.run()
    cluster.node("n1", availability=Availability.PAUSE)
    cluster.run()
    assert cluster.per_node() == {"n1": 2, "n2": 2}
    cluster.node("n1", availability=Availability.DRAIN)
    cluster.run()
    assert cluster.per_node() == {"n1": 0, "n2": 4}


def test_a_removed_service_goes_when_its_last_task_stopped() -> None:
    import dataclasses

    cluster = Cluster(2)
    cluster.create(spec(replicas=3))
    cluster.run()
    cluster.services["s1"] = dataclasses.replace(cluster.services["s1"], removed=True)
    cluster.settle()
    assert "s1" in cluster.services
    cluster.run()
    assert not cluster.services
    assert not cluster.rows


def test_a_task_that_completed_under_on_failure_holds_its_slot() -> None:
    cluster = Cluster(1)
    cluster.outcome = lambda task: "complete"
    cluster.create(spec(replicas=2, restart=RestartPolicy(condition=RestartCondition.ON_FAILURE)))
    cluster.run(600)
    assert cluster.made == 2
    assert [task.observed for task in cluster.tasks()] == [S.COMPLETE, S.COMPLETE]


def test_history_keeps_the_five_newest_ended_tasks_of_a_slot() -> None:
    cluster = Cluster(1)
    cluster.outcome = lambda task: "fail"
    cluster.create(spec(replicas=1, restart=RestartPolicy(delay=1)))
    cluster.run(30)
    ended = [task.id for task in cluster.tasks() if task.ended]
    assert len(ended) in (5, 6)  # the newest may still be wanted
    assert cluster.made > 20
    assert min(ended) > max(task.id for task in cluster.history)
