"""Runs an engine in real time: one timer, set for the engine's next event.

The idea: engine time is the monotonic clock less what was lost. A step is taken at the moment the engine says it is
due, not at the moment the timer fired, so timer jitter does not slow the simulated GPU down. A process that falls far
behind (no CPU) would otherwise have to catch up in a burst; instead the engine's time stands still for as long, and
the loss is reported, because a measurement with lost time is not valid.
"""

import asyncio
import math
import time
from collections.abc import Callable

from backends.sim.engine import Engine
from backends.sim.generation import Step

MAX_LAG = 0.25  # seconds to catch up at most
EARLY = 0.0006  # event loops round timers to a millisecond: take what is due within half of one


class Runner:
    """Steps one engine and hands every step to `on_step`."""

    def __init__(self, engine: Engine, on_step: Callable[[Step], None]) -> None:
        self.engine = engine
        self.lost_seconds = 0.0
        self.steps = 0
        self._on_step = on_step
        self._behind = 0.0
        self._frozen_at = math.inf
        self._timer: asyncio.Handle | None = None
        self._stopped = False

    @property
    def frozen(self) -> bool:
        """The engine hangs."""
        return self._frozen_at < math.inf

    def now(self) -> float:
        """Engine time, in seconds."""
        return min(time.monotonic(), self._frozen_at) - self._behind

    def wake(self) -> None:
        """The engine may have something to do; call after every submit."""
        due = self.engine.next_event_at()
        if self._timer is not None or self.frozen or self._stopped or due == math.inf:
            return
        loop = asyncio.get_running_loop()
        delay = due - self.now()
        self._timer = loop.call_later(delay, self._tick) if delay > EARLY else loop.call_soon(self._tick)

    def freeze(self) -> None:
        """Stop the engine's time: a hung device."""
        if not self.frozen:
            self._frozen_at = time.monotonic()
            self._cancel()

    def thaw(self) -> None:
        """Go on as if no time had passed."""
        if self.frozen:
            self._behind += time.monotonic() - self._frozen_at
            self._frozen_at = math.inf
            self.wake()

    def stop(self) -> None:
        """No more steps."""
        self._stopped = True
        self._cancel()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = None
        now = self.now()
        lag = now - self.engine.next_event_at()
        if lag > MAX_LAG:
            self._behind += lag
            self.lost_seconds += lag
            now -= lag
        while (due := self.engine.next_event_at()) <= now + EARLY and not self._stopped:
            self.steps += 1
            self._on_step(self.engine.step(due))
        self.wake()
