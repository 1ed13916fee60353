"""The desk where there is more than one kind: further tries, classes, limits, greedy tenants, filler."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.reservation import Reservation
from gateway.core.snapshot import Snapshot
from gateway.core.types import UNKNOWN, Decision, Outcome, Request
from policies.admission.base import ClassRule
from policies.admission.desk import ASKED, Desk
from policies.admission.limit import START
from policies.admission.places import FEW
from tests.support.desks import Least, Tap, desk_of, fill, fleet_of, give_back, must_wait
from tests.support.waiting import Caller, ask, foresee

# --- several tries, classes, limits -------------------------------------------------------------------------------


def test_a_further_try_goes_past_who_waits_and_is_not_judged_again() -> None:
    fleet = fleet_of(2)
    desk = desk_of(fleet, Least(ttft=9.0, base=9.0))
    fleet.ours[:] = fleet.requests[:] = 100.0
    must_wait(desk, Caller(), ask(ttft_slo=0.5), 0.0)
    again = Caller("again", avoid=("e0",))
    place = desk.offer(again, ask(ttft_slo=0.5), 0.3)
    assert isinstance(place, Reservation) and place.endpoint.id == "e1"


def test_strict_priority_and_nobody_below_is_asked_while_somebody_above_waits() -> None:
    desk = desk_of(fleet_of(1, limit=1))
    (place,) = fill(desk, 1)
    bulk, people = Caller("bulk"), Caller("people")
    must_wait(desk, bulk, ask(klass="bulk"), 0.0)
    must_wait(desk, people, ask(), 0.0)
    give_back(desk, place, 0.1)
    desk.serve(0.1)
    assert people.place is not None and bulk.calls == 0
    must_wait(desk, Caller(), ask(klass="bulk", arrived=0.2), 0.2)
    give_back(desk, people.place, 0.3)
    desk.serve(0.3)
    assert bulk.place is not None


def test_a_few_that_cannot_go_do_not_keep_the_next_one_from_its_place() -> None:
    def pick(request: Request, snapshot: Snapshot) -> Decision:
        return Decision(0, "x", forecast=foresee(0.1, 0.5 if request.prompt_tokens > 1000.0 else 0.01))

    fleet = fleet_of(1)
    fleet.ours[0] = fleet.requests[0] = 20.0
    desk = desk_of(fleet, pick, (ClassRule("interactive", 10, 100, 10.0, "fifo"),))
    for number in range(ASKED - 1):
        must_wait(desk, Caller(f"long {number}"), ask(prompt=9000.0, tpot_slo=0.1), 0.0)
    short = Caller("short")
    must_wait(desk, short, ask(tpot_slo=0.1), 0.0)
    assert desk.changed()
    desk.serve(0.1)
    assert short.place is not None and len(desk) == ASKED - 1


def test_a_pool_has_its_own_limit_and_a_class_may_have_places_that_others_do_not_get() -> None:
    rules = (ClassRule("interactive", 10, 100, 10.0, "fifo", reserve=0.5), ClassRule("bulk", 0, 100, 10.0, "fifo"))
    desk = desk_of(fleet_of(2), rules=rules, limit=4)
    places = fill(desk, 2, klass="bulk")
    waiting = must_wait(desk, Caller("bulk"), ask(klass="bulk"), 0.0)
    assert len(fill(desk, 2)) == 2
    must_wait(desk, Caller("people"), ask(), 0.0)
    assert desk.report(0.0)["bulk"].inflight == 2 and desk.report(0.0)["interactive"].waiting == 1
    for place in places:
        give_back(desk, place, 0.1, ask(klass="bulk"))
        desk.serve(0.1)
    assert waiting.item.place is not None and len(desk) == 0


def test_reserves_count_places_that_endpoints_have_where_the_pool_has_no_limit() -> None:
    rules = (ClassRule("interactive", 10, 100, 10.0, "fifo", reserve=0.5), ClassRule("bulk", 0, 100, 10.0, "fifo"))
    desk = desk_of(fleet_of(2, limit=2), rules=rules)
    fill(desk, 2, klass="bulk")
    must_wait(desk, Caller("bulk"), ask(klass="bulk"), 0.0)
    desk = desk_of(fleet_of(2), rules=rules)
    fill(desk, 50, klass="bulk")  # without limits nothing is a share of them


def test_without_a_predictor_an_endpoint_gets_what_the_time_between_tokens_says_it_carries() -> None:
    fleet = fleet_of(1, predicts=False)
    desk = desk_of(fleet, Least())
    places = fill(desk, int(START))
    caller = Caller()
    must_wait(desk, caller, ask(), 0.0)
    request = ask()
    done = Outcome(request, fleet.endpoint(0), 0, 200, "complete", 1.0, 0.1, output_tokens=50.0)
    places[0].settle(1.0)
    desk.ended(places[0], request, done, 1.0)
    desk.serve(1.0)
    assert caller.place is not None and desk.places.adaptive.limit(0) > START
    desk.row_left(0)
    assert desk.places.adaptive.limit(0) == START


def test_a_predictor_that_has_seen_few_answers_is_not_trusted_with_more_than_that() -> None:
    class Young:
        samples = FEW - 1

    fleet = fleet_of(1)
    fleet.predictor.learnt = type("L", (), {"tpot": Young()})()  # type: ignore[union-attr,assignment]
    desk = desk_of(fleet, Least(each=0.0))
    fill(desk, int(START), tpot_slo=0.1)
    must_wait(desk, Caller(), ask(tpot_slo=0.1), 0.0)


def test_a_limit_that_the_operator_set_stands_in_place_of_what_was_found_out() -> None:
    fill(desk_of(fleet_of(1, limit=500, predicts=False), Least()), 3 * int(START))


def crowded(desk: Desk[Caller]) -> None:
    """20 s in which one tenant asks for five times as much as each of three others."""
    for number in range(200):
        for tenant in ("greedy", "greedy", "greedy", "greedy", "greedy", "b", "c", "d"):
            (place,) = fill(desk, 1, now=number / 10.0, tenant=tenant)
            give_back(desk, place, number / 10.0, ask(tenant=tenant))


def test_what_a_tenant_asks_for_beyond_its_share_fills_what_the_others_leave_and_keeps_nobody_waiting() -> None:
    tap = Tap()
    desk = desk_of(fleet_of(1), Least(each=0.0), excess=tap)
    crowded(desk)
    assert tap.running and "taken" in tap.log
    tap.open = False
    greedy = must_wait(desk, Caller("greedy"), ask(tenant="greedy", arrived=20.0), 20.0)
    assert greedy.behind
    assert isinstance(desk.offer(Caller("b"), ask(tenant="b", arrived=20.0), 20.0), Reservation)
    asked = tap.log.count("asked 1")
    for number in range(20):
        must_wait(desk, Caller(f"greedy {number}"), ask(tenant="greedy", arrived=20.0), 20.0)
    assert tap.log.count("asked 1") <= asked + ASKED  # to find out where they may go costs more
    tap.open = True
    assert desk.changed()
    desk.serve(20.1)
    assert greedy.item.place is not None and len(desk) == 0


def test_where_nothing_is_predicted_it_leaves_a_part_of_the_places_to_others() -> None:
    desk = desk_of(fleet_of(1, limit=40, predicts=False), Least())
    crowded(desk)
    fill(desk, 30, now=20.0, tenant="greedy")
    must_wait(desk, Caller("greedy"), ask(tenant="greedy", arrived=20.0), 20.0)
    assert isinstance(desk.offer(Caller("b"), ask(tenant="b", arrived=20.0), 20.0), Reservation)


# --- filler -------------------------------------------------------------------------------------------------------


FILLING = (ClassRule("interactive"), ClassRule("async", 0, 1000, 86_400.0, "deadline", filler=True))


def test_filler_goes_where_its_control_lets_it_and_else_waits_for_hours() -> None:
    tap = Tap()
    desk = desk_of(fleet_of(), rules=FILLING, filler=tap)
    batch = ask(klass="async", filler=True, ttft_slo=UNKNOWN)
    assert isinstance(desk.offer(Caller("one", aborted=2), batch, 0.0), Reservation) and tap.log == ["asked 2"]
    tap.open = False
    two = Caller("two")
    must_wait(desk, two, batch, 0.0)
    assert desk.victims(0.0) == tap.running and len(tap.running) == 1
    fill(desk, 1)
    assert tap.log[-1] == "taken"
    for hour in range(20):
        assert desk.changed()
        desk.serve(hour * 3600.0)
    assert two.calls == 0
    tap.open = True
    give_back(desk, tap.running[0], 80_000.0, batch)
    assert tap.log[-1] == "ended"
    desk.serve(80_000.0)
    assert two.place is not None


def test_filler_waits_for_everybody_and_nobody_waits_for_filler() -> None:
    tap = Tap()
    tap.open = False
    desk = desk_of(fleet_of(1, limit=1), rules=FILLING, filler=tap)
    must_wait(desk, Caller("batch"), ask(klass="async", filler=True), 0.0)
    (place,) = fill(desk, 1, now=5000.0)  # it has not aged
    must_wait(desk, Caller("people"), ask(arrived=5000.0), 5000.0)
    tap.open = True
    give_back(desk, place, 5001.0)
    desk.serve(5001.0)
    assert tap.running == []


# --- in shadow ----------------------------------------------------------------------------------------------------


def test_a_class_in_shadow_refuses_nobody_and_counts_whom_it_would_have() -> None:
    rules = (ClassRule("interactive", 10, 1, 2.0, "fifo", shadow=True),)
    desk = desk_of(fleet_of(1, limit=1), rules=rules)
    (place,) = fill(desk, 1)
    callers = [Caller(f"number {n}") for n in range(3)]
    for caller in callers:
        must_wait(desk, caller, ask(), 0.0)
    assert len(desk) == 3, "its queue takes one"
    desk.serve(5.0)
    assert len(desk) == 3 and not any(caller.calls for caller in callers), "its wait is two seconds"
    assert desk.refusals.spared["interactive", "queue_timeout"] >= 2
    give_back(desk, place, 6.0)
    for number, caller in enumerate(callers):
        desk.serve(6.0 + number)
        assert caller.place is not None, "late as they are, they are served"
        give_back(desk, caller.place, 6.5 + number)


def test_a_promise_that_cannot_be_kept_is_counted_and_the_request_is_served_late() -> None:
    desk = desk_of(fleet_of(1), Least(ttft=9.0), (ClassRule("interactive", 10, 9, 2.0, "fifo", shadow=True),))
    desk.fleet.ours[:] = desk.fleet.requests[:] = 100.0
    caller = Caller()
    must_wait(desk, caller, ask(ttft_slo=0.5), 0.0)
    desk.serve(1.0)
    assert desk.refusals.spared == {("interactive", "slo"): 1} and caller.place is not None


@pytest.mark.parametrize("rule", [{"late": "serve"}, {"shadow": True}])
def test_who_is_served_late_is_refused_all_the_same_when_its_own_deadline_cannot_be_kept(rule: dict[str, Any]) -> None:
    desk = desk_of(fleet_of(1, limit=1), rules=(ClassRule("interactive", 10, 9, 60.0, "fifo", **rule),))
    fill(desk, 1)
    caller = Caller()
    must_wait(desk, caller, ask(ttft_slo=0.5, deadline=3.0), 0.0)
    desk.serve(1.0)
    assert caller.calls == 0, "its promise is broken, its deadline is not"
    desk.serve(3.0)
    assert caller.error is not None and caller.error.code == "deadline" and len(desk) == 0


def test_who_is_served_late_is_not_sent_where_its_deadline_would_be_missed() -> None:
    pick = Least()
    desk = desk_of(fleet_of(1, limit=1), pick, (ClassRule("interactive", 10, 9, 60.0, "fifo", late="serve"),))
    (place,) = fill(desk, 1)
    caller = Caller()
    waiting = must_wait(desk, caller, ask(ttft_slo=0.5, deadline=9.0), 0.0)
    desk.serve(1.0)
    assert waiting.late and caller.calls == 0
    pick.ttft = 9.0
    give_back(desk, place, 2.0)
    desk.serve(2.0)
    assert caller.error is not None and caller.error.code == "deadline"
