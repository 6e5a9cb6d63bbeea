import pytest

from agent.protocol.codec import InvalidSpec
from nodes.constraints import first_unmet, parse
from nodes.snapshot import NodeView

NODE = NodeView(
    "abc",
    hostname="Host1",
    role="worker",
    arch="x86_64",
    labels={"zone": "A"},
    engine_labels={"disk": "ssd"},
    addresses=("10.0.0.7/24",),
)


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("node.id==abc", True),
        ("node.id == ABC", True),
        ("node.id!=abc", False),
        ("node.hostname==host1", True),
        ("node.role!=manager", True),
        ("node.platform.os==linux", True),
        ("node.platform.arch==amd64", True),
        ("node.platform.arch==x86_64", True),
        ("node.platform.arch==arm64", False),
        ("node.labels.zone==a", True),
        ("node.labels.zone!=b", True),
        ("node.labels.absent==x", False),
        ("node.labels.absent!=x", True),
        ("engine.labels.disk==ssd", True),
        ("engine.labels.zone==a", False),
        ("node.ip==10.0.0.7", True),
        ("node.ip!=10.0.0.8", True),
    ],
)
def test_constraints_compare_as_swarmkit_does(text: str, met: bool) -> None:
    assert (first_unmet([text], NODE) is None) is met


@pytest.mark.parametrize(
    "text", ["", "node.id", "node.id=abc", "node.id==", "node.foo==1", "node.labels.==x", "==x", "node.id===x"]
)
def test_malformed_constraints_are_refused_with_a_reason(text: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        parse(text)
    assert caught.value.extra["field"] == "placement.constraints"
