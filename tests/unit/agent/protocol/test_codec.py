"""What a document that does not fit is told."""

from __future__ import annotations

import pytest

from agent.protocol.codec import InvalidSpec, decode
from agent.protocol.spec import ContainerSpec


def test_a_choice_that_is_none_is_told_the_ones_with_a_name() -> None:
    with pytest.raises(InvalidSpec) as refused:
        decode(ContainerSpec, {"image": "web", "isolation": "vm"})
    assert refused.value.detail == "isolation: must be one of shared, shim"
    assert refused.value.extra["field"] == "isolation"
