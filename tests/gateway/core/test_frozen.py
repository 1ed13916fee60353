"""Observed over predicted, by one set of prices that does not learn: what it sees and what it takes no notice of."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from random import Random

import pytest

from gateway.core.fleet import Fleet
from gateway.core.frozen import FEWEST, MOST, Frozen, PriceList, Residual
from gateway.core.predictor import Predictor
from gateway.core.reservation import Reservation
from gateway.core.types import UNKNOWN, Decision, Outcome
from tests.support.predicting import PLAIN, ask, make_pool, predictor_of, send

STREAM = 200.0  # tokens of an answer


def answer(reservation: Reservation, ttft: float, gap: float, tokens: float = STREAM, ended: str = "complete",
           status: int = 200, **more: float) -> Outcome:  # fmt: skip
    """It comes as said, and the fleet hears of it."""
    at, request = reservation.at, ask(reservation.prompt, stream=reservation.stream)
    end = at + ttft + gap * (tokens - 1.0)
    if reservation.stream:
        reservation.first_token(at + ttft)
    outcome = Outcome(request, reservation.endpoint, reservation.row, status, ended, end - at,
                      ttft if reservation.stream else UNKNOWN, output_tokens=tokens, **more)  # fmt: skip
    reservation.settle(end, outcome)
    return outcome


def alone(fleet: Fleet, frozen: Frozen, ttft: float, gap: float, at: float = 1.0, prompt: float = 1000.0,
          **more: object) -> Residual:  # fmt: skip
    reservation = send(fleet, 0, ask(prompt), at)
    return frozen.residual(reservation, answer(reservation, ttft, gap, **more), stable=True)  # type: ignore[arg-type]


def priced(fleet: Fleet) -> tuple[Frozen, float, float]:
    """Frozen now, and what an idle endpoint should take: seconds to the first of 1,000 tokens, and between tokens."""
    predictor = predictor_of(fleet)
    # 1,000 tokens of its own context are read with every one that it writes.
    return Frozen.of(predictor), predictor.idle_ttft(1000.0), predictor.idle_tpot() + 1e-7 * 1000.0


def test_what_takes_as_long_as_it_should_has_no_residual() -> None:
    fleet = make_pool(1)
    frozen, ttft, gap = priced(fleet)
    left = alone(fleet, frozen, ttft, gap)
    assert left.ttft == pytest.approx(0.0, abs=1e-9) and left.tpot == pytest.approx(0.0, abs=0.02)


@pytest.mark.parametrize("slower", [0.5, 1.2, 3.0])
def test_what_takes_longer_shows_as_the_logarithm_of_how_much(slower: float) -> None:
    fleet = make_pool(1)
    frozen, ttft, gap = priced(fleet)
    left = alone(fleet, frozen, slower * ttft, slower * gap)
    assert left.ttft == pytest.approx(math.log(slower)) and left.tpot == pytest.approx(math.log(slower), abs=0.02)


def test_a_predictor_that_has_learnt_that_its_engines_are_slow_is_not_believed() -> None:
    stable, canary = make_pool(1), make_pool(1, replace(PLAIN, chunk=0.0))
    frozen, ttft, gap = priced(stable)
    for i in range(60):
        left = alone(canary, frozen, 1.5 * ttft, 1.5 * gap, at=10.0 * i)
    assert predictor_of(canary).idle_ttft(1000.0) > 1.3 * ttft
    assert left.ttft == pytest.approx(math.log(1.5), abs=1e-6) and left.tpot == pytest.approx(math.log(1.5), abs=0.02)


def test_what_was_waited_for_counts_in_the_seconds_of_the_price_list() -> None:
    """The rest of an iteration was told by a predictor to which iterations are twice as long: half of it is harm."""
    slow = replace(PLAIN, overhead=0.02, base=0.02, decode=2e-5, context=2e-7, slope1=2e-5, slope2=4e-5, slope3=8e-5,
                   pair=2e-9)  # fmt: skip
    stable, canary = make_pool(1), make_pool(1, slow)
    frozen = Frozen.of(predictor_of(stable))
    send(canary, 0, ask(2000.0), 1.0)
    waiting = send(canary, 0, ask(1000.0), 1.0)
    assert waiting.forecast is not None and waiting.forecast.rest > 0.03
    left = frozen.residual(waiting, answer(waiting, waiting.forecast.ttft_base, 0.02), stable=False)
    assert left.ttft == pytest.approx(math.log(2.0), abs=1e-6)


def test_a_queue_before_it_is_not_held_against_an_endpoint() -> None:
    fleet = make_pool(1)
    frozen = Frozen.of(predictor_of(fleet))
    send(fleet, 0, ask(6000.0), 1.0)
    behind = send(fleet, 0, ask(1000.0), 1.0)
    assert behind.forecast is not None
    left = frozen.residual(behind, answer(behind, behind.forecast.ttft_base, 0.01), stable=True)
    assert left.ttft == pytest.approx(0.0, abs=1e-6)


def test_the_length_that_the_engine_counted_is_the_one_that_is_priced() -> None:
    fleet = make_pool(1)
    frozen, ttft, gap = priced(fleet)
    reservation = send(fleet, 0, ask(400.0), 1.0)
    left = frozen.residual(reservation, answer(reservation, ttft, gap, prompt_tokens=1000.0), stable=True)
    assert left.ttft == pytest.approx(0.0, abs=1e-9)


def test_a_cache_that_does_not_hold_what_it_should_shows() -> None:
    fleet = make_pool(1)
    frozen, ttft, gap = priced(fleet)
    reservation = send(fleet, 0, ask(1000.0), 1.0, cached=900.0)
    left = frozen.residual(reservation, answer(reservation, ttft, gap, cached_tokens=0.0), stable=True)
    assert left.ttft > 0.5


def test_what_was_not_seen_is_not_known() -> None:
    fleet = make_pool(1)
    frozen, ttft, gap = priced(fleet)
    short = alone(fleet, frozen, ttft, gap, tokens=3.0)
    assert short.ttft == pytest.approx(0.0, abs=1e-9) and math.isnan(short.tpot)
    broken = alone(fleet, frozen, ttft, gap, at=20.0, ended="upstream_failed")
    assert broken.ttft == pytest.approx(0.0, abs=1e-9) and math.isnan(broken.tpot)
    failed = alone(fleet, frozen, ttft, gap, at=40.0, ended="upstream_failed", status=500)
    assert math.isnan(failed.ttft) and math.isnan(failed.tpot)
    blind = send(fleet, 0, ask(1000.0), 60.0, forecast=False)
    assert math.isnan(frozen.residual(blind, answer(blind, ttft, gap), stable=True).ttft)


def test_a_first_token_that_waited_for_the_kv_cache_says_nothing() -> None:
    fleet = make_pool(1)
    frozen = Frozen.of(predictor_of(fleet))
    predictor_of(fleet).told(0, 1500.0)
    send(fleet, 0, ask(1000.0), 1.0).first_token(1.1)
    waiting = send(fleet, 0, ask(1000.0), 1.2)
    assert waiting.forecast is not None and waiting.forecast.waits
    assert math.isnan(frozen.residual(waiting, answer(waiting, 5.0, 0.01), stable=True).ttft)


def test_no_residual_is_beyond_fifty_times() -> None:
    fleet = make_pool(1)
    frozen, ttft, gap = priced(fleet)
    assert alone(fleet, frozen, 1000.0 * ttft, gap).ttft == MOST


# --- without prices --------------------------------------------------------------------------------------------------


def without(count: int = 1) -> Fleet:
    fleet = make_pool(count)
    fleet.predictor = None
    return fleet


def plain(fleet: Fleet, frozen: Frozen, at: float, prompt: float, ttft: float, gap: float, stable: bool,
          stream: bool = True, tokens: float = STREAM) -> Residual:  # fmt: skip
    reservation = fleet.reserve(Decision(0, ""), ask(prompt, stream=stream), at)
    return frozen.residual(reservation, answer(reservation, ttft, gap, tokens), stable=stable)


@pytest.mark.parametrize("stream", [True, False])
def test_without_predictors_a_regression_on_the_stable_arm_takes_prompts_out(stream: bool) -> None:
    """The canary's prompts are longer: its first tokens take longer, and it is not slower."""
    random, fleet, frozen = Random(3), without(), Frozen()
    left: dict[float, list[Residual]] = {1.0: [], 1.2: []}
    for i in range(600):
        is_stable = i % 3 > 0
        slower = 1.0 if is_stable or i < 300 else 1.2
        prompt = random.uniform(100.0, 4000.0) * (1.0 if is_stable else 1.5)
        tokens = random.uniform(50.0, 400.0)
        ttft, gap = slower * (0.03 + 6e-5 * prompt), slower * (0.02 + 1e-7 * prompt) * random.uniform(0.95, 1.05)
        got = plain(fleet, frozen, 100.0 * i, prompt, ttft, gap, is_stable, stream, tokens)
        if i > 150 and not is_stable:
            left[slower].append(got)
    for slower, found in left.items():
        tpot = sum(one.tpot for one in found) / len(found)
        assert tpot == pytest.approx(math.log(slower), abs=0.03)
        assert all(math.isnan(one.ttft) for one in found) != stream
        if stream:
            assert sum(one.ttft for one in found) / len(found) == pytest.approx(math.log(slower), abs=0.02)


def test_a_regression_says_nothing_before_it_has_seen_enough_of_the_stable_arm() -> None:
    fleet, frozen = without(), Frozen()
    for i in range(5 * FEWEST):
        assert math.isnan(plain(fleet, frozen, 100.0 * i, 500.0, 0.1, 0.02, stable=False).ttft)
    for i in range(FEWEST):
        assert math.isnan(plain(fleet, frozen, 1e5 + 100.0 * i, 500.0, 0.1, 0.02, stable=True).ttft)
    assert plain(fleet, frozen, 2e5, 500.0, 0.2, 0.02, stable=False).ttft == pytest.approx(math.log(2.0), abs=0.05)


def test_nothing_is_learnt_from_the_canary() -> None:
    fleet, frozen = without(), Frozen()
    for i in range(100):
        plain(fleet, frozen, 100.0 * i, 500.0, 0.1, 0.02, stable=True)
    before = frozen.to_state()
    plain(fleet, frozen, 2e4, 500.0, 9.0, 0.9, stable=False)
    assert frozen.to_state() == before


def test_pools_that_cannot_be_held_against_one_price_list_get_none() -> None:
    stable, other = Predictor(PLAIN), Predictor(replace(PLAIN, knee1=64.0))
    assert Frozen.of(stable, Predictor(PLAIN)).prices is not None
    assert Frozen.of(None).prices is None and Frozen.of(stable, None).prices is None
    assert Frozen.of(stable, other).prices is None


# --- keeping ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_prices", [True, False])
def test_it_goes_on_from_its_state_as_if_nothing_had_been(has_prices: bool) -> None:
    fleet = make_pool(1) if has_prices else without()
    frozen = Frozen.of(fleet.predictor)
    for i in range(50):
        plain(fleet, frozen, 100.0 * i, 300.0 + i, 0.1, 0.02, stable=True, stream=i % 2 > 0)
    again = Frozen.restore(json.loads(json.dumps(frozen.to_state())))
    reservation = send(fleet, 0, ask(700.0), 1e5) if has_prices else fleet.reserve(Decision(0, ""), ask(700.0), 1e5)
    outcome = answer(reservation, 0.3, 0.02)
    got = frozen.residual(reservation, outcome, stable=False)
    expected = again.residual(reservation, outcome, stable=False)
    assert again.prices == frozen.prices and repr(got) == repr(expected)


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"version": 1},
        {"version": 1, "prices": {"each": [1.0], "knees": [1.0, 2.0], "chunk": 3.0}},
        {"version": 1, "prices": {"each": [1.0] * 8, "knees": [2.0, 1.0], "chunk": 3.0}},
        {"version": 1, "prices": {"each": [1.0] * 7 + [math.nan], "knees": [1.0, 2.0], "chunk": 3.0}},
        {"version": 1, "prices": None, "first": {"count": 1, "squares": [[1.0]], "products": [1.0]}},
        {"version": 1, "prices": None, "first": {"count": 1, "squares": [[0.0] * 3] * 3, "products": [0.0] * 3}},
        {"version": 1, "prices": None, "first": 3},
    ],
)
def test_a_state_that_is_none_is_refused(broken: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Frozen.restore(broken)


def test_the_price_list_is_the_formula() -> None:
    """What it says of a prompt behind others is what the predictor says of it, to the last digit that matters."""
    fleet = make_pool(1)
    learnt = predictor_of(fleet).learnt
    prices = PriceList(learnt.prices.each, learnt.prices.knees, learnt.chunk)
    send(fleet, 0, ask(5000.0), 1.0)
    f = send(fleet, 0, ask(700.0), 1.002).forecast
    assert f is not None
    assert prices.first_token(f.rest, f.tokens, f.decoding, f.context, f.pairs) == pytest.approx(f.ttft_base)
