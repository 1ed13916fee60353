"""A model server's engine as a pure step function of time: vLLM's V1 scheduler over a table of iteration times.

The idea: an engine does nothing but iterations. At each boundary the schedule gives every running sequence its next
token (or the next chunk of its prompt), then lets waiting ones in, until the token budget, the sequence slots or the
KV blocks are used up; the profile says how long that takes; at the end every sequence whose prompt is done has one
more token. If blocks run out, the latest sequence gives all of its own back and starts again (recompute).
Continuous batching: Orca (OSDI'22); chunked prefill: Sarathi-Serve (OSDI'24); blocks: PagedAttention (SOSP'23).

There is no clock, no I/O and no randomness but the generator handed in, so the same code answers HTTP in real time
and replays an hour in seconds. Text, HTTP and metrics are left to others.
"""

import math
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from random import Random
from typing import Any

from backends.sim.generation import DoesNotFit, Generation, Phase, QueueFull, SimRequest, Step
from backends.sim.kv import BlockPool
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
        self._decodes: list[Generation] = []
        self._chunks: list[tuple[Generation, int]] = []

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
        self.waiting.append(generation)
        if self._ends_at == math.inf and self._wakes_at == math.inf:
            self._wakes_at = now
        return generation

    def abort(self, request_id: str, now: float) -> bool:
        """Drop a request and free its blocks at once; False if it is not here (any more)."""
        generation = self._by_id.pop(request_id, None)
        if generation is None:
            return False
        if generation.phase is Phase.RUNNING:
            self._release(generation)
            self.running.remove(generation)
        else:
            self.waiting.remove(generation)
        generation.phase = Phase.ABORTED
        return True

    def next_event_at(self) -> float:
        """When `step` should be called next; infinity while there is nothing to do."""
        return min(self._ends_at, self._wakes_at)

    def step(self, now: float) -> Step:
        """End the iteration that is due and start the next one. A call before its time changes nothing.

        The next iteration starts at the moment the last one was due, not at `now`, so a late caller does not slow the
        engine down; call again while `next_event_at() <= now`.
        """
        due = self.next_event_at()
        step = Step(min(now, due), 0.0, 0, 0, 0, [], [], [], [], [])
        if due > now:
            return step
        if self._ends_at <= due:
            step.seconds, step.tokens = self._seconds, self._tokens
            self._end_iteration(step)
            step.running, step.waiting = len(self.running), len(self.waiting)
        self._ends_at = self._wakes_at = math.inf
        self._start_iteration(step)
        return step

    # -- the end of an iteration

    def _end_iteration(self, step: Step) -> None:
        at, emitted, finished = step.at, step.emitted, step.finished
        for g in self._decodes:
            if g.phase is not Phase.RUNNING:
                continue
            g.position += 1
            g.generated += 1
            emitted.append(g)
            if g.generated >= g.output_tokens:
                finished.append(g)
            else:
                g.goal += 1
        for g, count in self._chunks:
            if g.phase is not Phase.RUNNING:
                continue
            g.position += count
            if g.position < g.goal:
                continue
            g.decoding = True
            g.generated += 1
            g.goal += 1
            if g.generated == 1:
                g.first_token_at = at
                step.first.append(g)
            emitted.append(g)
            if g.generated >= g.output_tokens:
                finished.append(g)
        for g in finished:
            g.phase = Phase.FINISHED
            self._offer(g, g.position)
            self._release(g)
            del self._by_id[g.id]
        if finished:
            self.running = [g for g in self.running if g.phase is Phase.RUNNING]

    # -- the schedule of the next one

    def _start_iteration(self, step: Step) -> None:
        self._decodes, self._chunks = [], []
        budget, context = self._schedule_running(step)
        if not step.preempted:
            budget = self._admit_waiting(step, budget)
        self._tokens = self.options.max_batched_tokens - budget
        if not self._tokens:
            return
        pairs, prefix = 0.0, 0
        for g, count in self._chunks:
            pairs += count * (g.position + count / 2)
            prefix += g.position
        seconds = self.profile.seconds(self._tokens, pairs, prefix, len(self._chunks), len(self._decodes), context)
        self._seconds = self._disturbed(seconds * self.pace)
        self._ends_at = step.at + self._seconds

    def _disturbed(self, seconds: float) -> float:
        options = self.options
        if options.noise:
            seconds *= self._random.lognormvariate(-(options.noise**2) / 2, options.noise)
        if options.stall_rate and self._random.random() < options.stall_rate * seconds:
            seconds += self._random.expovariate(1.0 / options.stall_seconds)
        return seconds

    def _schedule_running(self, step: Step) -> tuple[int, int]:
        budget, context = self.options.max_batched_tokens, 0
        running, decodes = self.running, self._decodes
        i = 0
        while i < len(running) and budget > 0:
            g = running[i]
            count = 1 if g.decoding else min(budget, g.goal - g.position)
            end = g.position + count
            if end > g.room and not self._make_room(g, end, step):
                break  # it was the latest itself, so nothing comes after it
            budget -= count
            if g.decoding:
                context += end
                decodes.append(g)
            else:
                self._chunks.append((g, count))
            i += 1
        return budget, context

    def _admit_waiting(self, step: Step, budget: int) -> int:
        waiting, running, options = self.waiting, self.running, self.options
        while waiting and budget > 0 and len(running) < options.max_seqs:
            g = waiting[0]
            hits, hits_free = self._cached_blocks(g)
            # The whole prompt must fit, not only its first chunk: otherwise two long prompts could
            # each take half of the cache and preempt each other for ever.
            if self._blocks(g.goal) - hits > self.pool.free - hits_free:
                break
            waiting.popleft()
            self._take_cached(g, hits, step)
            count = min(budget, g.goal - g.position)
            self._grow(g, g.position + count)
            budget -= count
            self._chunks.append((g, count))
            g.phase = Phase.RUNNING
            running.append(g)
        return budget

    def _cached_blocks(self, g: Generation) -> tuple[int, int]:
        if not self.options.prefix_caching:
            return 0, 0
        limit = (g.goal - 1) // self.options.block_size  # the last token must be computed to get the next one
        if limit > len(g.keys) and g.preemptions:  # only then can there be blocks of its own
            return self.pool.match([self._key(g, i) for i in range(limit)], limit)
        return self.pool.match(g.keys, limit)

    def _take_cached(self, g: Generation, hits: int, step: Step) -> None:
        g.names = [self._key(g, i) for i in range(hits)]
        self.pool.hold(g.names)
        g.named = hits
        g.position = hits * self.options.block_size
        g.room = g.position
        self.queried_tokens += g.goal
        self.hit_tokens += g.position
        if g.started_at < 0:
            g.started_at = step.at
            g.cached_tokens = g.position
            step.started.append(g)

    # -- blocks

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self.options.block_size)

    def _key(self, g: Generation, block: int) -> Hashable:
        """The key of a block; what no key was given for is this generation's alone."""
        return g.keys[block] if block < len(g.keys) else (g.serial, block)

    def _make_room(self, g: Generation, tokens: int, step: Step) -> bool:
        """Room for `tokens` of a running `g`, at the cost of the latest ones; False if `g` itself had to go."""
        need = self._blocks(tokens - g.room)
        while self.pool.free < need:
            victim = self.running.pop()
            self._preempt(victim, step)
            if victim is g:
                return False
        self._grow(g, tokens)
        return True

    def _grow(self, g: Generation, tokens: int) -> None:
        need = self._blocks(tokens - g.room)
        if need > 0:
            self.pool.take(need)
            g.blank += need
            g.room += need * self.options.block_size
        # A chunk's full blocks can be found as soon as it is scheduled, a decode's when the next block is begun.
        self._offer(g, g.position if g.decoding else tokens)

    def _offer(self, g: Generation, tokens: int) -> None:
        if not self.options.prefix_caching:
            return
        full = tokens // self.options.block_size
        while g.named < full:
            key = self._key(g, g.named)
            if self.pool.name(key):
                g.names.append(key)
                g.blank -= 1
            g.named += 1

    def _preempt(self, g: Generation, step: Step) -> None:
        self._release(g)
        g.phase = Phase.WAITING
        g.decoding = False
        g.position = 0
        g.preemptions += 1
        self.preemptions += 1
        step.preempted.append(g)
        self.waiting.appendleft(g)

    def _release(self, g: Generation) -> None:
        self.pool.release(g.names, g.blank)
        g.names, g.blank, g.room, g.named = [], 0, 0, 0
