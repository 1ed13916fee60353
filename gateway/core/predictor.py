"""(being written)"""
from __future__ import annotations
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING
from gateway.core.types import Floats, Forecast, Outcome, Request
if TYPE_CHECKING:
    from gateway.core.reservation import Reservation
    from gateway.core.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Prior:
    """What is believed of an engine before its first answer: seconds per unit, see `Predictor`."""

    base: float = 0.0110
    decode: float = 2.0e-5
    context: float = 7.0e-8
    slope1: float = 1.5e-5
    slope2: float = 2.0e-5
    slope3: float = 1.0e-5
    pair: float = 2.0e-9
    overhead: float = 0.010
    chunk: float = 0.0  # tokens per iteration; 0: to be found out
    kv_tokens: float = 0.0
    sure: bool = False  # a named profile: its shape is believed more than a neutral one's


class Predictor:
    def __init__(self, random: Random, prior: Prior | None = None): ...
    def dispatched(self, reservation: Reservation, request: Request, now: float) -> None: ...
    def started(self, reservation: Reservation, now: float) -> None: ...
    def progressed(self, reservation: Reservation, written: float, now: float) -> None: ...
    def ended(self, reservation: Reservation, now: float, outcome: Outcome | None) -> None: ...
    def forget(self, row: int) -> None: ...
    def beat(self, row: int, now: float) -> None: ...
