"""What is let go and what is turned away, over the last seconds."""

from __future__ import annotations

import pytest

from policies.admission.flow import Flow


def test_what_flows_is_told_soon_after_the_start_and_forgotten_after_a_pause() -> None:
    flow = Flow()
    assert flow.rate("a", 5.0) == 0.0
    for tick in range(10):
        flow.note("a", 50.0, 100.0 + tick / 10.0)
        flow.note("b", 50.0, 100.0 + tick / 10.0)
    assert flow.rate("a", 101.0) == pytest.approx(500.0, rel=0.15)
    assert flow.requests(101.0) == pytest.approx(20.0, rel=0.15)
    assert flow.rate("never let go", 101.0) == pytest.approx(100.0, rel=0.15)  # it is taken to be let go a little
    assert flow.rate("a", 130.0) < 1e-3
    flow.note("a", 50.0, 1e6)
    assert flow.rate("b", 1e6) < 10.0


def test_the_share_of_those_turned_away_is_that_of_the_last_seconds() -> None:
    flow = Flow()
    assert flow.turned_away == 0.0
    for tick in range(100):
        flow.note("a", 10.0, tick / 10.0)
        if tick % 2:
            flow.turn_away(tick / 10.0)
    assert flow.turned_away == pytest.approx(1 / 3, abs=0.02)
    for tick in range(100):
        flow.note("a", 10.0, 10.0 + tick / 10.0)
    assert flow.turned_away < 0.01
    flow.turn_away(1e6)
    assert flow.turned_away > 0.99
