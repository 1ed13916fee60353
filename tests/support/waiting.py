"""Requests that wait, and rules of classes, for tests of admission."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field

from gateway.core.errors import HeadwayError
from gateway.core.reservation import Reservation
from gateway.core.snapshot import Snapshot
from gateway.core.types import Decision, Forecast, Request
from policies.admission.base import Waiting


def ask(name: str = "r", tenant: str = "a", arrived: float = 0.0, prompt: float = 100.0, output: float = 50.0,
        **more) -> Request:  # fmt: skip
    return Request(name, "m", arrived, prompt_tokens=prompt, output_tokens=output, stream=True, tenant=tenant, **more)


def waits(name: str = "r", tenant: str = "a", since: float = 0.0, until: float = math.inf, **more) -> Waiting:
    return Waiting(name, ask(name, tenant, since, **more), since, until)


def foresee(ttft: float = 0.1, tpot: float = 0.01, high: float = 1.0) -> Forecast:
    """A forecast whose upper ends are `high` times what is expected."""
    forecast = Forecast()
    forecast.ttft, forecast.tpot = forecast.ttft_base, forecast.tpot_base = ttft, tpot
    forecast.ttft_high, forecast.tpot_high = ttft * high, tpot * high
    return forecast


class Track:
    """As many samples as a predictor needs to be trusted."""

    samples = 10_000


class Learnt:
    tpot = Track()


class Oracle:
    """A predictor that knows how an idle endpoint answers."""

    calibrated = True
    learnt = Learnt()

    def __init__(self, ttft: float = 0.05, tpot: float = 0.01):
        self._ttft, self._tpot = ttft, tpot

    def idle_ttft(self, prompt: float) -> float:
        return self._ttft

    def idle_tpot(self) -> float:
        return self._tpot

    def __getattr__(self, name: str):
        return lambda *_, **__: None  # what a fleet tells it


@dataclass(eq=False)
class Caller:
    """Who asks at a desk."""

    name: str = "guest"
    avoid: Collection[str] = ()
    aborted: int = 0
    place: Reservation | None = None
    error: HeadwayError | None = None
    log: list[str] = field(default_factory=list)
    calls: int = 0

    def chosen(self, decision: Decision, snapshot: Snapshot) -> None:
        self.log.append(f"{self.name} chosen")

    def called(self, reservation: Reservation | None, error: HeadwayError | None) -> None:
        self.calls += 1
        self.place, self.error = reservation, error
        self.log.append(self.name if error is None else f"{self.name}: {error.code}")
