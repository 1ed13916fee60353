import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backends.sim.profiles import profile
from gateway.core.reservation import Reservation
from gateway.core.types import UNKNOWN
from loadtest.lab.arrivals import prefill_seconds
from loadtest.lab.record import Run
from loadtest.lab.router import Router
from loadtest.lab.scenario import Group, Routers, Scenario, Scrape, Slo, Source, Traffic
from loadtest.lab.simulation import Simulation, prompt_bytes, simulate
from loadtest.workload import Item

PROFILE = "h100_llama-3.1-8b_bf16_tp1"
CHAT = Scenario("chat", groups=(Group(count=4),), requests=600, warm_up=0.0, cool_down=0.0)
QUIET = replace(CHAT, groups=(Group(count=1, noise=0.0),), traffic=Traffic(overhead_noise=0.0))
FIRST, PATIENT = "tests.loadtest.lab.waiting:First", "tests.loadtest.lab.waiting:Patient"
ARRAYS = ("ttft", "tpot", "e2e", "held", "engine", "cached", "predicted", "picks")


def same(one: Run, other: Run) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True) for name in ARRAYS)


def finished(scenario: Scenario, rate: float, policy: str, seed: int = 1) -> Simulation:
    simulation = Simulation(scenario, rate, policy, {}, seed, 0.0)
    assert simulation.run().complete
    return simulation


@pytest.mark.parametrize("policy", ["least_inflight", "prefix_affinity", "predicted_latency"])
def test_a_seed_gives_the_same_run_twice_and_another_one_another(policy: str) -> None:
    first, again, other = (simulate(CHAT, 70.0, policy, {}, seed) for seed in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)


def test_the_key_of_the_process_hashes_makes_no_difference() -> None:
    code = (
        "from tests.loadtest.lab.test_simulation import CHAT, ARRAYS, Source, Traffic, replace, simulate\n"
        "import hashlib\n"
        "known = Source(trace='mooncake_conversation_head')\n"
        "run = simulate(replace(CHAT, traffic=Traffic((known,), 'trace'), requests=150), 5.0, 'prefix_affinity')\n"
        "print(hashlib.sha256(b''.join(getattr(run, name).tobytes() for name in ARRAYS)).hexdigest())"
    )
    root = Path(__file__).resolve().parents[3]
    said = {
        subprocess.run(
            [sys.executable, "-c", code], cwd=root, env={**os.environ, "PYTHONHASHSEED": key}, check=True,
            capture_output=True, text=True,
        ).stdout
        for key in ("1", "2")
    }  # fmt: skip
    assert len(said) == 1


def test_policies_are_asked_the_same_requests() -> None:
    one, other = simulate(CHAT, 50.0, "round_robin", {}, 3), simulate(CHAT, 50.0, "least_inflight", {}, 3)
    for name in ("arrived", "prompt", "output", "router", "ttft_slo"):
        assert np.array_equal(getattr(one, name), getattr(other, name))


def test_alone_on_an_engine_a_request_takes_its_overhead_its_prefill_and_its_decode() -> None:
    traffic = Traffic((Source(prompt=(3000.0, 0.0), output=(100.0, 0.0)),), overhead_noise=0.0, cv=0.0)
    run = simulate(replace(QUIET, traffic=traffic, requests=20), 0.2, "round_robin")
    used = profile(PROFILE)
    alone = prefill_seconds(used, 2048, np.array([3000]))[0]
    decodes = sum(used.seconds(1, 0.0, 0, 0, 1, 3000 + n) for n in range(1, 100))
    assert run.ttft == pytest.approx(np.full(20, 0.015 + alone))
    assert run.e2e - run.ttft == pytest.approx(np.full(20, decodes))
    assert run.tpot == pytest.approx(np.full(20, decodes / 99))
    assert run.met.all()
    assert run.attainment == 1.0


def test_every_place_taken_is_given_back() -> None:
    scenario = replace(CHAT, routers=Routers(count=2), traffic=Traffic(streams=0.5), requests=400)
    simulation = finished(scenario, 60.0, "predicted_latency")
    run = simulation.run_
    assert not np.isnan(run.e2e).any()
    assert (run.ttft <= run.e2e).all()
    assert (run.engine >= 0).all()
    for router in simulation.routers:
        for column in (router.fleet.ours, router.fleet.prefill, router.fleet.output, router.fleet.decoding):
            assert not column.any()
    assert not any(any(map(any, station.streams)) for station in simulation.stations)


def test_a_router_is_told_what_other_routers_have_there_and_nothing_without_scrapes() -> None:
    seen = finished(replace(CHAT, routers=Routers(2, Scrape(every=0.1))), 60.0, "least_inflight")
    blind = finished(replace(CHAT, routers=Routers(2, Scrape(every=0.0))), 60.0, "least_inflight")
    lost = finished(replace(CHAT, routers=Routers(2, Scrape(every=0.1, missing=1.0))), 60.0, "least_inflight")
    assert np.isfinite(seen.routers[0].fleet.others[:4]).all()
    for simulation in (blind, lost):
        assert np.isnan(simulation.routers[0].fleet.others[:4]).all()
        assert not same(simulation.run_, seen.run_)


def test_a_plain_answer_is_heard_when_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[bool, float, float]] = []
    settle = Router.ended

    def note(self: Router, flight: object, now: float, ttft: float, *rest: object) -> None:
        settle(self, flight, now, ttft, *rest)  # type: ignore[arg-type]
        heard.append((flight.request.stream, flight.reservation.started, now))  # type: ignore[attr-defined]

    monkeypatch.setattr(Router, "ended", note)
    firsts: list[bool] = []
    monkeypatch.setattr(Router, "first_token", lambda self, flight, now: firsts.append(flight.request.stream))
    simulate(replace(CHAT, traffic=Traffic(streams=0.3), requests=100), 20.0, "round_robin")
    assert all(firsts)
    assert 10 < len(firsts) < 60
    assert len(heard) == 100


@pytest.mark.parametrize("period", [1, 4])
def test_a_router_hears_the_iterations_in_which_a_stream_of_its_own_shows_a_token(
    monkeypatch: pytest.MonkeyPatch, period: int
) -> None:
    """Against a count over every token of every stream, on engines that preempt."""
    heard: set[tuple[int, int, float]] = set()
    monkeypatch.setattr(Router, "beat", lambda self, row, now: heard.add((self.number, row, now)))
    expected: set[tuple[int, int, float]] = set()
    groups = (Group(count=2, kv_tokens=12_000, noise=0.0),)
    traffic = Traffic((Source(prompt=(900.0, 0.5), output=(300.0, 0.5)),), streams=0.3, tokens_per_event=period)
    scenario = replace(CHAT, groups=groups, traffic=traffic, routers=Routers(3), requests=150)
    simulation = Simulation(scenario, 15.0, "round_robin", {}, 5, 0.0)
    relay = simulation._relay

    def count(station: object, step: object) -> None:
        for g in step.emitted:  # type: ignore[attr-defined]
            if g.tag.request.stream and (g.generated - 1) % period == 0:
                expected.add((g.tag.router.number, station.number, step.at))  # type: ignore[attr-defined]
        relay(station, step)  # type: ignore[arg-type]

    monkeypatch.setattr(simulation, "_relay", count)
    run = simulation.run()
    assert run.preemptions > 0
    assert heard == expected


def test_progress_comes_every_sixteen_events(monkeypatch: pytest.MonkeyPatch) -> None:
    written: dict[Reservation, list[float]] = {}

    def note(self: Reservation, tokens: float, now: float) -> None:
        written.setdefault(self, []).append(tokens)

    monkeypatch.setattr(Reservation, "progress", note)
    simulate(replace(QUIET, requests=30), 2.0, "round_robin")
    assert all(tokens == list(np.arange(len(tokens)) * 16 + 17) for tokens in written.values())
    assert len(written) > 20


def test_an_engine_may_become_slow_and_recover() -> None:
    slow = Group(count=1, pace=((0.0, 1.0), (20.0, 3.0), (40.0, 1.0)), noise=0.0)
    run = simulate(replace(CHAT, groups=(slow,), requests=120), 2.0, "round_robin")
    before, during, after = (
        float(np.median(run.tpot[(run.arrived > low) & (run.arrived < low + 15.0)])) for low in (2.0, 22.0, 44.0)
    )
    assert during / before == pytest.approx(3.0, rel=0.3)
    assert after / before == pytest.approx(1.0, rel=0.2)


def test_who_may_be_held_waits_for_room_and_waiting_counts() -> None:
    scenario = replace(CHAT, groups=(Group(count=1),), requests=60)
    held = simulate(scenario, 6.0, PATIENT, {"wait": 0.2}, 1)
    at_once = simulate(replace(scenario, routers=Routers(may_hold=False)), 6.0, PATIENT, {"wait": 0.2}, 1)
    assert not at_once.held.any()
    assert (at_once.picks == 1).all()
    assert held.held.max() == pytest.approx(0.2, abs=1e-6)
    assert (held.held > 0.0).any()
    assert held.picks.max() > 1
    assert (held.ttft >= held.held + 0.9 * 0.5 * 0.015).all()
    assert not np.isnan(held.e2e).any()


def test_what_can_never_fit_is_refused_and_not_met() -> None:
    group = Group(count=2, kv_tokens=4_000)
    run = simulate(replace(CHAT, groups=(group,), requests=200), 2.0, "least_inflight")
    too_long = run.prompt + run.output > 4_000
    assert too_long.any()
    assert np.array_equal(np.isnan(run.e2e), too_long)
    assert not run.met[too_long].any()
    assert run.complete


def test_a_full_fleet_refuses() -> None:
    run = simulate(replace(CHAT, groups=(Group(count=2, max_concurrency=2),), requests=200), 40.0, "least_inflight")
    refused = run.engine < 0
    assert refused.any()
    assert not run.met[refused].any()
    assert np.isnan(run.dispatched[refused]).all()


def test_an_engine_that_is_full_says_so_and_others_are_preferred() -> None:
    run = simulate(replace(CHAT, groups=(Group(count=2, max_queued=3),), requests=200), 40.0, FIRST)
    assert (run.engine == 1).any()
    assert run.complete


def test_a_run_is_given_up_when_it_can_no_longer_reach_its_goal() -> None:
    whole = simulate(CHAT, 300.0, "round_robin", {}, 1)
    stopped = simulate(CHAT, 300.0, "round_robin", {}, 1, stop_below=0.95)
    assert whole.attainment < 0.95
    assert not stopped.complete
    assert stopped.seconds < whole.seconds
    assert simulate(CHAT, 20.0, "round_robin", {}, 1, stop_below=0.95).complete


def test_the_first_and_the_last_requests_are_not_measured() -> None:
    run = simulate(replace(CHAT, warm_up=0.2, cool_down=0.1), 40.0, "round_robin")
    assert run.measured[120:540].all()
    assert run.measured.sum() == 420
    assert not np.isnan(run.e2e[run.measured]).any()


def test_who_is_told_no_promise_knows_of_none(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    place = Router.place
    monkeypatch.setattr(Router, "place", lambda self, f, now: (seen.append(f.request.ttft_slo), place(self, f, now))[1])
    simulate(replace(CHAT, requests=10, slo=Slo(0.5, told=False)), 10.0, "round_robin")
    assert all(slo is UNKNOWN or slo != slo for slo in seen)
    seen.clear()
    simulate(replace(CHAT, requests=10, slo=Slo(0.5)), 10.0, "round_robin")
    assert seen == [0.5] * 10


def test_prompts_share_what_their_blocks_share_and_nothing_else() -> None:
    one = prompt_bytes(Item(0.0, 40, 1, block_size=16, blocks=(1, 2, 3)), 7)
    other = prompt_bytes(Item(0.0, 45, 1, block_size=16, blocks=(1, 2, 4)), 8)
    bare, again = prompt_bytes(Item(0.0, 40, 1), 7), prompt_bytes(Item(0.0, 40, 1), 8)
    assert (len(one), len(other)) == (160, 180)
    assert one[:128] == other[:128]
    assert one[128:136] != other[128:136]
    assert bare[:8] != again[:8]
