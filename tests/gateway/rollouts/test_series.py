"""The points of a rollout in bounded memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.rollouts.series import EVENTS, LONGEST, MOST, SHORTEST, Series


def point(at: float, kind: str = "judgement") -> dict[str, object]:
    return {"at": at, "kind": kind}


def test_a_month_fits_and_all_of_it_is_there() -> None:
    series, at, said = Series(), 0.0, 0
    while at < 30 * 86_400.0:
        if series.due(at, said):
            series.noted(at, said)
            series.add(point(at))
        at += SHORTEST
    times = [one["at"] for one in series]
    assert MOST // 2 <= len(times) <= MOST
    assert times == sorted(times) and times[0] < 2 * 86_400 and times[-1] > 29 * 86_400


def test_what_is_said_anew_is_a_point_soon_and_what_is_said_again_every_minute_at_least() -> None:
    series = Series()
    series.noted(100.0, "not_yet")
    assert not series.due(101.0, "promote") and series.due(103.0, "promote")
    assert not series.due(103.0, "not_yet") and series.due(100.0 + LONGEST, "not_yet")
    assert series.due(50.0, "not_yet")  # the wall clock was set back


@given(st.lists(st.sampled_from(["judgement", "step", "pause"]), max_size=3000))
def test_events_outlive_judgements_and_both_are_bounded(kinds: list[str]) -> None:
    series = Series(point(float(at), kind) for at, kind in enumerate(kinds))
    events = [one for one in series if one["kind"] != "judgement"]
    assert len(series) - len(events) <= MOST and len(events) == min(EVENTS, sum(kind != "judgement" for kind in kinds))
    assert [one["at"] for one in series] == sorted(one["at"] for one in series)
    if kinds:
        assert next(reversed(list(series)))["at"] == len(kinds) - 1
