"""The desk whatever happens: nobody is lost, nobody is called twice, nothing stays counted."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.errors import Refused
from gateway.core.health import Evidence
from gateway.core.reservation import Reservation
from gateway.core.types import UNKNOWN, Request
from policies.admission.base import ClassRule, Waiting
from policies.admission.desk import ASKED, EVERY, Desk
from tests.support.desks import Least, Tap, desk_of, fill, fleet_of, give_back, must_wait
from tests.support.waiting import Caller, ask

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
