"""The desk: who goes, who waits, who is refused and with which word, over a fleet whose predictions a test sets."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.errors import NoEndpoint, Refused
from gateway.core.fleet import Fleet
from gateway.core.health import Evidence, Rule
from gateway.core.reservation import Reservation
from gateway.core.snapshot import Snapshot
from gateway.core.types import UNKNOWN, Decision, Endpoint, Outcome, Request
from policies.admission.base import ClassRule, Waiting
from policies.admission.desk import ASKED, EVERY, Desk
from policies.admission.limit import START
from policies.admission.places import FEW
from tests.support.waiting import Caller, Oracle, ask, foresee

RULES = (ClassRule("interactive", 10, 100, 10.0, "fair"), ClassRule("bulk", 0, 1000, 100.0, "deadline"))


class Tap:
    """A filler's control that is open or shut."""

    def __init__(self) -> None:
        self.open, self.log, self.running = True, list[str](), list[Reservation]()
        self.look = None

    def came(self, request: Request, now: float) -> None:
        self.log.append("came")

    def cleared(self, decision: Decision, fleet: Fleet, now: float) -> Decision:
        return decision

    def there(self, row: int) -> float:
        return 0.0

    def open_rows(self, request: Request, snapshot: Snapshot, now: float, aborted: int = 0) -> Snapshot | None:
        self.log.append(f"asked {aborted}")
        return snapshot if self.open else None

    def admitted(self, reservation: Reservation, request: Request, now: float, aborted: int = 0) -> None:
        self.running.append(reservation)

    def taken(self, reservation: Reservation, request: Request, now: float) -> None:
        self.log.append("taken")

    def ended(self, reservation: Reservation, outcome: Outcome | None, now: float) -> None:
        self.log.append("ended")

    def victims(self, fleet: Fleet, now: float) -> list[Reservation]:
        return [] if self.open else self.running


class Least:
    """Picks the endpoint with the fewest of ours; its tokens come slower with each request there."""

    def __init__(self, base: float = 0.01, each: float = 0.001, ttft: float = 0.1, wait: float = 0.0):
        self.base, self.each, self.ttft, self.wait = base, each, ttft, wait
        self.asked: list[Request] = []

    def __call__(self, request: Request, snapshot: Snapshot) -> Decision:
        self.asked.append(request)
        position = int(snapshot.ours.argmin())
        there = float(snapshot.ours[position])
        forecast = foresee(self.ttft, self.base + self.each * there)
        return Decision(int(snapshot.rows[position]), "x", forecast=forecast, wait=self.wait)


def fleet_of(count: int = 2, limit: int | None = None, predicts: bool = True) -> Fleet:
    fleet = Fleet("p", Rule(), Random(1))
    fleet.update([Endpoint(f"e{n}", f"http://e{n}", "p", "vllm", max_concurrency=limit) for n in range(count)], 0.0,
                 fresh=True)  # fmt: skip
    fleet.predictor = Oracle() if predicts else None  # type: ignore[assignment]
    return fleet


def desk_of(fleet: Fleet, pick: Callable[[Request, Snapshot], Decision] | None = None,
            rules: tuple[ClassRule, ...] = RULES, **more) -> Desk[Caller]:  # fmt: skip
    return Desk(fleet, pick or Least(), rules, **{"excess": Tap(), **more})


def give_back(desk: Desk[Caller], place: Reservation, now: float, request: Request | None = None) -> None:
    place.settle(now)
    desk.ended(place, request or ask(), None, now)


def fill(desk: Desk[Caller], count: int, now: float = 0.0, **more) -> list[Reservation]:
    places = [desk.offer(Caller(f"f{n}"), ask(f"f{n}", arrived=now, **more), now) for n in range(count)]
    assert all(isinstance(place, Reservation) for place in places)
    return places  # type: ignore[return-value]


def must_wait(desk: Desk[Caller], caller: Caller, request: Request, now: float) -> Waiting[Caller]:
    found = desk.offer(caller, request, now)
    assert isinstance(found, Waiting)
    return found


def refusal(desk: Desk[Caller], request: Request, now: float) -> Refused:
    with pytest.raises(Refused) as caught:
        desk.offer(Caller(), request, now)
    return caught.value


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


# --- whatever happens ---------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(st.sampled_from(["come", "come", "come", "end", "leave", "time", "down", "up", "retry"]),
              st.integers(0, 5), st.floats(0.0, 0.4), st.sampled_from("abc"), st.sampled_from(["interactive", "bulk"])),
    max_size=120,
)  # fmt: skip


@settings(deadline=None)
@given(steps=STEPS, limit=st.sampled_from([None, 1, 3]), late=st.sampled_from(["refuse", "serve"]))
def test_everybody_is_called_once_and_nothing_stays_counted(
    steps: list[tuple[str, int, float, str, str]], limit: int | None, late: str
) -> None:
    rules = (ClassRule("interactive", 10, 5, 2.0, "fair", 0.3, late), ClassRule("bulk", 0, 5, 3.0, "deadline"))
    fleet = fleet_of(2, limit)
    pick = Least(each=0.004)
    desk = Desk(fleet, pick, rules, 5, excess=Tap())
    now, running, waiting = 0.0, list[tuple[Reservation, Request]](), dict[str, tuple[Waiting[Caller], Request]]()

    def look() -> None:
        for name, (one, request) in list(waiting.items()):
            if one.item.calls:
                assert one.item.calls == 1 and one.left and (one.item.place is None) != (one.item.error is None)
                del waiting[name]
                if one.item.place is not None:
                    running.append((one.item.place, request))
            else:
                assert not one.left

    for number, (step, pick_one, seconds, tenant, klass) in enumerate(steps):
        now += seconds
        pick.wait = 0.3 if pick_one == 5 else 0.0
        if step in ("come", "retry"):
            slo = (UNKNOWN, 0.5, 0.2)[pick_one % 3]
            deadline = now + 2.0 if pick_one == 4 else UNKNOWN
            request = ask(str(number), tenant, now, ttft_slo=slo, tpot_slo=slo / 20.0, klass=klass, deadline=deadline)
            caller = Caller(str(number), avoid=("e0",) if step == "retry" else ())
            try:
                found = desk.offer(caller, request, now)
            except Refused as error:
                assert error.reason in ("slo", "deadline", "queue_full", "no_endpoint")
                assert error.retry_after or not error.should_retry
                continue
            if isinstance(found, Reservation):
                running.append((found, request))
            else:
                waiting[str(number)] = found, request
        elif step == "end" and running:
            place, request = running.pop(pick_one % len(running))
            give_back(desk, place, now, request)
        elif step == "leave" and waiting:
            desk.leave(waiting.pop(sorted(waiting)[pick_one % len(waiting)])[0])
        elif step in ("down", "up"):
            for _ in range(3):
                fleet.see(pick_one % 2, Evidence.REFUSED if step == "down" else Evidence.PROBE_OK, now)
            desk.changed()
        desk.serve(now)
        look()
        assert len(desk) == len(waiting) and fleet.ours.sum() == len(running)
        assert desk.next_at > now
    desk.serve(now + 100.0)
    look()
    assert not waiting and len(desk) == 0
    for place, request in running:
        give_back(desk, place, now, request)
    assert not fleet.ours.any() and all(queue.inflight == 0 for queue in desk.report(now).values())


def test_the_more_are_refused_the_shorter_the_queue() -> None:
    def queue_of(refused: int) -> int:
        desk = desk_of(fleet_of(1, limit=1))
        for number in range(40):
            (place,) = fill(desk, 1, now=number / 10.0)
            give_back(desk, place, number / 10.0 + 0.09)
        fill(desk, 1, now=4.0)
        for _ in range(refused):
            desk.room.flow.turn_away(4.0)
        with pytest.raises(Refused):
            for number in range(100):
                must_wait(desk, Caller(f"{number}"), ask(arrived=4.0, ttft_slo=1.0), 4.0)
        return len(desk)

    assert queue_of(0) > queue_of(16) > queue_of(100) >= 1


def test_filler_that_is_asked_less_often_has_its_turn_by_time_where_nothing_else_happens() -> None:
    tap = Tap()
    tap.open = False
    desk = desk_of(fleet_of(1), filler=tap)
    callers = [Caller(f"f{n}") for n in range(2 * ASKED)]
    for caller in callers:
        must_wait(desk, caller, ask(caller.name, klass="bulk", filler=True), 0.0)
    assert desk.changed()
    desk.serve(1.0)
    tap.open = True
    assert desk.changed()
    desk.serve(1.0 + EVERY / 2)
    assert not any(caller.place for caller in callers)
    assert desk.next_at == pytest.approx(1.0 + EVERY)
    desk.serve(desk.next_at)
    assert all(caller.place for caller in callers)
    assert desk.next_at > 2.0
