"""The least cost for everyone: the formula, whom it spares, whose promise it keeps, and when it does not decide."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.fleet import Fleet
from gateway.core.types import Decision, Outcome
from policies.picking import check
from policies.picking.predicted_latency import FEASIBLE, PredictedLatency
from policies.picking.weighing import HARM_FROM, TPOT_SHARE, TTFT_SHARE
from tests.support.picking import make_request
from tests.support.predicting import ask, crowd, make_pool, prediction_of, predictor_of, send

SLO = {"ttft_slo": 0.5, "tpot_slo": 0.02}


def tell(fleet: Fleet, ttft: Sequence[float], tpot: Sequence[float] = (), tpot_now: Sequence[float] = (),
         work: Sequence[float] = (), batch: Sequence[float] = ()) -> None:  # fmt: skip
    """From now on this is predicted, whatever is asked; one value per candidate."""

    def of(values: Sequence[float], otherwise: float) -> np.ndarray:
        return np.array(values if len(values) else [otherwise] * len(ttft), float)

    paced = of(tpot, 0.01)
    now = of(tpot_now, 0.01) if len(tpot_now) else paced
    made = prediction_of(fleet, of(ttft, 0.0), paced, now, of(work, 0.0), of(batch, 0.0))
    fleet.predictor.predict = lambda request, snapshot, cached=None: made


def pick(policy: PredictedLatency, fleet: Fleet, request=None, now: float = 0.0) -> Decision:
    """One choice, and the request goes there unless it waits."""
    decision = policy.pick(request or ask(**SLO), fleet.snapshot(now))
    if not decision.wait:
        decision.taken()
    return decision


# --- the formula -----------------------------------------------------------------------------------------------------


def test_who_promises_itself_the_impossible_is_treated_like_who_promises_what_can_be() -> None:
    fleet = make_pool(4)
    predictor = predictor_of(fleet)
    first, each = predictor.idle_ttft(ask().prompt_tokens), predictor.idle_tpot()
    least = {"ttft_slo": FEASIBLE * first, "tpot_slo": FEASIBLE * each}
    policy = PredictedLatency()
    greedy = pick(policy, fleet, ask(ttft_slo=1e-6, tpot_slo=1e-9))
    assert greedy.scores.tolist() == pick(policy, fleet, ask(**least)).scores.tolist()


def step(x: float) -> float:
    """The normal distribution's, nearly: a logistic function of so many standard deviations."""
    return 1.0 / (1.0 + math.exp(min(60.0, -1.702 * x)))


shares = st.floats(0.001, 50.0)
places = st.tuples(shares, shares, shares, st.floats(0.0, 5.0), st.floats(0.0, 300.0))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(places, min_size=1, max_size=9), st.floats(0.01, 9.0), st.floats(0.001, 0.5), st.floats(0.0, 9.0),
       st.floats(0.0, 1.0), st.floats(0.0, 1.0))  # fmt: skip
def test_the_score_is_what_the_formula_says(found, ttft_slo, tpot_slo, harm, ttft_spread, tpot_spread) -> None:
    fleet = make_pool(len(found))
    predictor = predictor_of(fleet)
    predictor.learnt.ttft.spread, predictor.learnt.tpot.spread = ttft_spread, tpot_spread
    tell(fleet, *([figures[i] * unit for figures in found] for i, unit in enumerate((1.0, 0.01, 0.01, 1.0, 1.0))))
    decision = pick(PredictedLatency(harm=harm), fleet, ask(ttft_slo=ttft_slo, tpot_slo=tpot_slo))
    s_t, s_p = min(0.5, max(0.1, ttft_spread)), min(0.5, max(0.1, tpot_spread))
    ttft_slo = max(ttft_slo, FEASIBLE * predictor.idle_ttft(ask().prompt_tokens))
    tpot_slo = max(tpot_slo, FEASIBLE * predictor.idle_tpot())
    for i, (ttft, tpot, now, work, batch) in enumerate(found):
        wait, before, after = ttft / ttft_slo, now * 0.01 / tpot_slo, tpot * 0.01 / tpot_slo
        late, slow = step((wait - 1.0) / s_t), step((before - 1.0) / s_p)
        hurt = harm * batch * work / (200.0 * tpot_slo) * step((after - HARM_FROM) / s_p)
        score = TTFT_SHARE * wait + TPOT_SHARE * after + late + slow + hurt
        # Steps are exact to 1e-16 of 1, not of themselves; up to 7e4 times that is what is delayed here.
        assert decision.scores[i] == pytest.approx(score, rel=1e-9, abs=1e-10)
        terms = [ttft, tpot * 0.01, late, slow, hurt, 0.0, 0.0]
        assert decision.terms[:, i] == pytest.approx(terms, rel=1e-9, abs=1e-10)
    assert decision.terms.shape == (len(PredictedLatency.TERMS), len(found))
    assert decision.scores[decision.row] <= decision.scores.min() * 1.0011
    assert np.isfinite(decision.scores).all() and decision.wait == 0.0


def test_the_table_of_terms_says_what_is_in_it() -> None:
    assert PredictedLatency.TERMS == ("ttft", "tpot", "ttft_risk", "tpot_risk", "harm", "cached", "again")
    assert PredictedLatency.predicts


def test_the_forecast_is_that_of_the_chosen_one() -> None:
    fleet = make_pool(3)
    tell(fleet, [0.3, 0.1, 0.2])
    decision = pick(PredictedLatency(), fleet)
    assert decision.row == 1 and decision.forecast.ttft == 0.1
    assert decision.reason == "first token in 0.100 s, then 10.0 ms each; least cost, of 3"


def test_a_row_is_told_apart_from_a_position() -> None:
    fleet = make_pool(4)
    send(fleet, 2, ask(20_000.0), 0.0)
    decision = PredictedLatency().pick(ask(**SLO), fleet.snapshot(0.0, ["e0", "e1"]))
    assert decision.row == 3 and len(decision.scores) == 2 and decision.terms.shape == (7, 2)


# --- whom it spares --------------------------------------------------------------------------------------------------


def test_a_long_prompt_goes_where_few_decode_though_its_first_token_comes_later() -> None:
    """Eighty streams at nearly the pace that was promised, or four and a prompt to wait for."""
    fleet = make_pool(2)
    crowd(fleet, 0, 80)
    crowd(fleet, 1, 4)
    send(fleet, 1, ask(6000.0), 5.0, forecast=False)
    request = ask(6000.0, ttft_slo=1.0, tpot_slo=0.017)
    ttft = predictor_of(fleet).predict(request, fleet.snapshot(5.0)).ttft
    assert ttft[0] < ttft[1]
    kind, selfish = (pick(PredictedLatency(harm=harm), fleet, request, 5.0) for harm in (1.0, 0.0))
    assert kind.row == 1 and selfish.row == 0
    assert kind.terms[4, 0] > 10.0 * kind.terms[4, 1] and selfish.terms[4].tolist() == [0.0, 0.0]


def test_light_requests_stay_away_from_an_engine_that_digests_a_long_prompt() -> None:
    fleet = make_pool(3)
    policy = PredictedLatency()
    long = pick(policy, fleet, ask(16_000.0, **SLO), 1.0)
    fleet.reserve(long, ask(16_000.0), 1.0)
    for i in range(12):
        now = 1.02 + i * 0.01
        decision = pick(policy, fleet, ask(200.0, **SLO), now)
        assert decision.row != long.row
        fleet.reserve(decision, ask(200.0), now)


def test_equal_engines_share_equal_requests() -> None:
    fleet, policy, counts = make_pool(4), PredictedLatency(), Counter()
    for i in range(40):
        decision = pick(policy, fleet, ask(1000.0, **SLO), 1.0 + i * 0.002)
        fleet.reserve(decision, ask(1000.0), 1.0 + i * 0.002)
        counts[decision.row] += 1
    assert set(counts.values()) == {10}


def test_an_engine_that_is_slower_gets_less() -> None:
    fleet, policy, counts = make_pool(4), PredictedLatency(), Counter()
    for row in range(4):
        predictor_of(fleet).learnt.paces.resume(row, 2.5 if row == 3 else 1.0, 2.5 if row == 3 else 1.0)
    predictor_of(fleet).learnt.paces.pool()
    for i in range(40):
        decision = pick(policy, fleet, ask(1000.0, **SLO), 1.0 + i * 0.002)
        fleet.reserve(decision, ask(1000.0), 1.0 + i * 0.002)
        counts[decision.row] += 1
    assert counts[3] <= 6 and min(counts[row] for row in range(3)) >= 10


# --- what was promised -----------------------------------------------------------------------------------------------


def test_the_promise_of_the_request_decides() -> None:
    """One endpoint begins soon and goes on slowly, the other one begins late and goes on fast."""
    fleet, policy = make_pool(2), PredictedLatency()
    tell(fleet, [0.2, 0.8], [0.04, 0.02])
    assert pick(policy, fleet, ask(ttft_slo=0.5, tpot_slo=0.1)).row == 0
    assert pick(policy, fleet, ask(ttft_slo=5.0, tpot_slo=0.03)).row == 1


def test_options_promise_where_the_request_does_not() -> None:
    fleet = make_pool(2)
    tell(fleet, [0.2, 0.8], [0.04, 0.02])
    quick, smooth = PredictedLatency(ttft=0.5, tpot=0.1), PredictedLatency(ttft=5.0, tpot=0.03)
    assert pick(quick, fleet, ask()).row == 0 and pick(smooth, fleet, ask()).row == 1
    assert pick(quick, fleet, ask(ttft_slo=5.0, tpot_slo=0.03)).row == 1
    halves = pick(quick, fleet, ask(tpot_slo=0.03))  # a promise of one kind leaves the other one
    assert halves.scores == pytest.approx(pick(quick, fleet, ask(ttft_slo=0.5, tpot_slo=0.03)).scores)


def test_without_any_promise_it_is_made_from_an_idle_engine() -> None:
    fleet = make_pool(2)
    predictor = predictor_of(fleet)
    tell(fleet, [0.2, 0.8], [0.04, 0.02])
    for prompt in (10.0, 20_000.0):
        ttft = max(0.1, 4.0 * predictor.idle_ttft(prompt))
        named = ask(prompt, ttft_slo=ttft, tpot_slo=2.5 * predictor.idle_tpot())
        found, expected = (pick(PredictedLatency(), fleet, request) for request in (ask(prompt), named))
        assert found.scores == pytest.approx(expected.scores)


# --- ties and warm caches --------------------------------------------------------------------------------------------


def warmed(policy: PredictedLatency, fleet: Fleet, row: int) -> None:
    """An endpoint has had a prompt of the family that `make_request` asks."""
    tell(fleet, [0.1 if i == row else 0.9 for i in range(len(fleet.snapshot(0.0)))])
    request = make_request(0)
    decision = pick(policy, fleet, request)
    assert decision.row == row
    fleet.reserve(decision, request, 0.0).settle(0.0)


def test_of_nearly_equal_scores_the_warmer_cache_is_chosen() -> None:
    fleet, policy = make_pool(3), PredictedLatency(ttft=9.0, tpot=1.0)
    warmed(policy, fleet, 1)
    tell(fleet, [1.0, 1.03, 1.02])
    decision = pick(policy, fleet, make_request(1))
    assert decision.row == 1 and decision.cached_tokens > 1700.0
    assert decision.terms[5].tolist() == [0.0, decision.cached_tokens, 0.0]


def test_a_warm_cache_does_not_make_up_for_a_worse_prediction() -> None:
    fleet, policy = make_pool(3), PredictedLatency(ttft=9.0, tpot=1.0)
    warmed(policy, fleet, 1)
    tell(fleet, [1.0, 1.3, 1.2])
    assert pick(policy, fleet, make_request(1)).row == 0


def test_what_is_cached_counts_in_the_prediction() -> None:
    fleet, policy = make_pool(3), PredictedLatency()
    decision = pick(policy, fleet, make_request(0, **SLO))
    fleet.reserve(decision, make_request(0), 0.0).settle(0.0)
    again = pick(policy, fleet, make_request(1, **SLO), 30.0)
    assert again.row == decision.row
    assert again.terms[0, again.row] < 0.7 * again.terms[0].max()


def test_a_cache_that_does_not_keep_prompts_loses_its_credit() -> None:
    fleet, policy = make_pool(2), PredictedLatency()
    shares = []
    for i in range(40):
        request = make_request(i, **SLO)
        decision = pick(policy, fleet, request, float(30 * i))
        fleet.reserve(decision, request, float(30 * i)).settle(30.0 * i + 1.0)
        policy.observe(Outcome(request, fleet.endpoint(decision.row), decision.row, 200, "complete", 1.0, 0.1, 2000.0,
                               0.0, 10.0))  # fmt: skip
        shares.append(decision.cached_tokens)
    assert max(shares[1:4]) > 500.0 and max(shares[-4:]) < 200.0


def test_an_endpoint_that_is_gone_is_not_warm_any_more() -> None:
    fleet, policy = make_pool(3), PredictedLatency(ttft=9.0, tpot=1.0)
    warmed(policy, fleet, 1)
    policy.leave(1)
    assert pick(policy, fleet, make_request(1)).terms[5].tolist() == [0.0, 0.0, 0.0]


def test_of_equal_scores_the_less_busy_of_two_is_chosen() -> None:
    fleet, policy = make_pool(4), PredictedLatency()
    crowd(fleet, 0, 5)
    crowd(fleet, 1, 2)
    tell(fleet, [0.1, 0.10001, 0.10002, 0.2])
    counts = Counter(pick(policy, fleet).row for _ in range(900))
    assert set(counts) == {0, 1, 2}
    # Of two drawn out of three, with repetition: the idle one unless it is not drawn, the busy one only with itself.
    assert [counts[row] / 900 for row in (0, 1, 2)] == pytest.approx([1 / 9, 3 / 9, 5 / 9], abs=0.06)


# --- when predictions cannot be trusted ------------------------------------------------------------------------------


def test_a_predictor_that_is_not_calibrated_is_not_asked() -> None:
    fleet, policy = make_pool(2), PredictedLatency(late_binding="always")
    crowd(fleet, 0, 4)
    tell(fleet, [0.01, 5.0])
    predictor_of(fleet).learnt.ttft.calibrated = False
    decision = pick(policy, fleet)
    assert decision.row == 1  # by the number of requests there
    assert decision.reason == "predictions are not calibrated; 0 requests there, fewest of 2 drawn"
    assert decision.forecast is not None and decision.forecast.ttft == 5.0 and decision.wait == 0.0
    predictor_of(fleet).learnt.ttft.calibrated = True
    assert pick(policy, fleet).row == 0


def test_it_goes_on_learning_and_comes_back_once_predictions_fit_again() -> None:
    fleet, policy = make_pool(2), PredictedLatency()
    predictor, now, reasons = predictor_of(fleet), 0.0, []
    for i in range(400):
        now += 2.0
        decision = pick(policy, fleet, ask(1000.0), now)
        reservation = fleet.reserve(decision, ask(1000.0), now)
        seconds = (0.01, 2.0)[i % 2] if i < 60 else 0.05
        reservation.first_token(now + seconds)
        reservation.settle(now + seconds + 0.1)
        reasons.append(decision.reason.startswith("predictions are not calibrated"))
    assert not reasons[0] and reasons[59] and not reasons[-1]
    assert predictor.learnt.ttft.samples == 400


def test_what_the_fallback_sends_makes_caches_warm_too() -> None:
    fleet, policy = make_pool(2), PredictedLatency()
    predictor_of(fleet).learnt.ttft.calibrated = False
    row = pick(policy, fleet, make_request(0)).row
    again = pick(policy, fleet, make_request(1))
    assert again.cached_tokens == (pytest.approx(1800.0, abs=200.0) if again.row == row else 0.0)
    predictor_of(fleet).learnt.ttft.calibrated = True
    assert pick(policy, fleet, make_request(2)).terms[5, row] > 1700.0


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "words"), [
    ({"harm": -1}, ("harm", "from 0 to 100", "-1")), ({"harm": "much"}, ("harm", "'much'")),
    ({"harm": True}, ("harm", "True")), ({"harm": math.nan}, ("harm", "nan")),
    ({"ttft": -0.1}, ("ttft", "at least 0", "-0.1")), ({"ttft": "1s"}, ("ttft", "'1s'")),
    ({"tpot": math.inf}, ("tpot", "finite")), ({"tpot": None}, ("tpot", "None")),
    ({"late_binding": "sometimes"}, ("late_binding", "auto, always, never", "'sometimes'")),
    ({"late_binding": False}, ("late_binding", "False")), ({"late_binding": ["auto"]}, ("late_binding",)),
    ({"max_blocks": 0}, ("max_blocks", "1000")), ({"max_blocks": 2.5}, ("max_blocks", "2.5")),
])  # fmt: skip
def test_options_are_checked_and_the_error_says_what_is_wrong(options: dict, words: tuple[str, ...]) -> None:
    message = check("predicted_latency", options)
    assert message is not None
    assert all(word in message for word in words), message


def test_every_option_is_taken() -> None:
    options = {"harm": 2, "ttft": 1, "tpot": 0.03, "late_binding": "never", "max_blocks": 2000}
    assert check("predicted_latency", options) is None and check("predicted_latency", {}) is None
