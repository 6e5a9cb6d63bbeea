"""Golden messages of version 1: what old agents in the field send and expect must never change meaning.

A failing case means that the wire format changed. If that is intended, it needs a new protocol version, not a new golden file.
"""

import json
from pathlib import Path

import pytest

from agent.protocol import messages as m
from agent.protocol.codec import decode, encode

GOLDEN = json.loads(Path(__file__).with_name("golden_v1.json").read_text())


def test_every_message_has_a_golden_form() -> None:
    assert {item["type"] for item in GOLDEN} == set(m.BY_TYPE)


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda item: item["type"])
def test_golden(golden: dict[str, object]) -> None:
    fields = {key: value for key, value in golden.items() if key != "type"}
    message = decode(m.BY_TYPE[str(golden["type"])], fields, unknown="ignore")
    assert {"type": message.TYPE, **encode(message)} == golden
