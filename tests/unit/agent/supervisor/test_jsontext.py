from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.supervisor import jsontext

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(plain)
def test_what_is_written_is_read_and_is_json(value: Any) -> None:
    data = jsontext.dumps(value)
    assert jsontext.loads(data) == value
    assert json.loads(data) == value
    assert data.isascii()


@given(plain)
def test_what_others_write_is_read(value: Any) -> None:
    assert jsontext.loads(json.dumps(value, indent=2, ensure_ascii=False).encode("utf-8", "surrogatepass")) == value


@pytest.mark.parametrize(
    "data", [b"", b" ", b"{", b'{"a"}', b"[1,]", b"nul", b"1 2", b'"\n"', b"\xff", b"[" * 100_000, b'{"a": }']
)
def test_what_is_not_json_is_refused(data: bytes) -> None:
    with pytest.raises(jsontext.InvalidJson):
        jsontext.loads(data)


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes"])
def test_what_is_not_plain_data_is_not_written(value: Any) -> None:
    with pytest.raises(TypeError):
        jsontext.dumps(value)
    with pytest.raises(ValueError, match="JSON compliant"):
        jsontext.dumps(float("nan"))
