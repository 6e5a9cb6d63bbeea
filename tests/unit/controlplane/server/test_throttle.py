from controlplane.server.throttle import TokenBucket


def test_a_burst_is_free_and_then_the_rate_holds() -> None:
    now = [0.0]
    bucket = TokenBucket(10, 3, lambda: now[0])
    assert [bucket.take() for _ in range(3)] == [0, 0, 0]
    assert bucket.take() == 0.1
    assert bucket.take() == 0.2
    now[0] = 0.2
    assert bucket.take() == 0.1


def test_idle_time_saves_no_more_than_the_burst() -> None:
    now = [0.0]
    bucket = TokenBucket(10, 3, lambda: now[0])
    now[0] = 1000.0
    assert [bucket.take() for _ in range(4)] == [0, 0, 0, 0.1]
