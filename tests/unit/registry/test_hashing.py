"""Saved hash state: every split resumes to hashlib's digest, in this process and in another."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys

import pytest

from registry.storage import hashing


@pytest.mark.parametrize("algorithm", hashing.ALGORITHMS)
def test_two_hundred_random_splits(algorithm: str) -> None:
    assert hashing.savable(), "libcrypto's SHA-2 state works on every machine we test on"
    rand = random.Random(7)
    for _ in range(200):
        data = rand.randbytes(rand.randint(0, 2000))
        cut = rand.randint(0, len(data))
        first = hashing.new_hash(algorithm)
        first.update(data[:cut])
        second = hashing.resume(algorithm, cut, first.state())
        assert second is not None
        second.update(data[cut:])
        assert second.hexdigest() == hashlib.new(algorithm, data).hexdigest()
        assert second.hexdigest() == second.hexdigest(), "asking for the digest does not disturb it"
        assert second.count == len(data)


def test_state_goes_to_another_process() -> None:
    first = hashing.new_hash("sha256")
    first.update(b"from here ")
    state = first.state()
    assert state is not None
    program = (
        "import sys\nfrom registry.storage import hashing\n"
        "h = hashing.resume('sha256', 10, bytes.fromhex(sys.argv[1]))\nh.update(b'to there')\nprint(h.hexdigest())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, state.hex()],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert done.stdout.strip() == hashlib.sha256(b"from here to there").hexdigest(), done.stderr


def test_a_state_of_other_shape_is_refused() -> None:
    running = hashing.new_hash("sha256")
    running.update(b"abc")
    state = running.state()
    assert state is not None
    assert hashing.resume("sha256", 4, state) is None, "another count"
    assert hashing.resume("sha512", 3, state) is None, "another algorithm"
    assert hashing.resume("sha256", 3, state[:-1]) is None, "cut short"
    assert hashing.resume("sha256", 3, None) is None
    assert hashing.resume("sha256", 3, state) is not None


def test_the_way_back_is_hashlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "savable", lambda: False)
    running = hashing.new_hash("sha512")
    running.update(b"plain")
    assert running.state() is None
    assert running.hexdigest() == hashlib.sha512(b"plain").hexdigest()
