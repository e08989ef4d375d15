from dotmac_operator.hosts.breaker import Breaker


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def opened() -> tuple[Breaker, Clock]:
    clock = Clock()
    breaker = Breaker(failures=3, seconds=60, clock=clock, spread=lambda low, high: high)
    for _ in range(3):
        breaker.failed()
    return breaker, clock


def test_stays_closed_below_the_limit():
    breaker = Breaker(failures=3)
    breaker.failed()
    breaker.failed()
    assert breaker.retry_after() == 0
    assert not breaker.half_open


def test_a_success_forgets_earlier_failures():
    breaker = Breaker(failures=3)
    breaker.failed()
    breaker.failed()
    breaker.succeeded()
    breaker.failed()
    assert breaker.retry_after() == 0


def test_opens_for_its_time_with_jitter():
    breaker, clock = opened()
    assert breaker.retry_after() == 72.0
    assert not breaker.half_open
    clock.now += 71
    assert breaker.retry_after() == 1.0


def test_jitter_stays_within_a_fifth():
    for _ in range(50):
        breaker = Breaker(failures=1, seconds=60, clock=lambda: 0.0)
        breaker.failed()
        assert 48 <= breaker.retry_after() <= 72


def test_half_open_lets_one_probe_decide():
    breaker, clock = opened()
    clock.now += 73
    assert breaker.retry_after() == 0
    assert breaker.half_open
    breaker.failed()
    assert breaker.retry_after() == 72.0
    clock.now += 73
    breaker.succeeded()
    assert not breaker.half_open
    breaker.failed()
    assert breaker.retry_after() == 0
