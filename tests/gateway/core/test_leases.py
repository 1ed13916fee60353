"""Leases: whatever is lost, late or dead, gateways together stay within the limit."""

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.leases import LeasedAccount
from gateway.core.limiter import DAY, Pace, Stake, Terms
from tests.support.ledger import Ledger

TOKENS = Terms(tokens=Pace(1000.0, 60.0))


@dataclass
class Fleet:
    """Some gateways, their ledger and the clock; and what a bucket that knows the future makes of what they let by."""

    terms: Terms
    count: int = 2
    now: float = 100.0
    ledger: Ledger = field(default_factory=Ledger)
    flying: list[tuple[int, Stake]] = field(default_factory=list)
    used: float = 0.0

    def __post_init__(self) -> None:
        self.accounts = [LeasedAccount(self.terms, is_lost=False) for _ in range(self.count)]

    def report(self, which: int, arrives: bool = True, returns: bool = True) -> None:
        message = self.accounts[which].report(self.now, self.now)
        if arrives:
            given = self.ledger.answer(str(which), message, self.now)
            if returns:
                self.accounts[which].received(message, given, self.now)

    def ask(self, which: int, tokens: float) -> Stake | None:
        account = self.accounts[which]
        found = account.lacks(tokens, self.now, self.now)
        if found is not None and found.short:
            self.report(which)
            found = account.lacks(tokens, self.now, self.now)
        if found is not None:
            return None
        stake = account.take(tokens, self.now, self.now)
        self.flying.append((which, stake))
        return stake

    def settle(self, number: int, used: float) -> None:
        which, stake = self.flying.pop(number)
        self.accounts[which].settle(stake, used, self.now, self.now)


def test_an_account_that_is_new_asks_first_and_then_spends_without_asking() -> None:
    fleet = Fleet(TOKENS)
    found = fleet.accounts[0].lacks(10.0, 100.0, 0.0)
    assert found is not None and found.short and fleet.accounts[0].is_urgent
    fleet.report(0)
    assert fleet.accounts[0].lacks(10.0, 100.0, 0.0) is None
    assert fleet.accounts[0].leases["tokens"].left == 72.0  # its floor and what was asked


def test_what_one_gateway_keeps_the_other_does_not_get() -> None:
    fleet = Fleet(TOKENS)
    fleet.report(0)
    assert fleet.ask(1, 939.0) is None  # 938 are free
    assert fleet.ask(1, 938.0) is not None
    assert fleet.ask(0, 62.0) is not None
    assert fleet.ask(0, 1.0) is None


def test_a_floor_that_lies_idle_is_given_up_to_who_needs_all() -> None:
    fleet = Fleet(TOKENS)
    fleet.report(0)
    assert fleet.ask(1, 1000.0) is None
    fleet.report(1)  # claims
    fleet.now += 0.11
    fleet.report(0)  # hears of it
    fleet.now += 0.11
    fleet.report(0)  # gives up
    fleet.report(1)
    assert fleet.accounts[0].leases["tokens"].left == 0.0
    assert fleet.ask(1, 1000.0) is not None


def test_a_need_gets_all_or_nothing() -> None:
    fleet = Fleet(TOKENS)
    assert fleet.ask(0, 300.0) is not None
    fleet.report(0)
    assert fleet.ask(1, 700.0) is None
    assert fleet.accounts[1].leases["tokens"].left < 100.0


def test_more_than_the_limit_never_fits_and_is_not_asked_for() -> None:
    found = Fleet(TOKENS).accounts[0].lacks(1001.0, 0.0, 0.0)
    assert found is not None and found.wait == math.inf and not found.short


def test_an_exhausted_limit_is_refused_with_its_wait_and_without_a_round_trip() -> None:
    fleet = Fleet(TOKENS)
    assert fleet.ask(0, 1000.0) is not None
    fleet.report(0)
    found = fleet.accounts[0].lacks(100.0, fleet.now, 0.0)
    assert found is not None and not found.short
    assert found.wait == pytest.approx(6.0, rel=0.01)


def test_what_was_not_used_comes_back_through_the_ledger() -> None:
    fleet = Fleet(TOKENS)
    assert fleet.ask(0, 1000.0) is not None
    fleet.report(0)
    fleet.settle(0, 200.0)
    fleet.report(0)
    assert fleet.ledger.debt("tokens", 0.06, fleet.now) == pytest.approx(200.0)
    assert fleet.ask(1, 500.0) is not None


def test_what_was_used_beyond_the_estimate_is_charged() -> None:
    fleet = Fleet(TOKENS)
    fleet.ask(0, 100.0)
    fleet.settle(0, 600.0)
    fleet.report(0)
    assert fleet.ledger.debt("tokens", 0.06, fleet.now) == pytest.approx(600.0)


def test_what_ends_while_a_report_is_under_way_is_told_by_the_next_even_to_a_ledger_that_forgot() -> None:
    fleet = Fleet(TOKENS)
    fleet.ask(0, 500.0)
    message = fleet.accounts[0].report(fleet.now, fleet.now)
    given = fleet.ledger.answer("0", message, fleet.now)
    fleet.settle(0, 400.0)
    fleet.accounts[0].received(message, given, fleet.now)
    fleet.ledger = Ledger()
    fleet.report(0)
    assert fleet.ledger.debt("tokens", 0.06, fleet.now) == pytest.approx(400.0, abs=7.0)


def test_what_was_turned_into_a_charge_does_not_come_back() -> None:
    fleet = Fleet(Terms(tokens=Pace(1000.0, 1.0)), count=1)
    fleet.ask(0, 600.0)
    for _ in range(3):
        fleet.now += 0.11
        fleet.report(0)  # by now more than 300 of it have drained
    kept = fleet.accounts[0].leases["tokens"].left
    fleet.settle(0, 0.0)
    assert fleet.accounts[0].leases["tokens"].left - kept < 300.0


def test_a_gateway_that_died_is_charged_for_all_it_kept() -> None:
    fleet = Fleet(TOKENS)
    fleet.report(0)
    fleet.now += 11.0
    fleet.report(1)
    assert fleet.ledger.debt("tokens", 0.06, fleet.now) == pytest.approx(62.0)
    assert fleet.accounts[1].gateways == 1.0


def test_places_at_once_are_counted_over_all_gateways() -> None:
    fleet = Fleet(Terms(concurrency=5))
    for _ in range(3):
        assert fleet.ask(0, 1.0) is not None
    assert fleet.ask(1, 1.0) is not None
    assert fleet.ask(1, 1.0) is not None
    assert fleet.ask(1, 1.0) is None
    fleet.settle(0, 1.0)
    fleet.now += 0.11
    fleet.report(1)  # needs one
    fleet.report(0)  # hears of it
    fleet.now += 0.11
    fleet.report(0)  # keeps none that lies idle
    fleet.report(1)
    assert fleet.ask(1, 1.0) is not None
    assert fleet.ask(0, 1.0) is None


def test_alone_a_gateway_has_its_share_and_tells_of_it_when_the_ledger_is_back() -> None:
    fleet = Fleet(Terms(tokens=Pace(1000.0, 60.0), day=10_000))
    fleet.report(0)
    fleet.report(1)
    fleet.report(0)
    account = fleet.accounts[0]
    account.lost(fleet.now)
    assert fleet.ask(0, 300.0) is not None
    assert fleet.ask(0, 200.0) is not None
    found = account.lacks(10.0, fleet.now, fleet.now)
    assert found is not None and not found.short
    fleet.settle(0, 300.0)
    fleet.report(0)
    assert not account.is_lost
    assert fleet.ledger.debt("tokens", 0.06, fleet.now) == pytest.approx(300.0, abs=7.0)
    assert fleet.ledger.spent == 300.0
    assert fleet.ledger.members["0"].keep["tokens"] >= 190.0  # what is still under way
    fleet.settle(0, 200.0)
    fleet.report(0)
    assert fleet.ledger.spent == 500.0


def test_alone_a_request_that_is_larger_than_the_share_goes_when_nothing_else_counts() -> None:
    fleet = Fleet(TOKENS)
    account = fleet.accounts[0]
    fleet.report(0)
    fleet.report(1)
    fleet.report(0)
    account.lost(fleet.now)
    assert fleet.ask(0, 900.0) is not None
    assert fleet.ask(0, 1.0) is None
    found = account.lacks(1001.0, fleet.now, 0.0)
    assert found is not None and found.wait == math.inf


def test_a_gateway_that_never_met_the_ledger_has_the_limit_whole() -> None:
    account = LeasedAccount(TOKENS, is_lost=True)
    assert account.lacks(1000.0, 5.0, 5.0) is None


def test_other_limits_begin_with_what_was_counted() -> None:
    fleet = Fleet(Terms(tokens=Pace(1000.0, 60.0), day=5000), count=1)
    fleet.ask(0, 400.0)
    fleet.ask(0, 300.0)
    fleet.settle(0, 400.0)
    fleet.report(0)
    fleet.accounts[0].move(Terms(tokens=Pace(2000.0, 60.0), day=9000), fleet.now, fleet.now)
    fleet.ledger = Ledger()
    fleet.report(0)
    assert fleet.ledger.debt("tokens", 0.03, fleet.now) == pytest.approx(400.0, abs=7.0)
    assert fleet.ledger.spent == 400.0
    assert fleet.ledger.members["0"].keep["tokens"] >= 290.0
    fleet.settle(0, 100.0)
    fleet.report(0)
    assert fleet.ledger.spent == 500.0


def test_long_streams_do_not_stop_the_refill() -> None:
    fleet, got = Fleet(Terms(tokens=Pace(100.0, 1.0))), 0.0
    for number in range(100):  # each runs for ever
        fleet.now += 0.1
        fleet.report(0)
        fleet.report(1)
        got += 20.0 * (fleet.ask(number % 2, 20.0) is not None)
    assert got >= 800.0


def test_reports_come_at_once_when_a_lease_runs_low_and_seldom_at_rest() -> None:
    fleet = Fleet(TOKENS)
    account = fleet.accounts[0]
    assert account.is_due(fleet.now)
    fleet.report(0)
    assert not account.is_due(fleet.now + 1.0)
    assert account.is_due(fleet.now + 3.0)
    fleet.ask(0, 5.0)
    assert account.is_due(fleet.now + 0.11)


moves = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "ask", "settle", "settle", "report", "report", "unheard", "unanswered", "die"]),
        st.integers(0, 2),
        st.integers(1, 400),
        st.floats(0.0, 1.0),  # share used
        st.sampled_from([0.0, 0.01, 0.1, 1.0, 7.0, 15.0]),
    ),
    max_size=80,
)


@settings(max_examples=300, deadline=None)
@given(moves, st.sampled_from([1.0, 10.0, 60.0]))
def test_together_they_use_no_more_than_one_bucket_that_knows_the_future_would_give(
    events: list[tuple[str, int, int, float, float]], per: float
) -> None:
    fleet = Fleet(Terms(tokens=Pace(1000.0, per), concurrency=8, day=3000), count=3)
    begun: list[tuple[float, Stake, int, float]] = []  # at, stake, gateway, what it will have used
    for kind, which, tokens, share, gap in events:
        fleet.now += gap
        if kind == "ask":
            stake = fleet.ask(which, tokens)
            if stake is not None:
                begun.append((fleet.now, stake, which, math.floor(tokens * share)))
        elif kind == "settle" and fleet.flying:
            which, stake = fleet.flying[0]
            fleet.settle(0, next(used for _, one, _, used in begun if one is stake))
        elif kind == "die":
            fleet.accounts[which] = LeasedAccount(fleet.terms, is_lost=False)
            fleet.ledger.members.get(str(which)) and fleet.ledger.members.__setitem__(
                f"dead {fleet.now} {len(begun)}", fleet.ledger.members.pop(str(which))
            )  # fmt: skip
            fleet.flying = [(where, stake) for where, stake in fleet.flying if where != which]
        elif kind in ("report", "unheard", "unanswered"):
            fleet.report(which, kind != "unheard", kind != "unanswered")
        assert sum(account.running for account in fleet.accounts) <= 8
    debt, last = 0.0, 0.0
    for at, _, _, used in begun:
        debt = max(0.0, debt - (at - last) * 1000.0 / per) + used
        last = at
        assert debt <= 1000.0 + 0.1
    assert sum(used for at, _, _, used in begun if at < DAY) <= 3000.0 + 0.1
