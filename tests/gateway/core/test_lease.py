"""One slice of one limit: what it asks for, what is held and charged of it."""

import pytest

from gateway.core.lease import Lease, leases_of
from gateway.core.limiter import Pace, Terms


def test_there_is_one_for_each_limit() -> None:
    leases = leases_of(Terms(Pace(5.0, 1.0), Pace(600.0, 60.0), 3, 1000))
    assert {kind: (lease.size, lease.each) for kind, lease in leases.items()} == {
        "concurrency": (3.0, 0.0), "requests": (5.0, 0.2), "tokens": (600.0, 0.1), "day": (1000.0, 0.0),
    }  # fmt: skip
    assert leases_of(Terms()) == {}


def test_at_rest_it_asks_for_its_floor_which_shrinks_in_a_crowd() -> None:
    lease = Lease("tokens", 1600.0, 0.01)
    assert lease.target(50.0, 1.0, False) == 100.0
    assert lease.target(50.0, 8.0, False) == 50.0
    assert lease.target(50.0, 1.0, True) == 0.0
    assert Lease("day", 1600.0, 0.0).target(50.0, 1.0, False) == 6.0


def test_in_use_it_asks_for_what_its_pace_needs_and_for_another_large_request() -> None:
    lease = Lease("tokens", 16_000.0, 0.01)
    now = 100.0
    for _ in range(100):
        now += 0.1
        lease.take(400.0, now)
        lease.count(0.1)
    assert lease.pace == pytest.approx(4000.0, rel=0.01)
    assert lease.target(now, 1.0, False) == pytest.approx(4000.0 * 0.3 + 400.0, abs=50.0)
    assert lease.target(now, 1.0, True) == pytest.approx(400.0, abs=5.0)  # until the next report


def test_what_is_held_is_charged_when_it_ends() -> None:
    lease = Lease("tokens", 1000.0, 0.1)
    lease.left = 500.0
    piece, other = lease.take(300.0, 0.0), lease.take(100.0, 0.0)
    assert (lease.left, lease.held.total, lease.total) == (100.0, 400.0, 0.0)
    lease.settle(piece, 120.0)
    assert (lease.left, lease.held.total, lease.total) == (280.0, 100.0, 120.0)
    lease.settle(other, 500.0)  # more than it had, and more than there is
    assert (lease.left, lease.held.total, lease.total) == (-120.0, 0.0, 620.0)


def test_what_would_not_drain_is_charged_the_oldest_first() -> None:
    lease = Lease("tokens", 1000.0, 0.1)
    lease.left, lease.heard_at = 500.0, 10.0
    old, young = lease.take(1.0, 10.0), lease.take(300.0, 10.0)
    lease.charged = 100.0
    lease.convert(10.0, 1.0)
    assert lease.total == 0.0  # there is enough to drain
    lease.charged = 0.0
    lease.convert(10.0, 1.0)
    assert lease.total == pytest.approx(2.0)
    assert (old.left, young.left) == (0.0, pytest.approx(299.0))
    concurrency = Lease("concurrency", 10.0, 0.0)
    concurrency.take(1.0, 10.0)
    concurrency.convert(20.0, 1.0)
    assert concurrency.total == 0.0
