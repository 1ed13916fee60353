"""The scheduler: its invariants on any workload, and the behaviour each rule is there for."""

import math
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.sim.engine import Engine, EngineOptions
from backends.sim.generation import DoesNotFit, Generation, Phase, QueueFull, SimRequest, Step
from backends.sim.profiles import profile

H100 = profile("h100_llama-3.1-8b_bf16_tp1")


def engine(seed: int = 0, **options: object) -> Engine:
    return Engine(H100, EngineOptions(**options), Random(seed))  # type: ignore[arg-type]


def run(one: Engine, look: Callable[[Step], None] = lambda step: None) -> list[Step]:
    """Step until nothing is left."""
    steps: list[Step] = []
    while one.next_event_at() < math.inf:
        steps.append(one.step(one.next_event_at()))
        look(steps[-1])
    return steps


def keys(name: str, count: int) -> list[tuple[str, int]]:
    return [(name, i) for i in range(count)]


workloads = st.lists(
    st.tuples(
        st.floats(0, 2),  # arrival
        st.integers(1, 200),  # prompt
        st.integers(1, 60),  # output
        st.integers(0, 3),  # prompt family
        st.one_of(st.none(), st.floats(0, 3)),  # the client leaves at
    ),
    min_size=1,
    max_size=40,
)
shapes = st.fixed_dictionaries(
    {
        "max_batched_tokens": st.integers(1, 64),
        "max_seqs": st.integers(1, 12),
        "kv_tokens": st.integers(17 * 16, 40 * 16),
        "prefix_caching": st.booleans(),
        "noise": st.sampled_from([0.0, 0.2]),
        "stall_rate": st.sampled_from([0.0, 5.0]),
        "stall_seconds": st.just(0.05),
    }
)


def play(one: Engine, workload: list[tuple[float, int, int, int, float | None]], check: bool) -> list[object]:
    """Drive a workload to its end; returns what happened, in order."""
    moments: list[tuple[float, int, str]] = []
    for i, (arrival, _, _, _, leaves) in enumerate(workload):
        moments.append((arrival, i, "come"))
        if leaves is not None:
            moments.append((arrival + leaves, i, "go"))
    moments.sort()
    made: dict[int, Generation] = {}
    ends: dict[int, str] = {}
    tokens: dict[int, int] = {}
    story: list[object] = []
    while moments or one.next_event_at() < math.inf:
        if moments and moments[0][0] <= one.next_event_at():
            at, i, what = moments.pop(0)
            if what == "come":
                _, prompt, output, family, _ = workload[i]
                made[i] = one.submit(SimRequest(str(i), prompt, output, keys(f"f{family}", prompt // 16)), at, i)
            elif one.abort(str(i), at):
                assert i not in ends
                ends[i] = "aborted"
                story.append((at, i, "aborted"))
            continue
        step = one.step(one.next_event_at())
        story.append((step.at, [g.tag for g in step.emitted], [g.tag for g in step.preempted]))
        for g in step.emitted:
            tokens[g.tag] = tokens.get(g.tag, 0) + 1
            assert g.generated == tokens[g.tag] <= g.output_tokens
        for g in step.finished:
            assert g.tag not in ends
            ends[g.tag] = "finished"
            assert tokens[g.tag] == g.output_tokens
        if check:
            assert step.tokens <= one.options.max_batched_tokens
            assert len(one.running) <= one.options.max_seqs
            assert 0 <= one.pool.free <= one.pool.capacity
            assert all(g.room == 16 * (len(g.names) + g.blank) for g in one.running)
            distinct = {name for g in one.running for name in g.names}
            assert one.pool.capacity - one.pool.free == len(distinct) + sum(g.blank for g in one.running)
            assert all(g.position <= g.room for g in one.running)
    assert set(ends) == set(range(len(workload)))
    assert one.in_flight == 0
    assert one.pool.free == one.pool.capacity
    return story


@settings(max_examples=150, deadline=None)
@given(workloads, shapes)
def test_whatever_comes_budget_slots_and_cache_hold_and_every_request_ends_once(
    workload: list[tuple[float, int, int, int, float | None]], shape: dict[str, object]
) -> None:
    play(engine(**shape), workload, check=True)


@settings(max_examples=25, deadline=None)
@given(workloads, shapes, st.integers(0, 3))
def test_the_same_seed_gives_the_same_story(
    workload: list[tuple[float, int, int, int, float | None]], shape: dict[str, object], seed: int
) -> None:
    assert play(engine(seed, **shape), workload, False) == play(engine(seed, **shape), workload, False)


def test_a_lone_request_takes_one_prefill_and_a_decode_per_further_token() -> None:
    one = engine()
    g = one.submit(SimRequest("a", 100, 3), 5.0)
    steps = run(one)
    prefill = H100.seconds(100, 100 * 50, 0, 1, 0, 0)
    decodes = [H100.seconds(1, 0.0, 0, 0, 1, context) for context in (101, 102)]
    assert g.first_token_at == pytest.approx(5.0 + prefill)
    assert steps[-1].at == pytest.approx(5.0 + prefill + sum(decodes))
    assert [step.tokens for step in steps] == [0, 100, 1, 1]


def test_a_call_before_its_time_changes_nothing() -> None:
    one = engine()
    one.submit(SimRequest("a", 100, 3), 5.0)
    assert not one.step(4.0).started
    one.step(5.0)
    due = one.next_event_at()
    assert not one.step(due - 1e-6).emitted
    assert one.next_event_at() == due


def test_a_late_caller_does_not_slow_the_engine_down() -> None:
    prompt, late = [], []
    for times, wait in ((prompt, 0.0), (late, 0.5)):
        one = engine()
        one.submit(SimRequest("a", 100, 50), 0.0)
        while one.next_event_at() < math.inf:
            times.append(one.step(one.next_event_at() + wait).at)
    assert late == prompt


def test_a_long_prompt_is_taken_in_chunks_beside_the_decodes() -> None:
    one = engine(max_batched_tokens=64)
    one.submit(SimRequest("short", 10, 30), 0.0)
    one.step(0.0)
    one.submit(SimRequest("long", 200, 2), 0.001)
    seen: list[tuple[int, int]] = []
    run(one, lambda step: seen.append((step.tokens, len(step.emitted))))
    # 54 of the long prompt fit beside nothing at first, then 63 at a time beside the other's decode
    assert seen[1:5] == [(64, 1), (64, 1), (64, 1), (12, 2)]


def test_what_runs_goes_before_what_waits_and_slots_limit_both() -> None:
    one = engine(max_seqs=2)
    order: list[str] = []
    for name in "abcd":
        one.submit(SimRequest(name, 10, 5), 0.0)
    run(one, lambda step: order.extend(g.id for g in step.started))
    assert order == ["a", "b", "c", "d"]


def test_a_second_prompt_with_the_same_beginning_computes_only_the_rest() -> None:
    one = engine()
    one.submit(SimRequest("a", 160, 5, keys("p", 10)), 0.0)
    run(one)
    g = one.submit(SimRequest("b", 200, 5, [*keys("p", 8), ("q", 8), ("q", 9)]), 10.0)
    steps = run(one)
    assert g.cached_tokens == 128
    assert steps[1].tokens == 72
    assert one.hit_tokens == 128


def test_the_last_token_of_a_fully_cached_prompt_is_computed_again() -> None:
    one = engine()
    one.submit(SimRequest("a", 160, 5, keys("p", 10)), 0.0)
    run(one)
    g = one.submit(SimRequest("b", 160, 5, keys("p", 10)), 10.0)
    run(one)
    assert g.cached_tokens == 144


def test_two_prompts_in_one_iteration_share_their_beginning() -> None:
    one = engine()
    one.submit(SimRequest("a", 160, 5, keys("p", 10)), 0.0)
    g = one.submit(SimRequest("b", 160, 5, keys("p", 10)), 0.0)
    run(one)
    assert g.cached_tokens == 144


def test_an_answer_sent_back_as_history_is_cached_too() -> None:
    one = engine()
    one.submit(SimRequest("a", 32, 33, keys("p", 4)), 0.0)
    run(one)
    g = one.submit(SimRequest("b", 100, 1, keys("p", 6)), 10.0)
    run(one)
    assert g.cached_tokens == 64


def test_without_prefix_caching_nothing_is_found_and_nothing_kept() -> None:
    one = engine(prefix_caching=False)
    for name in "ab":
        g = one.submit(SimRequest(name, 160, 5, keys("p", 10)), 0.0)
        run(one)
        assert g.cached_tokens == 0
    assert one.pool.cached == 0


def test_when_blocks_run_out_the_latest_starts_again_and_still_ends() -> None:
    one = engine(kv_tokens=10 * 16, prefix_caching=False)
    first = one.submit(SimRequest("a", 64, 60), 0.0)
    second = one.submit(SimRequest("b", 64, 60), 0.0)
    preempted: list[str] = []
    run(one, lambda step: preempted.extend(g.id for g in step.preempted))
    assert preempted == ["b"]
    assert (first.preemptions, second.preemptions, one.preemptions) == (0, 1, 1)
    assert first.generated == second.generated == 60


def test_by_priority_the_lower_number_goes_first_and_equals_in_the_order_of_arrival() -> None:
    one = engine(max_seqs=1, by_priority=True)
    order: list[str] = []
    for name, priority in (("running", 9), ("late", 5), ("urgent", -1), ("later", 5)):
        one.submit(SimRequest(name, 32, 3, priority=priority), 0.0)
        if name == "running":
            one.step(0.0)
    run(one, lambda step: order.extend(g.id for g in step.finished))
    assert order == ["running", "urgent", "late", "later"]


def test_by_priority_it_is_the_least_urgent_that_gives_its_blocks_back_however_old_it_is() -> None:
    one = engine(kv_tokens=10 * 16, prefix_caching=False, by_priority=True)
    filler = one.submit(SimRequest("filler", 64, 60, priority=1), 0.0)
    urgent = one.submit(SimRequest("urgent", 64, 60), 0.0)
    run(one)
    assert (filler.preemptions, urgent.preemptions) == (1, 0)
    assert filler.generated == urgent.generated == 60


def test_without_it_priorities_say_nothing() -> None:
    one = engine(kv_tokens=10 * 16, prefix_caching=False)
    filler = one.submit(SimRequest("filler", 64, 60, priority=1), 0.0)
    urgent = one.submit(SimRequest("urgent", 64, 60), 0.0)
    run(one)
    assert (filler.preemptions, urgent.preemptions) == (0, 1)


def test_a_preempted_request_finds_its_own_blocks_again_if_they_are_still_there() -> None:
    one = engine(kv_tokens=20 * 16)
    one.submit(SimRequest("a", 100, 100), 0.0)
    g = one.submit(SimRequest("b", 100, 100), 0.0)
    run(one)
    assert g.preemptions
    assert one.hit_tokens > 0


def test_leaving_frees_everything_at_once_wherever_the_request_is() -> None:
    one = engine(max_seqs=1)
    running = one.submit(SimRequest("running", 100, 50), 0.0)
    waiting = one.submit(SimRequest("waiting", 100, 50), 0.0)
    for _ in range(3):
        one.step(one.next_event_at())
    assert (running.phase, waiting.phase) == (Phase.RUNNING, Phase.WAITING)
    assert one.abort("waiting", 0.1)
    assert one.abort("running", 0.1)
    assert not one.abort("running", 0.1)
    assert one.pool.usage == 0.0
    assert one.in_flight == 0
    assert all(not step.emitted for step in run(one))


def test_a_full_queue_refuses_as_vllm_counts_it_running_ones_included() -> None:
    one = engine(max_queued=2)
    for name in "ab":
        one.submit(SimRequest(name, 10, 5), 0.0)
    one.step(0.0)
    with pytest.raises(QueueFull):
        one.submit(SimRequest("c", 10, 5), 0.0)
    run(one)
    one.submit(SimRequest("c", 10, 5), 1.0)


@pytest.mark.parametrize(("prompt", "output"), [(0, 1), (1, 0), (300, 21)])
def test_what_can_never_fit_is_refused(prompt: int, output: int) -> None:
    with pytest.raises(DoesNotFit):
        engine(kv_tokens=320).submit(SimRequest("a", prompt, output), 0.0)


def test_the_same_id_twice_is_an_error_of_the_caller() -> None:
    one = engine()
    one.submit(SimRequest("a", 10, 5), 0.0)
    with pytest.raises(ValueError, match="already"):
        one.submit(SimRequest("a", 10, 5), 0.0)


def test_pace_stretches_the_iterations_that_follow() -> None:
    one = engine()
    one.submit(SimRequest("a", 10, 3), 0.0)
    steps = [one.step(one.next_event_at()) for _ in range(2)]
    one.pace = 3.0
    steps += run(one)
    assert steps[-1].seconds == pytest.approx(3.0 * H100.seconds(1, 0.0, 0, 0, 1, 12))


def test_noise_has_mean_one_and_stalls_come_at_their_rate() -> None:
    one = engine(noise=0.03)
    one.submit(SimRequest("a", 1, 4000), 0.0)
    quiet = engine()
    quiet.submit(SimRequest("a", 1, 4000), 0.0)
    assert run(one)[-1].at == pytest.approx(run(quiet)[-1].at, rel=0.005)
    stalling = engine(stall_rate=1.0, stall_seconds=0.1)
    stalling.submit(SimRequest("a", 1, 4000), 0.0)
    extra = run(stalling)[-1].at / run_alone(4000) - 1.0
    assert extra == pytest.approx(0.1, abs=0.05)


def run_alone(output: int) -> float:
    one = engine()
    one.submit(SimRequest("a", 1, output), 0.0)
    return run(one)[-1].at
