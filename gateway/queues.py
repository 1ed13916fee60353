"""The queues of a running gateway: how its classes wait, from the configuration, and what operators are shown of them.

Left to others: the queues themselves (`policies.admission`), their gauges (`gauges`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from gateway.config.types import TrafficClass
from gateway.gauges import Filled, Queued
from gateway.lane import Lane
from policies.admission.base import ClassRule


class Effect(Protocol):
    """What a filler has done to others, in seconds: see `policies.admission.loop.Interference`."""

    @property
    def ttft_with(self) -> float: ...
    @property
    def ttft_without(self) -> float: ...
    @property
    def tpot_with(self) -> float: ...
    @property
    def tpot_without(self) -> float: ...
    @property
    def correction(self) -> float: ...
    @property
    def use(self) -> float: ...


def rules_of(classes: Mapping[str, TrafficClass]) -> tuple[ClassRule, ...]:
    """How each class waits at a pool; the default class first, which is also that of a name nobody knows."""
    ordered = sorted(classes.values(), key=lambda one: not one.default)
    return tuple(
        ClassRule(one.name, one.priority, one.queue.limit, one.queue.wait, one.queue.order, one.reserve, one.late,
                  one.filler is not None, one.shadow)
        for one in ordered
    )  # fmt: skip


def queues_of(lanes: Iterable[Lane], now: float) -> dict[str, dict[str, Queued]]:
    """By pool and class."""
    return {lane.name: {klass: Queued(*queue) for klass, queue in lane.desk.report(now).items()} for lane in lanes}


def filled(inflight: Iterable[int], aborted: int, effect: Effect) -> Filled:
    """One pool's filler: how many run where, how many gave way, and what they did to others."""
    return Filled(sum(inflight), aborted, effect.ttft_with / (effect.ttft_without or float("nan")),
                  effect.tpot_with / (effect.tpot_without or float("nan")), effect.correction, effect.use)  # fmt: skip
