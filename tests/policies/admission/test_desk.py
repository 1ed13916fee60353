"""The desk: who goes, who waits, who is refused and with which word, over a fleet whose predictions a test sets."""

from __future__ import annotations

import math

import pytest

from gateway.core.errors import NoEndpoint, Refused
from gateway.core.health import Evidence
from gateway.core.reservation import Reservation
from gateway.core.snapshot import Snapshot
from gateway.core.types import Decision, Request
from policies.admission.base import ClassRule, Waiting
from tests.support.desks import Least, desk_of, fill, fleet_of, give_back, must_wait, refusal
from tests.support.waiting import Caller, ask

# --- going and waiting --------------------------------------------------------------------------------------------


def test_who_comes_when_nobody_waits_goes_at_once() -> None:
    caller, fleet = Caller(), fleet_of()
    place = desk_of(fleet).offer(caller, ask(), 0.0)
    assert isinstance(place, Reservation) and caller.log == ["guest chosen"] and fleet.ours.sum() == 1.0


def test_a_place_that_is_given_back_goes_to_who_waits() -> None:
    desk = desk_of(fleet_of(1, limit=1))
    (place,) = fill(desk, 1)
    first, second = Caller("first"), Caller("second")
    must_wait(desk, first, ask(), 0.0)
    must_wait(desk, second, ask(), 0.0)
    desk.serve(0.1)
    assert not first.calls  # nothing has changed
    give_back(desk, place, 0.2)
    desk.serve(0.2)
    assert isinstance(first.place, Reservation) and not second.calls
    give_back(desk, first.place, 0.3)
    desk.serve(0.3)
    assert (first.calls, second.calls) == (1, 1) and len(desk) == 0


def test_a_promise_that_cannot_be_kept_now_waits_until_it_can() -> None:
    desk = desk_of(fleet_of(1))
    places = fill(desk, 13, tpot_slo=0.025)  # 10 ms and 1 ms for each: beyond 90 % of the promise there is no room
    caller = Caller()
    waiting = must_wait(desk, caller, ask(tpot_slo=0.025, ttft_slo=0.5), 0.0)
    assert waiting.why == "slo" and desk.next_at == waiting.until < 0.5
    give_back(desk, places[0], 0.1)
    give_back(desk, places[1], 0.1)
    desk.serve(0.1)
    assert caller.place is not None


def test_a_promise_that_cannot_be_kept_any_more_is_refused_when_its_time_is_over() -> None:
    desk = desk_of(fleet_of(1))
    fill(desk, 13, tpot_slo=0.025)
    caller = Caller()
    waiting = must_wait(desk, caller, ask(tpot_slo=0.025, ttft_slo=0.5), 0.0)
    desk.serve(waiting.until)
    assert isinstance(caller.error, Refused) and caller.error.code == "slo" and len(desk) == 0
    assert caller.error.retry_after is not None and caller.error.retry_after >= 1.0 and caller.error.should_retry


def test_a_policy_remembers_only_a_choice_by_which_a_request_goes() -> None:
    remembered, least = list[str](), Least()

    def pick(request: Request, snapshot: Snapshot) -> Decision:
        return least(request, snapshot)._replace(taken=lambda: remembered.append(request.id))

    desk = desk_of(fleet_of(1), pick)
    places = fill(desk, 13, tpot_slo=0.025)
    assert len(remembered) == 13
    must_wait(desk, Caller(), ask("waits", tpot_slo=0.025, ttft_slo=0.5), 0.0)
    assert refusal(desk, ask("late", deadline=0.01), 0.0).reason == "deadline"
    for step in range(5):  # it is asked about again and may still not go
        desk.changed()
        desk.serve(step * 0.01)
    asked = [request.id for request in least.asked]
    assert asked.count("waits") > 5 and "late" in asked and len(remembered) == 13
    give_back(desk, places[0], 0.1)
    give_back(desk, places[1], 0.1)
    desk.serve(0.1)
    assert remembered[13:] == ["waits"]


def test_or_it_is_served_late_after_those_who_can_still_make_it() -> None:
    desk = desk_of(fleet_of(1), rules=(ClassRule("interactive", 10, 100, 5.0, "fifo", late="serve"),))
    places = fill(desk, 13, tpot_slo=0.025)
    late, new = Caller("late"), Caller("new")
    waiting = must_wait(desk, late, ask(tpot_slo=0.025, ttft_slo=0.5), 0.0)
    desk.serve(waiting.until)
    assert late.calls == 0 and waiting.late
    must_wait(desk, new, ask(arrived=0.6, tpot_slo=0.025, ttft_slo=0.5), 0.6)
    give_back(desk, places[0], 0.7)
    desk.serve(0.7)
    assert new.place is not None and late.calls == 0
    give_back(desk, places[2], 0.8)
    desk.serve(0.8)
    assert late.place is not None
    must_wait(desk, late, ask(tpot_slo=0.025, ttft_slo=0.5), 0.9)  # late when it comes: it may wait all the same
    desk.serve(6.0)
    assert late.error is not None and late.error.code == "queue_timeout"


def test_who_comes_when_the_queue_ahead_cannot_drain_in_time_is_refused_at_once() -> None:
    desk = desk_of(fleet_of(1, limit=1))
    for number in range(40):  # one answer in 0.1 s
        (place,) = fill(desk, 1, now=number / 10.0)
        give_back(desk, place, number / 10.0 + 0.09)
    fill(desk, 1, now=4.0)
    taken = 0
    with pytest.raises(Refused) as caught:
        for number in range(100):
            must_wait(desk, Caller(f"{number}"), ask(arrived=4.0, ttft_slo=1.0), 4.0)
            taken += 1
    assert 4 <= taken <= 8  # of those that could be served before it would be late, a part
    assert caught.value.reason == "slo" and caught.value.retry_after is not None


def test_words_for_refusals_on_arrival() -> None:
    desk = desk_of(fleet_of(1, limit=1), rules=(ClassRule("interactive", 10, 1, 10.0, "fifo"),))
    fill(desk, 1)
    hopeless = refusal(desk, ask(deadline=0.1), 0.0)
    assert (hopeless.reason, hopeless.should_retry, hopeless.retry_after) == ("deadline", False, None)
    must_wait(desk, Caller(), ask(), 0.0)
    full = refusal(desk, ask(), 0.0)
    assert (full.reason, full.status) == ("queue_full", 429) and full.retry_after


def test_a_deadline_that_cannot_be_met_is_refused_on_arrival_also_behind_others() -> None:
    desk = desk_of(fleet_of(1), Least(each=0.0))
    late = refusal(desk, ask(deadline=0.7), 0.0)  # 0.6 s expected, but answers are often longer
    assert late.reason == "deadline" and late.should_retry and late.retry_after
    desk.room.enter(Waiting(Caller(), ask(), 0.0, 100.0))
    assert refusal(desk, ask(deadline=0.7), 0.0).reason == "deadline"
    must_wait(desk, Caller(), ask(deadline=50.0), 0.0)


def test_without_anything_promised_it_waits_as_long_as_its_class_may() -> None:
    desk = desk_of(fleet_of(1, limit=1, predicts=False))
    fill(desk, 1)
    caller = Caller()
    must_wait(desk, caller, ask(), 0.0)
    desk.serve(9.9)
    assert caller.calls == 0
    desk.serve(10.0)
    assert caller.error is not None and caller.error.code == "queue_timeout"


def test_when_nobody_is_there_any_more_who_waits_is_told() -> None:
    fleet = fleet_of(1, limit=1)
    desk = desk_of(fleet)
    fill(desk, 1)
    caller = Caller()
    must_wait(desk, caller, ask(), 0.0)
    for _ in range(2):
        fleet.see(0, Evidence.REFUSED, 0.1)
    assert desk.changed()
    desk.serve(0.1)
    assert isinstance(caller.error, NoEndpoint)
    with pytest.raises(NoEndpoint):
        desk.offer(Caller(), ask(), 0.1)


def test_who_leaves_is_not_called() -> None:
    desk = desk_of(fleet_of(1, limit=1))
    (place,) = fill(desk, 1)
    gone, stays = Caller("gone"), Caller("stays")
    waiting = must_wait(desk, gone, ask(), 0.0)
    must_wait(desk, stays, ask(), 0.0)
    desk.leave(waiting)
    desk.leave(waiting)
    give_back(desk, place, 0.1)
    desk.serve(0.1)
    assert gone.calls == 0 and stays.calls == 1


# --- a later choice -----------------------------------------------------------------------------------------------


def test_a_policy_may_rather_choose_later_and_takes_what_there_is_when_its_time_is_over() -> None:
    pick = Least(wait=0.2)
    desk = desk_of(fleet_of(), pick)
    caller = Caller()
    waiting = must_wait(desk, caller, ask(ttft_slo=1.0), 0.0)
    assert desk.next_at == 0.2 and waiting.until > 0.9
    assert desk.changed()
    desk.serve(0.1)
    assert caller.calls == 0 and pick.asked[-1].may_wait
    desk.serve(0.2)
    assert caller.place is not None and not pick.asked[-1].may_wait


def test_who_only_waits_for_a_better_choice_keeps_nobody_from_a_place() -> None:
    pick = Least(wait=5.0)
    desk = desk_of(fleet_of(), pick)
    held = must_wait(desk, Caller("held"), ask(), 0.0)
    pick.wait = 0.0
    assert isinstance(desk.offer(Caller("new"), ask(), 0.1), Reservation)
    assert desk.changed()
    desk.serve(0.1)
    assert held.left and held.item.place is not None


def test_who_was_held_and_finds_no_room_waits_for_it() -> None:
    pick = Least(wait=0.2)
    fleet = fleet_of(1, limit=1)
    desk = desk_of(fleet, pick)
    held = must_wait(desk, Caller("held"), ask(), 0.0)
    pick.wait = 0.0
    (place,) = fill(desk, 1)
    desk.serve(0.2)
    assert held.asks_at == math.inf and held.item.calls == 0
    must_wait(desk, Caller("new"), ask(), 0.3)  # it may not overtake now
    give_back(desk, place, 0.4)
    desk.serve(0.4)
    assert held.item.place is not None
