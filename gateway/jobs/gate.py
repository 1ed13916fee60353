"""Who is told "not now" waits at a gate, and others go on: one gate per model of a class, and one per tenant there.

The idea is a circuit breaker that opens by degrees: after a refusal nobody passes for a while (longer with each one
that follows); then one may try; while tries succeed, twice as many may be under way; a refusal closes it again. So a
tenant at its limit costs one refusal per pass and not one per piece of work, a fleet that is away is asked once in a
while, and neither keeps anybody else from going. Those that wait here go round: one that is always refused does not
stand before others. Tries that fail close it too, once that many have failed in a row: then it is the model that is
broken and not the work, and the work must not use up its tries on it.

Times are the event loop's. Left to others: what counts as a refusal (`execute`), how long the waits are (`retry`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from math import inf, nan

WIDE = 64.0  # under way at once: from here on it is open
IN_A_ROW = 8  # failures that are more than bad luck


class Gate:
    """`pause(misses, asked, is_own)` gives the seconds that it stays closed after so many refusals in a row."""

    def __init__(self, pause: Callable[[int, float, bool], float]):
        self._pause = pause
        self._width = inf
        self._until = 0.0
        self._misses = 0
        self._failures = 0  # in a row
        self._trying = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        """Nobody has to wait here."""
        return self._width == inf

    @property
    def is_unused(self) -> bool:
        """It may be forgotten: it is as a new one would be."""
        return self.is_open and not self._trying and not self._misses and not self._failures

    @property
    def has_enough(self) -> bool:
        """More need not come: nobody may try now, or those that wait for it are here."""
        return not self.is_open and (self.closed_for() > 0.0 or bool(self._waiting))

    def closed_for(self) -> float:
        """Seconds until somebody may try."""
        return max(0.0, self._until - asyncio.get_running_loop().time())

    async def enter(self) -> None:
        """Wait for leave to try. One of `passed` and `left` must follow."""
        if self.is_open:
            self._trying += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._let_in()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was let in just as it went away
                self.left()
            raise

    def passed(self) -> None:
        """One that tried was let through."""
        if not self.closed_for():  # else it had entered before the gate was closed: it tells nothing new
            self._width = self._width * 2.0 if self._width * 2.0 < WIDE else inf
        self.left()

    def close(self, asked: float = nan, is_own: bool = True) -> None:
        """One that tried was told "not now"; `asked`: come back in so many seconds, NaN: nothing was said.

        `is_own`: it was this gateway that said so, which costs next to nothing.
        """
        if not self.closed_for():  # else it was sent before the gate was closed: it tells nothing new
            self._misses += 1
            self._until = asyncio.get_running_loop().time() + self._pause(self._misses, asked, is_own)
            self._width = 1.0

    def worked(self) -> None:
        """One that passed has come to a good end: whatever there was is over."""
        self._misses = self._failures = 0

    def failed(self) -> None:
        """One that passed has failed."""
        self._failures += 1
        if self._failures >= IN_A_ROW:
            self.close(is_own=False)

    def left(self) -> None:
        """One that tried went away for another reason."""
        self._trying -= 1
        self._let_in()

    def hint(self) -> None:
        """Something ended that may have made room: somebody may try now."""
        if not self.is_open:
            self._until = 0.0
            self._let_in()

    def _let_in(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        loop = asyncio.get_running_loop()
        if self._until > loop.time():
            if self._waiting:
                self._alarm = loop.call_at(self._until, self._let_in)
            return
        while self._waiting and self._trying < self._width:
            turn = self._waiting.popleft()
            if not turn.done():
                self._trying += 1
                turn.set_result(None)
