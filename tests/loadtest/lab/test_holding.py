import math

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.types import UNKNOWN, Request
from loadtest.lab.holding import ASKED, Holding


def request(arrived: float, slo: float = UNKNOWN) -> Request:
    return Request(f"{arrived}", "m", arrived, ttft_slo=slo)


def test_nobody_is_asked_before_something_changes_or_time_is_over() -> None:
    holding: Holding[str] = Holding()
    holding.push("a", request(0.0), 1.0)
    assert holding.due(0.5) == []
    assert holding.next_at == 1.0
    assert len(holding) == 1


def test_a_change_asks_the_most_urgent_first_and_only_a_few() -> None:
    holding: Holding[int] = Holding()
    for number in range(ASKED + 3):
        holding.push(number, request(10.0 - number, slo=0.5), 100.0)
    holding.wake()
    assert [held.item for held in holding.due(11.0)] == [6, 5, 4, 3]
    assert holding.due(11.0) == []
    assert len(holding) == 3


def test_a_tighter_promise_goes_first_and_without_any_it_is_first_come_first_served() -> None:
    holding: Holding[str] = Holding()
    holding.push("late, tight", request(0.4, slo=0.2), 9.0)
    holding.push("early, loose", request(0.0, slo=2.0), 9.0)
    holding.push("second", request(0.2), 9.0)
    holding.push("first", request(0.1), 9.0)
    holding.wake()
    assert [held.item for held in holding.due(1.0)] == ["late, tight", "first", "second", "early, loose"]


def test_who_has_no_time_left_is_asked_for_the_last_time() -> None:
    holding: Holding[str] = Holding()
    holding.push("a", request(0.0), 1.0)
    holding.push("b", request(0.0), 2.0)
    (held,) = holding.due(1.0)
    assert (held.item, held.until) == ("a", 1.0)
    assert holding.next_at == 2.0


def test_a_change_while_nobody_was_held_is_no_news_to_who_comes_later() -> None:
    holding: Holding[str] = Holding()
    holding.wake()
    holding.push("a", request(0.0), 1.0)
    assert holding.due(0.5) == []


def test_who_gives_up_is_never_handed_out() -> None:
    holding: Holding[str] = Holding()
    ticket = holding.push("a", request(0.0), 1.0)
    assert holding.cancel(ticket)
    assert not holding.cancel(ticket)
    holding.wake()
    assert holding.due(5.0) == []
    assert holding.next_at == math.inf


@given(st.lists(st.tuples(st.sampled_from(["push", "wake", "cancel", "due"]), st.floats(0.0, 5.0)), max_size=60))
def test_each_is_handed_out_or_cancelled_exactly_once(moves: list[tuple[str, float]]) -> None:
    holding: Holding[int] = Holding()
    now, pushed, tickets, gone = 0.0, 0, {}, []
    for move, amount in moves:
        now += amount / 10.0
        if move == "push":
            tickets[pushed] = holding.push(pushed, request(now, amount), now + amount)
            pushed += 1
        elif move == "wake":
            holding.wake()
        elif move == "cancel" and tickets:
            number = next(iter(tickets))
            if holding.cancel(tickets.pop(number)):
                gone.append(number)
        elif move == "due":
            found = holding.due(now)
            gone += [held.item for held in found]
            assert holding.next_at > now
            for held in found:
                tickets.pop(held.item, None)
    gone += [held.item for held in holding.due(math.inf)]
    assert sorted(gone) == list(range(pushed))
