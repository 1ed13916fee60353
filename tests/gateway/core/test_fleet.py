"""The fleet's books: whatever happens in whatever order, they balance, and nobody is lost from sight."""

import math
import random

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from gateway.core.errors import NoEndpoint, Refused
from gateway.core.fleet import Fleet
from gateway.core.health import Evidence, Rule, State
from gateway.core.types import Load
from tests.support.fleets import make_endpoint, make_fleet, take

OUT = (State.EJECTED, State.DOWN, State.TRIAL)


class Books(RuleBasedStateMachine):
    """Any sequence of what the proxy, the prober and a reload do to a fleet, against a model that is a plain list."""

    reservations = Bundle("reservations")

    @initialize(at_most=st.sampled_from([0.0, 0.2, 0.5, 1.0]), count=st.integers(1, 6),
                limit=st.sampled_from([None, 3]))  # fmt: skip
    def start(self, at_most, count, limit):
        self.now = 0.0
        self.at_most = at_most
        self.limit = limit
        self.open: list = []
        self.fleet = Fleet("pool", Rule(after=2, at_most=at_most, base=3.0, ramp=4.0), random.Random(7), size=2)
        self.change(set(range(count)))

    def change(self, wanted):
        self.wanted = {f"e{i}" for i in wanted}
        busy = {r.endpoint.id for r in self.open}
        before = {e.id: row for row, e in self.fleet.members()}
        freed = self.fleet.update([make_endpoint(i, self.limit) for i in sorted(wanted)], self.now)
        gone = set(before) - self.wanted - busy
        assert sorted(freed) == sorted(before[i] for i in gone)

    @rule(wanted=st.sets(st.integers(0, 9), min_size=0, max_size=8))
    def update(self, wanted):
        self.change(wanted)

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 40.0]))
    def wait(self, seconds):
        self.now += seconds

    @rule(target=reservations, prompt=st.floats(0.0, 1e5), output=st.floats(0.0, 1e4), cached=st.floats(0.0, 2e5),
          avoid=st.sets(st.sampled_from(["e0", "e1", "e2", "nobody"]), max_size=2),
          where=st.floats(0.0, 0.999))  # fmt: skip
    def reserve(self, prompt, output, cached, avoid, where):
        usable = {
            e.id: row for row, e in self.fleet.members()
            if e.id in self.wanted - avoid and self.fleet.health(row).tick(self.now) in (State.HEALTHY, State.SUSPECT)
        }  # fmt: skip
        try:
            snapshot = self.fleet.snapshot(self.now, avoid)
        except NoEndpoint:
            assert not usable
            return None
        except Refused:
            assert all(self.fleet.ours[row] >= self.fleet.limit[row] for row in usable.values())
            return None
        rows = snapshot.rows.tolist()
        assert len(set(rows)) == len(rows) > 0
        ids = set(snapshot.ids())
        assert ids <= self.wanted - avoid
        assert all(self.fleet.health(row).state is not State.DOWN for row in rows)
        if usable and any(self.fleet.ours[row] < self.fleet.limit[row] for row in usable.values()):
            assert not any(self.fleet.health(row).state is State.EJECTED for row in rows)
        assert len(snapshot.tokens) == len(snapshot.requests) == len(snapshot.prefill) == len(rows)
        row = rows[int(where * len(rows))]
        assert self.fleet.ours[row] < self.fleet.limit[row]
        reservation = take(self.fleet, row, prompt, output, cached, self.now)
        self.open.append(reservation)
        return reservation

    @rule(reservation=reservations)
    def first_token(self, reservation):
        if reservation is not None:
            reservation.first_token(self.now)

    @rule(reservation=reservations, written=st.floats(0.0, 2e4))
    def progress(self, reservation, written):
        if reservation is not None:
            reservation.progress(written, 0.0)

    def end(self, reservation):
        row, endpoint_id = reservation.row, reservation.endpoint.id
        last = sum(1 for r in self.open if r.endpoint.id == endpoint_id) == 1
        self.open.remove(reservation)
        reservation.settle()
        assert (self.fleet.row_of(endpoint_id) is None) == (last and endpoint_id not in self.wanted)
        if self.fleet.row_of(endpoint_id) is not None:
            assert self.fleet.row_of(endpoint_id) == row

    @rule(reservation=reservations)
    def settle(self, reservation):
        if reservation in self.open:
            self.end(reservation)
        elif reservation is not None:
            before = [getattr(self.fleet, name).copy() for name in Fleet._NAMES]
            reservation.settle()
            for column, name in zip(before, Fleet._NAMES, strict=True):
                np.testing.assert_array_equal(column, getattr(self.fleet, name))

    @rule(reservation=consumes(reservations))
    def settle_and_forget(self, reservation):
        if reservation in self.open:
            self.end(reservation)

    @rule(number=st.integers(0, 9), waiting=st.sampled_from([0.0, 5.0, math.nan]), running=st.integers(0, 20),
          then=st.integers(0, 5), age=st.sampled_from([0.0, 0.5, 10.0]))  # fmt: skip
    def observe(self, number, waiting, running, then, age):
        row = self.fleet.row_of(f"e{number}")
        if row is not None:
            self.fleet.observe(row, Load(self.now - age, waiting=waiting, running=running), then)

    @rule(number=st.integers(0, 9), evidence=st.sampled_from(Evidence))
    def see(self, number, evidence):
        row = self.fleet.row_of(f"e{number}")
        if row is None or f"e{number}" not in self.wanted:
            return
        before = self.fleet.health(row).state
        members = [r for r, e in self.fleet.members() if e.id in self.wanted]
        out = [r for r in members if r != row and self.fleet.health(r).state in OUT]
        after = self.fleet.see(row, evidence, self.now)
        if after is State.EJECTED and before in (State.HEALTHY, State.SUSPECT):
            assert len(out) + 1 <= self.at_most * len(members) + 1e-6
            assert len(out) + 1 < len(members)

    @rule(number=st.integers(0, 9))
    def saturated(self, number):
        row = self.fleet.row_of(f"e{number}")
        if row is not None:
            self.fleet.saturated(row, self.now + 1.0)

    @rule()
    def forget_stale(self):
        self.fleet.forget_stale(self.now)

    @precondition(lambda self: self.open)
    @rule()
    def settle_everything(self):
        for reservation in list(self.open):
            self.end(reservation)
        for name in ("ours", "prefill", "output", "decoding"):
            assert not getattr(self.fleet, name).any(), name
        assert {e.id for _, e in self.fleet.members()} == self.wanted

    @invariant()
    def no_column_is_negative(self):
        for name in ("ours", "requests", "tokens", "prefill", "decoding", "output"):
            values = getattr(self.fleet, name)
            assert (values >= 0.0).all(), (name, values)
        assert not (self.fleet.others < 0.0).any()

    @invariant()
    def the_columns_are_what_the_open_reservations_say(self):
        size = len(self.fleet.ours)
        ours, prefill, output, decoding = np.zeros((4, size))
        for r in self.open:
            assert self.fleet.endpoint(r.row).id == r.endpoint.id
            ours[r.row] += 1
            output[r.row] += r.left
            prefill[r.row] += 0 if r.started else r.uncached
            decoding[r.row] += r.started
        np.testing.assert_array_equal(self.fleet.ours, ours)
        np.testing.assert_array_equal(self.fleet.prefill, prefill)
        np.testing.assert_array_equal(self.fleet.output, output)
        np.testing.assert_array_equal(self.fleet.decoding, decoding)
        for row, _ in self.fleet.members():
            assert self.fleet.requests[row] >= ours[row]
            assert self.fleet.tokens[row] >= prefill[row] + output[row] - 1e-6

    @invariant()
    def every_row_belongs_to_one_endpoint(self):
        members = list(self.fleet.members())
        assert len({e.id for _, e in members}) == len(members)
        assert all(self.fleet.row_of(e.id) == row for row, e in members)
        assert {e.id for _, e in members} == self.wanted | {r.endpoint.id for r in self.open}
        assert all(self.fleet.is_leaving(row) == (e.id not in self.wanted) for row, e in members)


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=60, stateful_step_count=60, deadline=None, derandomize=True)


# --- tokens --------------------------------------------------------------------------------------------------------


def test_tokens_follow_a_request_from_dispatch_to_end():
    fleet = make_fleet(1)
    reservation = take(fleet, 0, prompt=1000.0, output=200.0, cached=300.0)
    assert (fleet.tokens[0], fleet.prefill[0], fleet.output[0]) == (900.0, 700.0, 200.0)
    reservation.first_token(1.0)
    reservation.first_token(1.0)
    assert (fleet.tokens[0], fleet.prefill[0], fleet.decoding[0]) == (200.0, 0.0, 1.0)
    reservation.progress(50.0, 0.0)
    assert fleet.tokens[0] == 150.0
    reservation.progress(20.0, 0.0)  # counts never go back
    assert fleet.tokens[0] == 150.0
    reservation.progress(5000.0, 0.0)
    assert fleet.tokens[0] == 20.0  # a longer answer than expected keeps a tenth of it
    reservation.settle()
    reservation.settle()
    assert (fleet.tokens[0], fleet.requests[0], fleet.decoding[0]) == (0.0, 0.0, 0.0)


def test_a_wholly_cached_prompt_still_costs_something():
    fleet = make_fleet(1)
    take(fleet, 0, prompt=100.0, cached=500.0)
    assert fleet.prefill[0] == 1.0


# --- coming and going ----------------------------------------------------------------------------------------------


def test_an_endpoint_that_leaves_keeps_its_row_until_its_last_request_has_ended():
    fleet = make_fleet(2)
    first, second = take(fleet, 1), take(fleet, 1)
    assert fleet.update([make_endpoint(0), make_endpoint(5)], 1.0, fresh=True) == []
    assert fleet.is_leaving(1) and fleet.row_of("e5") == 2
    assert fleet.snapshot(1.0).ids() == ["e0", "e5"]
    first.settle()
    assert fleet.row_of("e1") == 1
    second.settle()
    assert fleet.row_of("e1") is None
    fleet.update([make_endpoint(0), make_endpoint(5), make_endpoint(6)], 2.0, fresh=True)
    assert fleet.row_of("e6") == 1


def test_an_endpoint_that_comes_back_while_it_drains_stays():
    fleet = make_fleet(2)
    reservation = take(fleet, 1)
    fleet.update([make_endpoint(0)], 1.0)
    fleet.update([make_endpoint(0), make_endpoint(1)], 2.0)
    reservation.settle()
    assert fleet.snapshot(3.0).ids() == ["e0", "e1"]


def test_more_endpoints_than_columns_make_the_columns_grow():
    fleet = make_fleet(3)
    take(fleet, 2)
    fleet.update([make_endpoint(i) for i in range(100)], 1.0, fresh=True)
    assert fleet.ours.sum() == 1.0 and len(fleet.snapshot(1.0)) == 100
    assert np.isnan(fleet.others[:100]).all()


# --- who may be chosen ---------------------------------------------------------------------------------------------


def test_a_pool_whose_endpoints_are_all_down_or_avoided_has_none():
    fleet = make_fleet(2)
    with pytest.raises(NoEndpoint):
        fleet.snapshot(0.0, ["e0", "e1"])
    for row in (0, 1):
        fleet.see(row, Evidence.REFUSED, 0.0)
        fleet.see(row, Evidence.REFUSED, 0.0)
    with pytest.raises(NoEndpoint):
        fleet.snapshot(0.0)


def test_endpoints_at_their_limit_are_not_offered_and_all_at_it_is_refused():
    fleet = make_fleet(2, limit=1)
    take(fleet, 0)
    assert fleet.snapshot(0.0).ids() == ["e1"]
    take(fleet, 1)
    with pytest.raises(Refused) as refusal:
        fleet.snapshot(0.0)
    assert refusal.value.reason == "queue_full"
    with pytest.raises(NoEndpoint):
        fleet.snapshot(0.0, ["e0", "e1"])


def test_a_saturated_endpoint_is_used_only_when_nobody_else_is_left():
    fleet = make_fleet(2)
    fleet.saturated(0, 1.0)
    assert fleet.snapshot(0.0).ids() == ["e1"]
    assert fleet.snapshot(0.0, ["e1"]).ids() == ["e0"]
    assert fleet.snapshot(1.1).ids() == ["e0", "e1"]


def test_a_ramping_endpoint_gets_a_growing_share_and_the_second_try_when_there_is_no_other():
    fleet = make_fleet(1)
    fleet.update([make_endpoint(0), make_endpoint(1)], 0.0)
    shares = [sum(len(fleet.snapshot(now)) == 2 for _ in range(400)) / 400 for now in (0.1, 15.0, 31.0)]
    assert shares[0] < 0.2 < shares[1] < 0.8 < shares[2] == 1.0
    fleet.update([make_endpoint(0), make_endpoint(1), make_endpoint(2)], 40.0)
    for _ in range(50):
        assert "e2" in fleet.snapshot(40.1, ["e0", "e1"]).ids()


def test_an_ejected_endpoint_gets_nothing_while_another_one_ramps():
    fleet = make_fleet(2, fresh=False)
    assert fleet.see(0, Evidence.HUNG, 1.0) is State.EJECTED
    for _ in range(50):
        assert fleet.snapshot(1.0).ids() == ["e1"]


def test_the_last_endpoint_is_never_ejected():
    fleet = make_fleet(2, at_most=1.0, after=1)
    assert fleet.see(0, Evidence.FAILURE, 0.0) is State.EJECTED
    assert fleet.see(1, Evidence.FAILURE, 0.0) is State.SUSPECT
    assert fleet.snapshot(0.0).ids() == ["e1"]


def test_an_endpoint_on_trial_gets_one_request_at_a_time():
    fleet = make_fleet(2, after=1, base=10.0)
    fleet.see(0, Evidence.FAILURE, 0.0)
    assert fleet.snapshot(5.0).ids() == ["e1"]
    assert sorted(fleet.snapshot(10.1).ids()) == ["e0", "e1"]
    trial = take(fleet, 0, now=10.1)
    assert fleet.snapshot(10.2).ids() == ["e1"]
    trial.settle()
    fleet.see(0, Evidence.SUCCESS, 10.5)
    assert fleet.health(0).state is State.HEALTHY


def test_a_long_stream_from_before_the_ejection_does_not_put_the_trial_off():
    fleet = make_fleet(2, after=1, base=10.0)
    take(fleet, 0)
    fleet.see(0, Evidence.FAILURE, 1.0)
    assert fleet.snapshot(5.0).ids() == ["e1"]
    assert sorted(fleet.snapshot(11.1).ids()) == ["e0", "e1"]
    trial = take(fleet, 0, now=11.1)
    assert fleet.snapshot(11.2).ids() == ["e1"]
    trial.settle()
    fleet.see(0, Evidence.SUCCESS, 11.5)
    assert fleet.health(0).state is State.HEALTHY


def test_who_was_there_of_others_is_gone_for_good_some_scrapes_later():
    fleet = make_fleet(1)
    for second, running in enumerate([1.0] * 20 + [0.0] * 30):
        fleet.observe(0, Load(at=float(second), running=running, waiting=0.0), 0.0)
    assert fleet.others.item(0) == 0.0 and fleet.requests.item(0) == 0.0
