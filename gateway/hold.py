"""Requests whose policy would rather choose later, waiting at the gateway instead of in an engine's queue.

The idea: what a choice is best made from comes with the next first token or the next place given back, so the request
is asked again then, the most urgent first, and for the last time when its time is over. Nobody has a task here: a story
waits for its `Turn`, one timer stands for all of them, and all that changes in one round of the loop is one change.

Left to others: who is asked when (`core/holding`), whether to wait and how long (the policy), choosing again (`proxy`).
"""

from __future__ import annotations

import asyncio
import math
import time

from gateway.core.holding import Holding
from gateway.core.types import Request
from gateway.story import Turn

_EVER = 1e300  # later than any time that is over
_LEAST = 0.001  # seconds: what the loop's timers can tell apart


class Hold:
    """One per pool."""

    def __init__(self) -> None:
        self._holding: Holding[Turn] = Holding()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._look_is_due = False
        self._ask_all = False

    def __len__(self) -> int:
        return len(self._holding)

    async def wait(self, request: Request, until: float) -> None:
        """Until it is worth choosing again, `until` (monotonic seconds) at the latest."""
        turn = Turn()
        ticket = self._holding.push(turn, request, until)
        self._set_timer()
        try:
            await turn
        finally:
            self._holding.cancel(ticket)

    def changed(self) -> None:
        """A first token came, or a place was given back: the most urgent may have a better choice now."""
        if len(self._holding):
            self._holding.wake()
            self._look_soon()

    def ask_all(self) -> None:
        """Another policy or other endpoints: what they wait for may be no more."""
        if len(self._holding):
            self._ask_all = True
            self._look_soon()

    def close(self) -> None:
        """Ask nobody any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_soon(self) -> None:
        if not self._look_is_due:
            self._look_is_due = True
            # Not at once: an engine's iteration brings many tokens, and the caller is in the middle of something.
            asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        asks_all, self._ask_all, self._look_is_due = self._ask_all, False, False
        for held in self._holding.due(_EVER if asks_all else time.monotonic()):
            held.item.take()
        self._set_timer()

    def _set_timer(self) -> None:
        at = self._holding.next_at
        if at >= self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        delay = max(_LEAST, at - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(delay, self._time_is_over)

    def _time_is_over(self) -> None:
        self._timer, self._timer_at = None, math.inf
        self._look()
