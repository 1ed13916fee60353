"""The engines of a scenario, what they last published of themselves, and whose streams run on them.

One `Station` per engine. It counts the streams that are decoding there per router, because a gateway that relays any
stream of an engine sees each of its iterations end. With several tokens to an event a stream shows only every m-th
iteration: streams are then counted by the iteration of their first token modulo m, so that telling which routers see
this iteration costs the same however many streams there are.
"""

from __future__ import annotations

import math
from random import Random

from backends.sim.engine import Engine, EngineOptions
from backends.sim.generation import Generation, Step
from gateway.core.types import Endpoint, Load
from loadtest.lab.arrivals import warped
from loadtest.lab.router import UNSEEN, Flight
from loadtest.lab.scenario import Group, Scenario
from loadtest.workload import Item


class Station:
    """An engine, its published figures and its streams."""

    __slots__ = ("engine", "group", "number", "running", "steps", "streams", "suspended", "usage", "waiting", "_left",
                 "_period")  # fmt: skip

    def __init__(self, number: int, group: Group, seed: int, routers: int, tokens_per_event: int,
                 by_priority: bool = False):  # fmt: skip
        options = EngineOptions(
            max_batched_tokens=group.chunk, max_seqs=group.max_seqs, kv_tokens=group.kv_tokens,
            block_size=group.block_size, prefix_caching=group.prefix_caching, max_queued=group.max_queued,
            noise=group.noise, stall_rate=group.stall_rate, stall_seconds=group.stall_seconds,
            by_priority=by_priority,
        )  # fmt: skip
        self.number = number
        self.group = group
        self.engine = Engine(warped(group), options, Random(f"{seed} engine {number}"), group.pace[0][1])
        self.waiting = self.running = 0
        self.usage = 0.0
        self.steps = 0
        self.streams = [[0] * tokens_per_event for _ in range(routers)]
        self._period = tokens_per_event
        self._left = 0
        self.suspended: list[tuple[Generation, int]] = []

    def endpoint(self) -> Endpoint:
        """How a gateway knows it."""
        limit = self.group.max_concurrency or None
        return Endpoint(f"engine-{self.number}", f"http://engine-{self.number}", "lab", "vllm", max_concurrency=limit)

    def load(self, now: float) -> Load:
        """What its metrics page says; like vLLM's it is that of the last iteration that ended."""
        return Load(now, float(self.waiting), float(self.running), self.usage, float(self.engine.capacity_tokens()))

    def publish(self, step: Step) -> None:
        """A step was done. Whoever came since the iteration was scheduled that ended with it is on no page yet."""
        queued, self._left = self._left, len(self.engine.waiting)
        if not step.tokens:
            return
        self.steps += 1
        self.running, self.waiting = step.running, min(queued, step.waiting)
        self.usage = self.engine.pool.usage

    # -- streams

    def began(self, flight: Flight) -> None:
        """A stream's first token has come."""
        flight.residue = self.steps % self._period
        self.streams[flight.router.number][flight.residue] += 1

    def seen_by(self) -> list[int]:
        """The routers that see the iteration which has just ended, because a stream of theirs shows it."""
        place = self.steps % self._period
        return [number for number, streams in enumerate(self.streams) if streams[place]]

    def ceased(self, flight: Flight) -> None:
        """A stream has ended or is interrupted."""
        self.streams[flight.router.number][flight.residue] -= 1
        flight.residue = UNSEEN

    def drop(self, generation: Generation) -> None:
        """It is aborted: nothing more comes of it."""
        flight: Flight = generation.tag
        if flight.residue != UNSEEN:
            self.ceased(flight)
        self.suspended = [one for one in self.suspended if one[0] is not generation]

    def interrupted(self, generation: Generation) -> None:
        """It was preempted: if it was streaming, nothing comes of it until it has caught up."""
        flight: Flight = generation.tag
        if flight.residue != UNSEEN:
            self.ceased(flight)
            self.suspended.append((generation, generation.generated))

    def resume(self) -> None:
        """Streams that were preempted and go on again are counted again. Call it once per iteration."""
        still = []
        for generation, then in self.suspended:
            if generation.generated == then:
                still.append((generation, then))
                continue
            flight: Flight = generation.tag
            flight.residue = (self.steps - generation.generated + 1) % self._period
            self.streams[flight.router.number][flight.residue] += 1
        self.suspended = still


def build(scenario: Scenario, seed: int) -> list[Station]:
    """The engines, group after group."""
    groups = [group for group in scenario.groups for _ in range(group.count)]
    routers, period = scenario.routers.count, scenario.traffic.tokens_per_event
    by_priority = scenario.fill.priority
    return [Station(number, group, seed, routers, period, by_priority) for number, group in enumerate(groups)]


def keys(item: Item, block_size: int) -> tuple[object, ...]:
    """The keys of a prompt's full blocks, for an engine with blocks of this many tokens.

    An id stands for its block and all before it, so a larger block is known by the last of those it is made of, and a
    smaller one by the one it lies in and its place there.
    """
    full = item.prompt_tokens // block_size
    if not item.blocks or not full:
        return ()
    if item.block_size == block_size:
        return item.blocks[:full]
    if block_size % item.block_size == 0:
        each = block_size // item.block_size
        return item.blocks[each - 1 :: each][:full]
    each = math.gcd(item.block_size, block_size)
    if each != block_size:
        raise ValueError(f"blocks of {item.block_size} tokens cannot be told in blocks of {block_size}")
    parts = item.block_size // block_size
    return tuple((item.blocks[block // parts], block % parts) for block in range(min(full, len(item.blocks) * parts)))
