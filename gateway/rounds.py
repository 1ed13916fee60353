"""Waits of many loops that end together, on the strokes of one clock.

The idea: waking up costs more than one small request (some 0.1 ms of CPU on an idle virtual machine, against 0.04 ms
for a GET on a warm connection), so loops that each do a little now and then are woken a few at a time, and their
answers are read together too. A few and not all: what runs at one stroke delays the requests of clients.

Left to others: how long to wait (`pace`).
"""

from __future__ import annotations

import asyncio
import math

LONGEST = 0.05
# Loops woken by one stroke, on the average.
TOGETHER = 4.0


class Rounds:
    """`await rounds.wait(seconds)` instead of `asyncio.sleep(seconds)`. One event loop's."""

    def __init__(self) -> None:
        self.step = LONGEST
        self._strokes: dict[float, list[asyncio.Future[None]]] = {}

    def set_step(self, rate: float, shortest: float) -> None:
        """For so many waits a second, none of them shorter than `shortest` seconds."""
        self.step = min(LONGEST, TOGETHER / max(rate, 1e-9), shortest / 20.0)

    def wait(self, seconds: float) -> asyncio.Future[None]:
        """Done at the stroke that is nearest to that moment, never at one that has passed."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        due = max(math.floor((now + seconds) / self.step + 0.5), math.floor(now / self.step) + 1) * self.step
        waiting = self._strokes.get(due)
        if waiting is None:
            waiting = self._strokes[due] = []
            loop.call_at(due, self._strike, due)
        future: asyncio.Future[None] = loop.create_future()
        waiting.append(future)
        return future

    def _strike(self, due: float) -> None:
        for future in self._strokes.pop(due):
            if not future.done():
                future.set_result(None)
