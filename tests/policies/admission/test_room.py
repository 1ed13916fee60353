"""The room: strict priority with ageing, time that runs out, what drains, and nobody lost."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import Refused
from policies.admission.base import ClassRule, Waiting
from policies.admission.room import AGEING, LATEST, SOONEST, WaitingRoom
from policies.admission.shares import Shares
from tests.support.waiting import waits

HIGH, LOW = ClassRule("high", 10, 50, 10.0, "fifo"), ClassRule("low", 0, 50, 1000.0, "deadline")
FILL = ClassRule("fill", -1, 1000, 86_400.0, "deadline", filler=True)


def room(*rules: ClassRule) -> WaitingRoom:
    return WaitingRoom(rules or (HIGH, LOW, FILL), Shares())


def enter(room: WaitingRoom, name: str, klass: str = "high", since: float = 0.0, until: float = 1000.0) -> Waiting:
    waiting = waits(name, since=since, until=until, klass=klass)
    room.enter(waiting)
    return waiting


def order_of(room: WaitingRoom, now: float) -> list[str]:
    """Who would go, one after the other; the room is empty then."""
    found = []
    while (waiting := room.next(now)) is not None:
        found.append(waiting.item)
        room.leave(waiting)
    return found


def test_a_higher_class_goes_first_and_within_a_class_its_order_decides() -> None:
    it = room()
    for name, klass, until in (("l2", "low", 5.0), ("f", "fill", 1.0), ("l1", "low", 2.0), ("h1", "high", 9.0),
                               ("h2", "high", 3.0)):  # fmt: skip
        enter(it, name, klass, until=until)
    assert order_of(it, 0.0) == ["h1", "h2", "l1", "l2", "f"]


def test_who_has_waited_long_goes_before_a_higher_class_but_filler_never_does() -> None:
    it = room()
    for klass in ("low", "fill"):
        enter(it, klass, klass, 0.0)
    later = 10.0 * AGEING + 1.0
    enter(it, "high", "high", later)
    assert order_of(it, later) == ["low", "high", "fill"]


def test_a_full_class_refuses_and_says_when_it_will_have_drained() -> None:
    it = room(ClassRule("high", 10, 2, 10.0, "fifo"), LOW)
    for name in "ab":
        enter(it, name)
    for tick in range(100):
        it.flow.note("high", 100.0, tick / 10.0)
    with pytest.raises(Refused) as caught:
        enter(it, "c", since=10.0)
    assert (caught.value.reason, caught.value.status) == ("queue_full", 429)
    assert caught.value.retry_after == SOONEST  # 400 tokens, 1,000 a second
    enter(it, "other", "low", since=10.0)
    assert it.counts(10.0) == {"high": (2, 10.0), "low": (1, 0.0)}


def test_the_time_to_come_back_follows_what_waits_and_what_drains_and_stays_in_bounds() -> None:
    it = room(ClassRule("high", 10, 10_000, 10.0, "fifo"))
    assert it.retry_after("high", 0.0) == SOONEST  # nothing is known
    for tick in range(100):
        it.flow.note("high", 10.0, tick / 10.0)  # 100 tokens a second
    for number in range(5):
        enter(it, str(number), since=10.0)
    assert it.retry_after("high", 10.0) == pytest.approx(10.0, rel=0.1)
    for number in range(1000):
        enter(it, f"more {number}", since=10.0)
    assert it.retry_after("high", 10.0) == LATEST
    assert it.delay(waits("new", since=10.0)) == pytest.approx(2010.0, rel=0.1)


def test_who_comes_later_may_not_overtake_who_waits_for_room_but_may_who_only_waits_for_a_better_choice() -> None:
    it = room()
    new = waits("new", since=1.0, klass="high")
    assert not it.blocks(new)
    held = waits("held", klass="high")
    held.asks_at = 5.0
    it.enter(held)
    assert not it.blocks(new)
    it.wait_for_room(held, 9.0, "slo")
    assert it.blocks(new) and (held.until, held.why) == (9.0, "slo")
    assert it.blocks(waits("low", since=1.0, klass="low"))
    it.leave(held)
    enter(it, "low", "low")
    assert not it.blocks(new)


def test_who_is_late_and_is_served_all_the_same_goes_behind_those_who_still_can() -> None:
    it = room()
    late = enter(it, "late", until=1.0)
    enter(it, "other", until=9.0)
    assert it.over(1.0) == [late] and it.over(1.0) == []
    it.serve_late(late, 10.0)
    enter(it, "new", since=2.0)
    assert it.next_at == 9.0
    assert order_of(it, 2.0) == ["other", "new", "late"]


def test_time_runs_out_in_its_order_and_only_for_who_still_waits() -> None:
    it = room()
    third, first, gone = enter(it, "c", until=3.0), enter(it, "a", until=1.0), enter(it, "gone", until=0.5)
    second = enter(it, "b", "low", until=2.0)
    it.leave(gone)
    it.leave(gone)
    assert it.next_at == 1.0 and it.over(0.9) == []
    assert it.over(5.0) == [first, second, third]
    assert len(it) == 3  # they still stand there: what becomes of them is not the room's business


def test_a_class_of_another_name_waits_like_the_first() -> None:
    it = room()
    enter(it, "x", "unheard of")
    assert it.rule("unheard of") is HIGH and it.counts(1.0)["high"] == (1, 1.0)


def test_another_order_or_other_limits_take_over_who_waits() -> None:
    it = room()
    for name, until in (("calm", 9.0), ("urgent", 1.0)):
        enter(it, name, until=until)
    it.reconfigure([ClassRule("high", 10, 1, 10.0, "deadline"), ClassRule("new", 20, 1, 10.0, "fifo")])
    enter(it, "newest", "new")
    with pytest.raises(Refused):
        enter(it, "too many")
    assert order_of(it, 0.0) == ["newest", "urgent", "calm"]


STEPS = st.lists(
    st.tuples(st.sampled_from(["enter", "enter", "next", "back", "leave", "over", "late", "hold", "rules"]),
              st.sampled_from(["high", "low", "fill"]), st.floats(0.01, 8.0), st.integers(0, 50)),
    max_size=100,
)  # fmt: skip


@given(steps=STEPS, orders=st.permutations(["fifo", "deadline", "fair"]))
def test_whatever_happens_nobody_is_lost_and_nobody_goes_twice(
    steps: list[tuple[str, str, float, int]], orders: list[str]
) -> None:
    def rules(turn: int) -> list[ClassRule]:
        return [ClassRule(name, 5 * number, 1000, 10.0, orders[(number + turn) % 3], filler=name == "fill")
                for number, name in enumerate(("fill", "low", "high"))]  # fmt: skip

    it = WaitingRoom(rules(0), Shares())
    inside: dict[str, Waiting] = {}
    now, told = 0.0, 0.0
    for number, (step, klass, seconds, pick) in enumerate(steps):
        now += seconds / 10.0
        one = inside[sorted(inside)[pick % len(inside)]] if inside else None
        if step == "enter":
            inside[str(number)] = enter(it, str(number), klass, now, now + seconds)
        elif step in ("next", "back"):
            found = it.next(now)
            assert (found is not None) == bool(inside)
            if found is not None and step == "next":
                it.leave(inside.pop(found.item))
            elif found is not None:
                it.put_back(found)
                assert it.next(now) is found
                it.put_back(found)
        elif step == "over":
            for waiting in it.over(now):
                assert waiting.item in inside and waiting.over_at <= now
                it.leave(inside.pop(waiting.item))
        elif step == "rules":
            it.reconfigure(rules(pick))
        elif one is not None and step == "leave":
            it.leave(inside.pop(one.item))
        elif one is not None and step == "late" and not one.late:
            it.serve_late(one, now + 5.0)
        elif one is not None and step == "hold":
            it.take_out(one)
            it.put_back(one)
        assert len(it) == len(inside) == sum(count for count, _ in it.counts(now).values())
        told = it.next_at
        assert told == min((waiting.over_at for waiting in inside.values()), default=math.inf) or step == "over"
    assert sorted(order_of(it, now)) == sorted(inside) and len(it) == 0 and it.next_at == math.inf


@given(ages=st.lists(st.tuples(st.sampled_from(["high", "low"]), st.floats(0.0, 200.0)), min_size=1, max_size=30))
def test_nobody_starves_whatever_keeps_coming_above(ages: list[tuple[str, float]]) -> None:
    it = room()
    for number, (klass, since) in enumerate(sorted(ages, key=lambda one: one[1])):
        enter(it, str(number), klass, since)
    enter(it, "the one", "low", 0.0, until=math.inf)
    now = 300.0
    for turn in range(2000):
        enter(it, f"new {turn}", "high", now)
        found = it.next(now)
        assert found is not None
        it.leave(found)
        if found.item == "the one":
            return
        now += 0.01
    raise AssertionError("it starved")
