"""The engine does what the slow model of its schedule does, step by step, whatever is asked of it."""

import math
from collections.abc import Iterable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.sim.engine import Engine, EngineOptions
from backends.sim.generation import Generation, SimRequest, Step
from backends.sim.profiles import profile
from tests.backends.sim.slow_engine import Event, SlowEngine

H100 = profile("h100_llama-3.1-8b_bf16_tp1")

coming = st.tuples(
    st.just("come"),
    st.integers(1, 60),  # prompt
    st.integers(1, 50),  # output
    st.integers(0, 2),  # prompt family; 0: shares nothing
    st.integers(0, 80),  # tokens for which there are keys
    st.integers(-1, 2),  # priority
)
stepping = st.tuples(st.just("step"), st.integers(1, 25))
going = st.tuples(st.just("go"), st.integers(0, 30))
scripts = st.lists(st.one_of(coming, coming, stepping, stepping, going), min_size=1, max_size=40)
shapes = st.fixed_dictionaries(
    {
        "max_batched_tokens": st.sampled_from([1, 3, 16, 64, 512]),
        "max_seqs": st.integers(1, 10),
        "kv_tokens": st.integers(112, 400),
        "block_size": st.sampled_from([1, 4, 16]),
        "prefix_caching": st.booleans(),
        "noise": st.sampled_from([0.0, 0.2]),
        "by_priority": st.booleans(),
    }
)


def names(generations: Iterable[Generation]) -> list[str]:
    return [g.id for g in generations]


def event(step: Step) -> Event:
    return Event(
        step.at,
        step.tokens,
        names(step.emitted),
        names(step.first),
        names(step.finished),
        names(step.paced),
        names(step.preempted),
        names(step.started),
    )


class Pair:
    """The engine and the slow one, doing the same."""

    def __init__(self, options: EngineOptions) -> None:
        self.engine = Engine(H100, options, Random(1))
        self.slow = SlowEngine(H100, options, Random(1))
        self.now = 0.0
        self.made: list[Generation] = []

    def come(self, prompt: int, output: int, family: int, keyed: int, priority: int = 0) -> None:
        name = str(len(self.made))
        whose = f"family {family}" if family else f"request {name}"
        keys = [(whose, i) for i in range(keyed // self.engine.options.block_size)]
        request = SimRequest(name, prompt, output, keys, priority)
        if prompt + output <= self.engine.capacity_tokens():
            self.made.append(self.engine.submit(request, self.now))
            self.slow.submit(request)

    def go(self, which: int) -> None:
        if which < len(self.made) and self.engine.abort(str(which), self.now):
            self.slow.abort(str(which))

    def step(self, times: int) -> None:
        while times and self.engine.next_event_at() < math.inf:
            times -= 1
            self.now = self.engine.next_event_at()
            assert event(self.engine.step(self.now)) == self.slow.step(self.now)
            assert self.engine.next_event_at() == (self.slow.ends_at or math.inf)
            self.look()

    def look(self) -> None:
        engine, slow = self.engine, self.slow
        state = [(g.id, g.generated, g.position, g.goal, g.decoding) for g in engine.running]
        assert state == [(s.request.id, s.out, s.computed, s.wanted, s.decoding) for s in slow.running]
        assert names(engine.waiting) == [s.request.id for s in slow.waiting]
        assert engine.pool.free == len(slow.unused)
        assert engine.pool.blank == len([block for block in slow.unused if block.content is None])
        assert engine.hit_tokens == slow.hits


@settings(max_examples=200, deadline=None)
@given(scripts, shapes)
def test_every_step_is_that_of_the_slow_model(script: list[tuple[str, int]], shape: dict[str, object]) -> None:
    pair = Pair(EngineOptions(**shape))  # type: ignore[arg-type]
    for what, *numbers in script:
        getattr(pair, what)(*numbers)
    pair.step(100_000)
    assert pair.engine.in_flight == 0


@pytest.mark.parametrize("seed", range(12))
def test_a_long_day_short_of_cache_is_that_of_the_slow_model(seed: int) -> None:
    random = Random(seed)
    options = EngineOptions(
        max_batched_tokens=random.choice([40, 100, 500]),
        max_seqs=random.choice([6, 12]),
        kv_tokens=random.randrange(200, 500),
        block_size=random.choice([1, 4, 16]),
        by_priority=seed % 2 == 1,
    )
    pair = Pair(options)
    for _ in range(60):
        for _ in range(random.randrange(4)):
            keyed = random.choice([0, 20, 80, 200])
            pair.come(random.randint(1, 60), random.randint(1, 130), random.randrange(3), keyed, random.randrange(3))
        if random.random() < 0.1:
            pair.go(random.randrange(len(pair.made) + 1))
        pair.step(random.randrange(50))
    pair.step(100_000)
    assert pair.engine.preemptions > 10
    assert pair.engine.hit_tokens > 100
