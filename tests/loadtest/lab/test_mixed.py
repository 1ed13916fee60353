"""Two classes on one fleet: what is sent, taken back and counted is the same every time, and nothing gets lost."""

from dataclasses import replace

import numpy as np
import pytest

from loadtest.lab.mixed import Mixed
from loadtest.lab.mixed_desk import WAITING, MixedDesk
from loadtest.lab.mixed_figures import mixed_figures, series, tokens_over
from loadtest.lab.plan import OURS
from loadtest.lab.scenario import Fill, Gate, Group, Scenario, Traffic

BURSTS = Scenario("bursts", groups=(Group(count=2),), traffic=Traffic(on=4.0, off=8.0), requests=240, warm_up=0.3,
                  cool_down=0.0, fill=Fill((Gate(),)))  # fmt: skip
RATE, HEADWAY = 30.0, Gate()


def done(scenario: Scenario = BURSTS, gate: Gate = HEADWAY, seed: int = 1, interactive: bool = True) -> Mixed:
    mixed = Mixed(scenario, RATE, OURS, {}, seed, gate, interactive)
    mixed.run()
    return mixed


@pytest.fixture(scope="module")
def both() -> Mixed:
    return done()


def test_a_seed_gives_the_same_run_twice_and_another_one_another(both: Mixed) -> None:
    again, other = done(), done(seed=2)
    for name, column in both.tries.columns().items():
        assert np.array_equal(column, again.tries.columns()[name], equal_nan=True)
    assert np.array_equal(both.run_.ttft, again.run_.ttft, equal_nan=True)
    assert not np.array_equal(both.run_.ttft, other.run_.ttft, equal_nan=True)


def test_requests_come_in_bursts_and_the_run_ends_with_a_pause(both: Mixed) -> None:
    within = both.run_.arrived[both.run_.arrived < both.until] % 12.0
    assert within.max() < 4.0
    assert both.until == 24.0


def test_every_try_has_ended_and_every_place_was_given_back(both: Mixed) -> None:
    tries = both.tries.columns()
    assert (tries["sent"] <= tries["ended"]).all()
    assert np.isfinite(tries["ended"]).all()
    running = sum(both.gate.counts().values())  # type: ignore[attr-defined]
    assert running == len(both._filling)


def test_who_is_aborted_is_sent_again_and_never_more_often_than_is_allowed(both: Mixed) -> None:
    tries = both.tries.columns()
    aborted = int((tries["complete"] == 0.0).sum())
    assert aborted > 0
    assert both._sent >= both._made - 1 + aborted - len(both._back)
    assert all(times <= BURSTS.fill.aborts for _, _, times in both._back)


def test_the_backlog_alone_is_worked_off_as_fast_as_by_a_large_fixed_cap() -> None:
    ours = mixed_figures(alone := done(interactive=False), alone.run_)
    cap = mixed_figures(fixed := done(gate=Gate("static", 192.0), interactive=False), fixed.run_)
    assert ours["async"] > 0.8 * cap["async"]


def test_without_a_gate_there_is_no_filler_and_traffic_is_that_of_an_ordinary_run() -> None:
    alone = done(gate=Gate("none"))
    assert not alone.tries.sent
    assert np.isfinite(alone.run_.ttft[:100]).all()


def test_filler_behind_the_gate_hardly_delays_first_tokens_and_much_more_without(both: Mixed) -> None:
    alone = mixed_figures(quiet := done(gate=Gate("none")), quiet.run_)
    ours = mixed_figures(both, both.run_)
    flood = mixed_figures(full := done(gate=Gate("static", 192.0)), full.run_)
    assert ours["ttft_p50"] < alone["ttft_p50"] + 0.02
    assert flood["ttft_p50"] > alone["ttft_p50"] + 0.05
    assert ours["tpot_kept"] > flood["tpot_kept"]


@pytest.mark.parametrize("gate", ["threshold", "threshold_now"])
def test_a_threshold_lets_less_go_when_it_is_lower(gate: str) -> None:
    low, high = (len(done(gate=Gate(gate, x)).tries.sent) for x in (0.1, 0.5))
    assert 0 < low < high


def test_engines_that_know_priorities_are_told_them() -> None:
    urgent = replace(BURSTS, fill=replace(BURSTS.fill, priority=True))
    mixed = Mixed(urgent, RATE, OURS, {}, 1, Gate(), True)
    assert all(station.engine.options.by_priority for station in mixed.stations)
    mixed.run()
    running = [g for station in mixed.stations for g in station.engine.running]
    assert running
    assert all(g.priority == g.tag.request.filler for g in running)


def test_tokens_are_counted_when_they_were_worked_on_and_once(both: Mixed) -> None:
    tries = both.tries.columns()
    whole = (tries["complete"] > 0.0) & np.isfinite(tries["first"])
    every, off = tokens_over(both, 0.0)
    all_of_them = (tries["prompt"] + tries["found"] + tries["output"])[whole].sum()
    assert every.sum() == pytest.approx(all_of_them, rel=0.02)
    assert off.tolist() == [9 <= second < 12 for second in range(24)]
    assert sum(value for _, value in series(both, 2.0)) * 2.0 == pytest.approx(every.sum())


def test_behind_the_gateways_desk_it_is_the_same_twice_and_nobody_of_the_traffic_is_refused() -> None:
    one, again = (MixedDesk(BURSTS, RATE, OURS, {}, 1, HEADWAY) for _ in range(2))
    one.run()
    again.run()
    assert np.array_equal(one.run_.ttft, again.run_.ttft, equal_nan=True)
    assert one.tries.sent == again.tries.sent
    assert one.tries.sent
    assert np.isfinite(one.run_.ttft[one.run_.arrived < one.until - 8.0]).all()
    assert WAITING - 1 <= one._waiting <= WAITING  # one may have been sent since the last iteration ended
    figures, alone = mixed_figures(one, one.run_), mixed_figures(quiet := done(gate=Gate("none")), quiet.run_)
    assert figures["ttft_p50"] < alone["ttft_p50"] + 0.04
