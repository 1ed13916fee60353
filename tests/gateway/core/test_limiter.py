"""What one tenant may use: the bucket against a plain one that knows the future, and the account's bookkeeping."""

import math
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.limiter import DAY, Account, Bucket, Pace, Piece, Terms

MINUTE = Pace(100.0, 60.0)


def tokens_account(amount: float = 100.0, per: float = 60.0, **more: object) -> Account:
    return Account(Terms(tokens=Pace(amount, per), **more))  # type: ignore[arg-type]


# --- the bucket ------------------------------------------------------------------------------------------------------


def test_a_full_bucket_gives_its_amount_at_once_and_then_refills_evenly() -> None:
    bucket = Bucket(MINUTE)
    for _ in range(100):
        assert bucket.wait(1.0, 1000.0) == 0.0
        bucket.settle(bucket.take(1.0, 1000.0), 1.0, 1000.0)
    assert bucket.wait(1.0, 1000.0) == pytest.approx(0.6, rel=1e-2)
    assert bucket.left(1000.0) == pytest.approx(0.0, abs=1e-6)
    assert bucket.left(1030.0) == pytest.approx(50.0, abs=1e-6)
    assert bucket.wait(50.0, 1030.0) == 0.0
    assert bucket.wait(51.0, 1030.0) > 0.0


def test_more_than_the_bucket_holds_never_fits() -> None:
    assert Bucket(MINUTE).wait(101.0, 0.0) == math.inf


def test_a_slow_rate_gives_one_at_a_time() -> None:
    bucket = Bucket(Pace(0.5, 1.0))
    assert bucket.wait(1.0, 10.0) == 0.0
    bucket.take(1.0, 10.0)
    assert bucket.wait(1.0, 10.0) == pytest.approx(2.0, rel=1e-2)


def test_what_was_not_used_is_free_again_whoever_ends_first() -> None:
    for order in ((0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)):
        bucket = Bucket(MINUTE)
        pieces = [bucket.take(25.0, 5.0) for _ in range(4)]
        assert bucket.left(5.0) == 0.0
        for number in order:
            bucket.settle(pieces[number], 5.0, 5.0)
        assert bucket.left(5.0) == pytest.approx(80.0)


def test_what_is_held_drains_when_nothing_else_is_left_to_drain_and_does_not_come_back() -> None:
    bucket = Bucket(MINUTE)
    piece = bucket.take(50.0, 0.0)
    assert bucket.left(24.0) == pytest.approx(90.0)
    bucket.take(90.0, 24.0)
    bucket.settle(piece, 0.0, 24.0)  # 40 of its 50 have drained
    assert bucket.left(24.0) == pytest.approx(10.0)


def test_what_is_charged_drains_before_what_is_held() -> None:
    bucket = Bucket(MINUTE)
    charged, piece = bucket.take(50.0, 0.0), bucket.take(50.0, 0.0)
    bucket.settle(charged, 50.0, 0.0)
    bucket.settle(piece, 10.0, 24.0)
    assert bucket.left(24.0) == pytest.approx(80.0)


def test_long_streams_do_not_stop_the_refill() -> None:
    bucket, got = Bucket(Pace(100.0, 1.0)), 0.0
    for number in range(100):  # each runs for ever
        if bucket.wait(50.0, number * 0.1) == 0.0:
            bucket.take(50.0, number * 0.1)
            got += 50.0
    assert got >= 1000.0


def test_requests_that_are_kept_open_save_up_no_burst() -> None:
    bucket = Bucket(MINUTE)
    pieces = []
    for number in range(10):
        assert bucket.wait(100.0, number * 60.0) == 0.0
        pieces.append(bucket.take(100.0, number * 60.0))
    for piece in pieces:
        bucket.settle(piece, 0.0, 540.0)
    assert bucket.left(540.0) == pytest.approx(100.0)
    bucket.take(100.0, 540.0)
    assert bucket.wait(1.0, 540.0) > 0.0


@dataclass
class Flight:
    tokens: float
    used: float
    piece: Piece


class Foreseeing:
    """A token bucket that charges at the start what a request will have used in the end."""

    def __init__(self, size: float, rate: float):
        self.size, self.rate, self.debt, self.at = size, rate, 0.0, 0.0

    def charge(self, n: float, now: float) -> float:
        self.debt = max(0.0, self.debt - (now - self.at) * self.rate) + n
        self.at = now
        return self.debt


steps = st.lists(
    st.tuples(
        st.floats(0.0, 30.0),  # seconds until it begins
        st.integers(1, 100),  # reserved
        st.floats(0.0, 1.0),  # the share that is used
        st.floats(0.0, 120.0),  # seconds it runs
    ),
    max_size=40,
)


@settings(max_examples=300)
@given(steps)
def test_in_no_stretch_of_time_more_is_used_than_a_bucket_that_knows_the_future_would_give(
    requests: list[tuple[float, int, float, float]],
) -> None:
    bucket, truth, now = Bucket(MINUTE), Foreseeing(100.0, 100.0 / 60.0), 0.0
    flying: list[tuple[float, Flight]] = []
    for gap, reserved, share, seconds in requests:
        now += gap
        for ends, flight in sorted((one for one in flying if one[0] <= now), key=lambda one: one[0]):
            bucket.settle(flight.piece, flight.used, ends)
        flying = [one for one in flying if one[0] > now]
        if bucket.wait(reserved, now) > 0.0:
            continue
        used = math.floor(reserved * share)
        flying.append((now + seconds, Flight(reserved, used, bucket.take(reserved, now))))
        assert truth.charge(used, now) <= truth.size + 0.01


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 90)), min_size=1, max_size=50))
def test_at_one_moment_overshoot_is_at_most_the_errors_of_the_estimates(pairs: list[tuple[int, int]]) -> None:
    account, used, errors, stakes = tokens_account(), 0, 0, []
    for reserved, needed in pairs:
        if account.lacks(reserved, 7.0, 0.0) is None:
            stakes.append((account.take(reserved, 7.0, 0.0), needed))
            errors += max(0, needed - reserved)
    for stake, needed in stakes:
        account.settle(stake, needed, 7.0, 0.0)
        used += needed
    assert used <= 100 + errors
    if all(needed <= reserved for reserved, needed in pairs):
        assert used <= 100
    assert account.tokens is not None
    assert account.tokens.left(7.0) == pytest.approx(100 - used, abs=1e-3)
    assert account.running == 0


# --- the account -----------------------------------------------------------------------------------------------------


def test_each_limit_is_named_with_the_time_it_takes() -> None:
    account = Account(Terms(Pace(2.0, 1.0), Pace(100.0, 60.0), 3, 150))
    assert account.lacks(101.0, 0.0, 0.0) == ("tokens", math.inf, False)
    account.take(60.0, 0.0, 0.0)
    found = account.lacks(60.0, 0.0, 0.0)
    assert found is not None and found.what == "tokens" and found.wait == pytest.approx(12.0, rel=1e-3)
    account.take(10.0, 0.0, 0.0)
    found = account.lacks(10.0, 0.0, 0.0)
    assert found is not None and found.what == "requests" and found.wait == pytest.approx(0.5, rel=1e-2)
    account.take(10.0, 30.0, 30.0)
    found = account.lacks(10.0, 30.0, 30.0)
    assert found is not None and found.what == "concurrency"


def test_a_day_is_spent_and_begins_anew_at_midnight() -> None:
    account = Account(Terms(day=100))
    stake = account.take(80.0, 0.0, DAY - 3600.0)
    assert account.lacks(21.0, 0.0, DAY - 3600.0) == ("day", 3600.0, False)
    assert account.lacks(101.0, 0.0, DAY - 3600.0) == ("day", math.inf, False)
    account.settle(stake, 30.0, 1.0, DAY - 3599.0)
    assert account.spent_on(DAY - 3599.0) == 30.0
    assert account.lacks(100.0, 3600.0, DAY) is None
    late = account.take(50.0, 3600.0, DAY)
    account.settle(late, 10.0, 90_000.0, 2 * DAY)  # charged on the day on which it ends
    assert account.spent_on(2 * DAY) == 10.0


def test_a_request_is_settled_once() -> None:
    account = tokens_account(concurrency=1)
    stake = account.take(50.0, 0.0, 0.0)
    for _ in range(3):
        account.settle(stake, 20.0, 0.0, 0.0)
        account.cancel(stake, 0.0, 0.0)
    assert account.running == 0
    assert account.tokens is not None and account.tokens.left(0.0) == pytest.approx(80.0)


def test_what_was_never_sent_is_as_if_it_had_not_been() -> None:
    account = Account(Terms(Pace(1.0, 1.0), Pace(100.0, 60.0), 1, 100))
    account.cancel(account.take(100.0, 5.0, 5.0), 5.0, 5.0)
    assert account.lacks(100.0, 5.0, 5.0) is None


def test_other_limits_keep_what_was_counted() -> None:
    account = tokens_account(concurrency=2)
    stake = account.take(60.0, 0.0, 0.0)
    account.retune(Terms(Pace(5.0, 1.0), Pace(200.0, 60.0), 2, 1000), 0.0)
    assert account.tokens is not None and account.tokens.left(0.0) == pytest.approx(140.0)
    assert account.running == 1
    account.settle(stake, 10.0, 0.0, 0.0)
    assert account.tokens.left(0.0) == pytest.approx(190.0)
    assert account.running == 0
    account.retune(Terms(tokens=None), 1.0)
    assert account.lacks(1e9, 1.0, 1.0) is None


def test_readings_tell_limit_rest_and_reset() -> None:
    account = Account(Terms(Pace(10.0, 1.0), Pace(100.0, 60.0), None, 1000))
    account.take(25.0, 0.0, 0.0)
    assert account.requests_left(0.0) == pytest.approx((10.0, 9.0, 0.1))
    assert account.tokens_left(0.0, 0.0) == pytest.approx((100.0, 75.0, 15.0))
    account.spent = 965.0
    assert account.tokens_left(0.0, DAY / 2) == pytest.approx((1000.0, 10.0, DAY / 2))


@settings(max_examples=100)
@given(st.lists(st.tuples(st.sampled_from("tsc"), st.integers(1, 40), st.floats(0.0, 3.0)), max_size=60))
def test_whatever_happens_what_runs_and_what_is_spent_are_counted(events: list[tuple[str, int, float]]) -> None:
    account, now, flying, spent = Account(Terms(day=10**6, concurrency=10**6)), 0.0, [], 0
    for kind, tokens, gap in events:
        now += gap
        if kind == "t" or not flying:
            flying.append(account.take(tokens, now, now))
        else:
            stake = flying.pop(0)
            if kind == "s":
                account.settle(stake, tokens, now, now)
                spent += tokens
            else:
                account.cancel(stake, now, now)
    assert account.running == len(flying)
    assert account.reserved == sum(stake.tokens for stake in flying)
    assert account.spent == spent
