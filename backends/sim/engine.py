"""A model server's engine as a pure step function of time: vLLM's V1 scheduler over a table of iteration times.

The idea: an engine does nothing but iterations. At each boundary the schedule gives every running sequence its next
token (or the next chunk of its prompt), then lets waiting ones in, until the token budget, the sequence slots or the
KV blocks are used up; the profile says how long that takes; at the end every sequence whose prompt is done has one
more token. If blocks run out, the latest sequence gives all of its own back and starts again (recompute).
With scheduling by priority the queue is in the order of (priority, arrival), and the last in that order gives way.
Continuous batching: Orca (OSDI'22); chunked prefill: Sarathi-Serve (OSDI'24); blocks: PagedAttention (SOSP'23).

Whoever decodes does so in lockstep, so an iteration costs the work of those to whom something happens in it, not of
all who run. What runs is always first the decodes, then the prompts under way, and only the last of those can be left
unfinished by an iteration: the budget ends with it, and nobody is let in behind it.

There is no clock, no I/O and no randomness but the generator handed in, so the same code answers HTTP in real time
and replays an hour in seconds. Text, HTTP and metrics are left to others.
"""

import math
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass
from random import Random
from typing import Any

from backends.sim.blocks import Blocks
from backends.sim.generation import DoesNotFit, Generation, Phase, QueueFull, SimRequest, Step
from backends.sim.kv import BlockPool
from backends.sim.lockstep import PACE, Lockstep
from backends.sim.profiles import Profile


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How the engine was started. Tokens and counts; `stall_rate` in stalls per busy second, `noise` relative."""

    max_batched_tokens: int = 8192  # token budget of an iteration
    max_seqs: int = 256
    kv_tokens: int = 0  # 0: the profile's
    block_size: int = 16
    prefix_caching: bool = True
    max_queued: int = 0  # requests in the engine, running ones included, as vLLM counts them; 0: no limit
    noise: float = 0.0  # sigma of a log-normal factor with mean 1 on every iteration
    stall_rate: float = 0.0
    stall_seconds: float = 0.0  # mean of an exponential
    by_priority: bool = False  # vLLM's `--scheduling-policy priority`: the lower number first


class Engine:
    """One engine. Call `step(next_event_at())` again and again; submit and abort in between.

    `pace` multiplies every iteration's time (2 is half as fast) and may be changed at any moment; it counts from the
    next iteration on.
    """

    def __init__(self, profile: Profile, options: EngineOptions, random: Random, pace: float = 1.0) -> None:
        self.profile = profile
        self.options = options
        self.pace = pace
        self.pool = BlockPool((options.kv_tokens or profile.kv_tokens) // options.block_size)
        self.waiting: deque[Generation] = deque()
        self.running: list[Generation] = []
        self.queried_tokens = 0  # prompt tokens looked up in the prefix cache
        self.hit_tokens = 0
        self.preemptions = 0
        self._random = random
        self._by_id: dict[str, Generation] = {}
        self._ends_at = math.inf  # of the iteration under way
        self._wakes_at = math.inf  # when an idle engine was given work
        self._serial = 0
        self._seconds = 0.0
        self._tokens = 0
        self._blocks = Blocks(self.pool, options.block_size, options.prefix_caching)
        self._decodes = Lockstep(options.block_size)
        self._chunks: list[tuple[Generation, int]] = []
        self._emitting: tuple[Generation, ...] | None = None  # all that decode, if nothing changed since last time

    @property
    def in_flight(self) -> int:
        """Requests running or waiting."""
        return len(self._by_id)

    def capacity_tokens(self) -> int:
        """Tokens the KV cache holds."""
        return self.pool.capacity * self.options.block_size

    def submit(self, request: SimRequest, now: float, tag: Any = None) -> Generation:
        """Queue a request. Raises QueueFull or DoesNotFit; `request.id` must not be in the engine."""
        if self.options.max_queued and len(self._by_id) >= self.options.max_queued:
            raise QueueFull
        if request.prompt_tokens < 1 or request.output_tokens < 1:
            raise DoesNotFit("prompt and output need at least one token each")
        if request.prompt_tokens + request.output_tokens > self.capacity_tokens():
            raise DoesNotFit(f"needs more than the KV cache's {self.capacity_tokens()} tokens")
        if request.id in self._by_id:
            raise ValueError(f"request {request.id!r} is in the engine already")
        self._serial += 1
        generation = Generation(request, self._serial, now, tag)
        self._by_id[request.id] = generation
        self._queue(generation)
        if self._ends_at == math.inf and self._wakes_at == math.inf:
            self._wakes_at = now
        return generation

    def _queue(self, g: Generation) -> None:
        """At the end of the queue, or where its priority and its arrival put it."""
        place = bisect_left(self.waiting, g.rank, key=_rank) if self.options.by_priority else len(self.waiting)
        self.waiting.insert(place, g)

    def abort(self, request_id: str, now: float) -> bool:
        """Drop a request and free its blocks at once; False if it is not here (any more)."""
        generation = self._by_id.pop(request_id, None)
        if generation is None:
            return False
        if generation.phase is Phase.RUNNING:
            self._leave(generation)
            self._blocks.release(generation)
        else:
            self.waiting.remove(generation)
        generation.phase = Phase.ABORTED
        return True

    def find(self, request_id: str) -> Generation | None:
        """A generation that runs or waits here; None if it does not."""
        return self._by_id.get(request_id)

    def next_event_at(self) -> float:
        """When `step` should be called next; infinity while there is nothing to do."""
        return self._ends_at if self._ends_at < self._wakes_at else self._wakes_at

    def step(self, now: float) -> Step:
        """End the iteration that is due and start the next one. A call before its time changes nothing.

        The next iteration starts at the moment the last one was due, not at `now`, so a late caller does not slow the
        engine down; call again while `next_event_at() <= now`.
        """
        due = self.next_event_at()
        if due > now:
            return Step(now, 0.0, 0, 0, 0, (), [], [], [], [], [])
        step = Step(due, 0.0, 0, 0, 0, (), [], [], [], [], [])
        if self._ends_at <= due:
            step.seconds, step.tokens = self._seconds, self._tokens
            self._end_iteration(step)
            step.running, step.waiting = len(self.running), len(self.waiting)
        self._ends_at = self._wakes_at = math.inf
        self._start_iteration(step)
        return step

    # -- the end of an iteration

    def _end_iteration(self, step: Step) -> None:
        decodes = self._decodes
        decodes.iteration += 1
        step.paced = decodes.paced()
        step.finished = decodes.ending()
        if self._chunks:
            self._end_chunks(step)
        step.emitted = self._emitted()
        for g in step.finished:
            self._leave(g)
            g.phase = Phase.FINISHED
            self._blocks.offer(g, g.position)
            self._blocks.release(g)
            del self._by_id[g.id]

    def _end_chunks(self, step: Step) -> None:
        for g, count in self._chunks:
            if g.phase is not Phase.RUNNING:
                continue
            g.computed += count
            if g.computed < g.goal:
                continue
            generated = g.emit()
            self._decodes.join(g)
            self._emitting = None
            if generated == 1:
                g.first_token_at = step.at
                step.first.append(g)
            elif (generated - 1) % PACE == 0:
                step.paced.append(g)
            if generated >= g.output_tokens:
                step.finished.append(g)

    def _emitted(self) -> tuple[Generation, ...]:
        """All that decode, in the order in which they run: they are in front."""
        if self._emitting is None:
            self._emitting = tuple(self.running[: self._decodes.count])
        return self._emitting

    def _leave(self, g: Generation) -> None:
        self.running.remove(g)
        if g.decoding:
            self._decodes.leave(g)
            self._emitting = None

    # -- the schedule of the next one

    def _start_iteration(self, step: Step) -> None:
        self._chunks = []
        self._schedule_decodes(step)
        decodes = self._decodes.count
        budget = self.options.max_batched_tokens - decodes
        if len(self.running) > decodes:
            budget = self._schedule_prompt(step, budget) + decodes - self._decodes.count
            decodes = self._decodes.count  # by priority, decodes may have given way to the prompt
        if self.waiting and not step.preempted:
            budget = self._admit_waiting(step, budget)
        self._tokens = self.options.max_batched_tokens - budget
        if not self._tokens:
            return
        pairs, prefix = 0.0, 0
        for g, count in self._chunks:
            pairs += count * (g.computed + count / 2)
            prefix += g.computed
        context = self._decodes.context + decodes  # the new tokens read themselves too
        seconds = self.profile.seconds(self._tokens, pairs, prefix, len(self._chunks), decodes, context)
        self._seconds = self._disturbed(seconds * self.pace)
        self._ends_at = step.at + self._seconds

    def _disturbed(self, seconds: float) -> float:
        options = self.options
        if options.noise:
            seconds *= self._random.lognormvariate(-(options.noise**2) / 2, options.noise)
        if options.stall_rate and self._random.random() < options.stall_rate * seconds:
            seconds += self._random.expovariate(1.0 / options.stall_seconds)
        return seconds

    def _schedule_decodes(self, step: Step) -> None:
        """Room for one token more of every decode."""
        full = self._decodes.full()
        if len(full) <= self.pool.free:
            self._blocks.grow_decodes(full)
            return
        for g in tuple(full):
            if g.decoding and self._make_place(g, 1, step):
                self._blocks.grow_decodes([g])

    def _schedule_prompt(self, step: Step, budget: int) -> int:
        """The next chunk of the prompt that the last iteration left unfinished; returns what is left of `budget`."""
        g = self.running[-1]
        count = min(budget, g.goal - g.computed)
        end = g.computed + count
        if end > g.room:
            if not self._make_place(g, self._blocks.count(end - g.room), step):
                return budget
            self._blocks.grow(g, end)
        self._chunks.append((g, count))
        return budget - count

    def _admit_waiting(self, step: Step, budget: int) -> int:
        waiting, running, blocks, limit = self.waiting, self.running, self._blocks, self.options.max_seqs
        while waiting and budget > 0 and len(running) < limit:
            g = waiting[0]
            goal = g.goal
            hits, hits_free = blocks.find(g)
            # The whole prompt must fit, not only its first chunk: otherwise two long prompts could
            # each take half of the cache and preempt each other for ever.
            if blocks.count(goal) - hits > self.pool.free - hits_free:
                break
            waiting.popleft()
            blocks.adopt(g, hits)
            self._count_start(g, goal, step)
            count = min(budget, goal - g.computed)
            blocks.grow(g, g.computed + count)
            budget -= count
            self._chunks.append((g, count))
            g.phase = Phase.RUNNING
            running.append(g)
        return budget

    def _count_start(self, g: Generation, queried: int, step: Step) -> None:
        self.queried_tokens += queried
        self.hit_tokens += g.computed
        if g.started_at < 0:
            g.started_at = step.at
            g.cached_tokens = g.computed
            step.started.append(g)

    def _make_place(self, g: Generation, need: int, step: Step) -> bool:
        """Free `need` blocks for a running `g`, at the cost of the last ones; False if `g` itself had to go."""
        while self.pool.free < need:
            victim = max(self.running, key=_rank) if self.options.by_priority else self.running[-1]
            self._leave(victim)
            self._blocks.lend(victim)
            victim.phase = Phase.WAITING
            victim.computed = 0
            self.preemptions += 1
            step.preempted.append(victim)
            if self.options.by_priority:
                self._queue(victim)
            else:
                self.waiting.appendleft(victim)
            if victim is g:
                return False
        return True


def _rank(g: Generation) -> tuple[int, int]:
    return g.rank
