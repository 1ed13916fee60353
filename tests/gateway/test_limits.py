"""The limiter: what is reserved, what is refused and how, what clients are told, what a reload keeps."""

import math
from dataclasses import replace

import pytest

from gateway.config.types import Config, Key, KeyLimits, Rate
from gateway.core.errors import BadRequest, Refused
from gateway.core.limiter import DAY
from gateway.grants import Grant, TenantLimit
from gateway.limit_fields import duration
from gateway.limits import Limiter

NOON = 1_000 * DAY + DAY / 2


def config(*limits: KeyLimits | None, tenants: str = "abcdef") -> Config:
    keys = tuple(Key(bytes([i]) * 32, tenants[i], limits=one) for i, one in enumerate(limits))
    return Config(pools={}, models={}, keys=keys)


def limiter(*limits: KeyLimits | None, at: float = NOON) -> tuple[Limiter, Key]:
    made = config(*limits)
    return Limiter(made, wall=lambda: at), made.keys[0]


PER_MINUTE = KeyLimits(tokens=Rate(1000, 60))
STRICT = KeyLimits(tokens=Rate(1000, 60), reserve="max_tokens")


def refusal(of: Limiter, key: Key, prompt: float = 10.0, output: float = 10.0, most: int | None = None,
            now: float = 0.0, size: int = 0) -> TenantLimit:  # fmt: skip
    with pytest.raises(TenantLimit) as caught:
        of.admit(key, prompt, output, most, now, size)
    return caught.value


def lines(fields: bytes) -> dict[str, str]:
    return dict(line.split(": ") for line in fields.decode().split("\r\n") if line)


# --- what is reserved ------------------------------------------------------------------------------------------------


def test_a_key_without_limits_is_let_through_and_told_nothing() -> None:
    of, key = limiter(None)
    grant = of.admit(key, 1e9, 1e9, None, 0.0)
    grant.settle(1.0, 1.0, False, 0.0)
    grant.cancel(0.0)
    assert grant.headers() == b""


def test_learnt_reserves_the_estimates_and_no_more_than_the_client_allows() -> None:
    of, key = limiter(PER_MINUTE)
    of.admit(key, 100.0, 300.0, None, 0.0)
    of.admit(key, 100.0, 300.0, 50, 0.0)
    assert of.readings(0.0)[0].tokens_left == pytest.approx(450.0)


def test_learnt_may_need_more_than_the_bucket_holds_and_then_takes_it_whole() -> None:
    of, key = limiter(PER_MINUTE)
    of.admit(key, 900.0, 5000.0, None, 0.0).settle(900.0, 20.0, False, 0.0)
    assert of.readings(0.0)[0].tokens_left == pytest.approx(80.0)


def test_max_tokens_reserves_a_token_for_every_byte_and_the_longest_answer() -> None:
    of, key = limiter(STRICT)
    grant = of.admit(key, 100.0, 7.0, 200, 0.0, size=400)
    assert of.readings(0.0)[0].tokens_left == pytest.approx(400.0)
    grant.settle(100.0, 200.0, False, 0.0)
    assert of.readings(0.0)[0].tokens_left == pytest.approx(700.0)


def test_max_tokens_refuses_a_request_that_does_not_say() -> None:
    of, key = limiter(STRICT)
    with pytest.raises(BadRequest) as caught:
        of.admit(key, 10.0, 10.0, None, 0.0)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "max_tokens_needed", "max_tokens")
    of.admit(key, 10.0, 0.0, 0, 0.0)  # nothing is generated


def test_max_tokens_needs_no_max_tokens_where_no_tokens_are_limited() -> None:
    of, key = limiter(KeyLimits(requests=Rate(5, 1), reserve="max_tokens"))
    of.admit(key, 10.0, 10.0, None, 0.0)


def test_a_long_prompt_that_fits_is_not_refused_because_its_bytes_do_not() -> None:
    of, key = limiter(STRICT)
    of.admit(key, 500.0, 0.0, 400, 0.0, size=2000)
    assert of.readings(0.0)[0].tokens_left == 0.0


@pytest.mark.parametrize(
    ("limits", "prompt", "most"),
    [
        (PER_MINUTE, 1001.0, None),
        (STRICT, 500.0, 501),
        (KeyLimits(tokens_per_day=800), 801.0, None),
        (KeyLimits(tokens=Rate(1000, 60), tokens_per_day=800, reserve="max_tokens"), 1.0, 800),
    ],
)
def test_what_can_never_fit_is_refused_for_good(limits: KeyLimits, prompt: float, most: int | None) -> None:
    of, key = limiter(limits)
    error = refusal(of, key, prompt, 10.0, most)
    assert error.status == 429 and error.reason == "tenant_limit"
    assert not error.should_retry and error.retry_after is None
    assert "never fits" in error.message


# --- what is charged -------------------------------------------------------------------------------------------------


def test_what_nobody_counted_is_charged_as_estimated_and_said_so() -> None:
    of, key = limiter(PER_MINUTE)
    of.admit(key, 100.0, 50.0, None, 0.0).settle(math.nan, math.nan, False, 0.0)
    of.admit(key, 100.0, 50.0, None, 0.0).settle(-1.0, 5.0, False, 0.0)
    of.admit(key, 100.0, 50.0, None, 0.0).settle(90.0, 5.0, True, 0.0)
    of.admit(key, 100.0, 50.0, None, 0.0).settle(90.0, 5.0, False, 0.0)
    reading = of.readings(0.0)[0]
    assert (reading.charged, reading.estimated) == (150 + 105 + 95 + 95, 150 + 105 + 95)
    assert reading.tokens_left == pytest.approx(1000 - reading.charged)


def test_a_grant_is_settled_once() -> None:
    of, key = limiter(PER_MINUTE)
    grant = of.admit(key, 100.0, 50.0, None, 0.0)
    grant.settle(10.0, 10.0, False, 0.0)
    grant.settle(500.0, 10.0, False, 0.0)
    grant.cancel(0.0)
    reading = of.readings(0.0)[0]
    assert (reading.charged, reading.running) == (20.0, 0)


def test_a_request_that_never_went_costs_nothing() -> None:
    of, key = limiter(KeyLimits(Rate(1, 60), Rate(1000, 60), 1, 1000))
    of.admit(key, 500.0, 500.0, None, 0.0).cancel(0.0)
    of.admit(key, 500.0, 500.0, None, 0.0)


@pytest.mark.parametrize(("limits", "errors"), [(PER_MINUTE, 40 * 30), (STRICT, 0)])
def test_fifty_at_once_use_no_more_than_the_limit_and_their_errors(limits: KeyLimits, errors: int) -> None:
    of, key = limiter(limits)
    grants: list[Grant] = []
    refused = 0
    for _ in range(50):
        try:
            grants.append(of.admit(key, 20.0, 10.0, 40, 0.0, size=60))
        except TenantLimit as error:
            refused += 1
            assert error.retry_after is not None and error.retry_after >= 1.0
    used = 0
    for grant in grants:
        grant.settle(20.0, 40.0, False, 0.0)
        used += 60
    assert refused and used <= 1000 + errors


# --- what is said ----------------------------------------------------------------------------------------------------


def test_clients_are_told_limits_rests_and_resets() -> None:
    of, key = limiter(KeyLimits(Rate(10, 1), Rate(6000, 60)))
    grant = of.admit(key, 1000.0, 500.0, None, 50.0)
    assert lines(grant.headers()) == {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "9",
        "x-ratelimit-reset-requests": "100ms",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "4500",
        "x-ratelimit-reset-tokens": "15s",
    }


def test_of_a_day_and_a_minute_the_one_with_less_left_is_told() -> None:
    of, key = limiter(KeyLimits(tokens=Rate(6000, 60), tokens_per_day=2000))
    told = lines(of.admit(key, 1000.0, 500.0, None, 50.0).headers())
    assert told["x-ratelimit-limit-tokens"] == "2000"
    assert told["x-ratelimit-remaining-tokens"] == "500"
    assert told["x-ratelimit-reset-tokens"] == "12h0m0s"
    assert "x-ratelimit-limit-requests" not in told


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, b"0s"), (-1.0, b"0s"), (0.0001, b"1ms"), (0.12, b"120ms"), (1.0, b"1s"), (8.64, b"8.64s"),
     (59.9999, b"1m0s"), (360.0, b"6m0s"), (61.2, b"1m2s"), (3600.0, b"1h0m0s"), (86399.0, b"23h59m59s")],
)  # fmt: skip
def test_durations_are_written_as_openai_writes_them(seconds: float, text: bytes) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("limits", "what", "wait", "millis"),
    [
        (KeyLimits(requests=Rate(1, 10)), "1 requests in 10 s", 10, "9990"),
        (KeyLimits(tokens=Rate(30, 60)), "30 tokens in 60 s; this request needs 20 tokens", 20, "19998"),
        (KeyLimits(concurrency=1), "1 requests at once", 1, "1000"),
        (KeyLimits(tokens_per_day=30), "30 tokens a day; this request needs 20 tokens", 43200, "43200000"),
    ],
)
def test_a_refusal_names_the_limit_and_the_time(limits: KeyLimits, what: str, wait: int, millis: str) -> None:
    of, key = limiter(limits)
    of.admit(key, 10.0, 10.0, None, 0.0)
    error = refusal(of, key)
    assert what in error.message
    assert (error.status, error.code, error.retry_after, error.should_retry) == (429, "tenant_limit", wait, True)
    assert lines(error.fields)["retry-after-ms"] == millis


# --- tenants, reloads, restarts --------------------------------------------------------------------------------------


def test_a_tenants_second_key_is_no_second_helping() -> None:
    made = config(PER_MINUTE, PER_MINUTE, PER_MINUTE, tenants="aab")
    of = Limiter(made)
    of.admit(made.keys[0], 900.0, 100.0, None, 0.0)
    refusal(of, made.keys[1])
    of.admit(made.keys[2], 10.0, 10.0, None, 0.0)
    assert [reading.keys for reading in of.readings(0.0)] == [2, 1]


def test_a_reload_keeps_what_was_counted_of_keys_that_stay() -> None:
    made = config(PER_MINUTE, PER_MINUTE)
    of = Limiter(made)
    grant = of.admit(made.keys[0], 500.0, 100.0, None, 0.0)
    of.admit(made.keys[1], 900.0, 100.0, None, 0.0)
    of.reconfigure(replace(made, keys=made.keys[:1]), 0.0)
    assert [reading.tokens_left for reading in of.readings(0.0)] == [pytest.approx(400.0)]
    grant.settle(500.0, 0.0, False, 0.0)
    assert of.readings(0.0)[0].tokens_left == pytest.approx(500.0)
    of.reconfigure(made, 0.0)
    assert of.readings(0.0)[1].tokens_left == pytest.approx(1000.0)  # it had gone


def test_a_reload_with_other_limits_keeps_what_was_counted() -> None:
    made = config(KeyLimits(tokens=Rate(1000, 60), concurrency=1, tokens_per_day=5000))
    of = Limiter(made, wall=lambda: NOON)
    grant = of.admit(made.keys[0], 500.0, 100.0, None, 0.0)
    other = replace(made.keys[0], limits=KeyLimits(tokens=Rate(3000, 60), concurrency=2, tokens_per_day=7000))
    of.reconfigure(replace(made, keys=(other,)), 0.0)
    reading = of.readings(0.0)[0]
    assert (reading.tokens_left, reading.running) == (pytest.approx(2400.0), 1)
    of.admit(other, 10.0, 10.0, None, 0.0)
    refusal(of, other)
    grant.settle(500.0, 0.0, False, 0.0)
    assert of.readings(0.0)[0].spent_today == 500.0
    of.admit(other, 10.0, 10.0, None, 0.0)


def test_a_request_under_way_during_a_reload_that_drops_its_key_ends_well() -> None:
    made = config(PER_MINUTE)
    of = Limiter(made)
    grant = of.admit(made.keys[0], 10.0, 10.0, None, 0.0)
    of.reconfigure(replace(made, keys=()), 0.0)
    grant.settle(10.0, 10.0, False, 0.0)
    of.admit(made.keys[0], 10.0, 10.0, None, 0.0).cancel(0.0)
    assert grant.headers()


def test_a_days_spending_outlives_a_restart_and_not_the_day() -> None:
    made = config(KeyLimits(tokens_per_day=1000))
    of = Limiter(made, wall=lambda: NOON)
    of.admit(made.keys[0], 300.0, 100.0, None, 0.0).settle(300.0, 100.0, False, 0.0)
    state = of.to_state()
    again = Limiter(made, wall=lambda: NOON + 10.0)
    again.restore(state)
    assert again.readings(0.0)[0].spent_today == 400.0
    tomorrow = Limiter(made, wall=lambda: NOON + DAY)
    tomorrow.restore(state)
    assert tomorrow.readings(0.0)[0].spent_today == 0.0


@pytest.mark.parametrize(
    "state",
    [{}, {"version": 2, "day": 1, "spent": {}}, {"version": 1, "day": 1, "spent": []},
     {"version": 1, "day": 1000, "spent": {"a": "x"}}, {"version": 1, "day": 1000, "spent": {"a": math.nan}}],
)  # fmt: skip
def test_a_foreign_state_is_refused(state: dict[str, object]) -> None:
    of, _ = limiter(PER_MINUTE)
    with pytest.raises((KeyError, ValueError, TypeError)):
        of.restore(state)


def test_what_was_refused_is_counted_by_limit() -> None:
    of, key = limiter(KeyLimits(concurrency=1))
    of.admit(key, 1.0, 1.0, None, 0.0)
    for _ in range(3):
        refusal(of, key)
    assert of.readings(0.0)[0].refused == {"concurrency": 3}
    assert issubclass(TenantLimit, Refused)
