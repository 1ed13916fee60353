"""Waiting for a turn at the gateway when every endpoint of a pool is at its concurrency limit.

First come, first served; a request that cannot have its turn in time is refused, with a reason. Orders by deadline
and fairness, classes and limits per tenant belong to the admission policies, which are not in this version.
"""

from __future__ import annotations

import asyncio
from collections import deque

from gateway.core.errors import Refused

QUEUE_LIMIT = 2000


class Turnstile:
    """One per pool. `wait_for_room` returns when a place may be free; `release` lets the next one look."""

    def __init__(self, limit: int = QUEUE_LIMIT):
        self._limit = limit
        self._waiting: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    async def wait_for_room(self, timeout: float, again: bool = False) -> None:
        """Raises Refused: `queue_full` at once when too many wait, `queue_timeout` when the turn did not come.

        `again` is for one whose turn came when the place had just been taken: it is still the first.
        """
        if len(self._waiting) >= self._limit and not again:
            raise Refused("the queue for this model is full", reason="queue_full", retry_after=1.0)
        turn = asyncio.get_running_loop().create_future()
        if again:
            self._waiting.appendleft(turn)
        else:
            self._waiting.append(turn)
        try:
            # Not wait_for: before Python 3.12 it swallows a cancellation that comes as the turn does.
            async with asyncio.timeout(timeout):
                await turn
        except TimeoutError:
            if turn.cancelled():  # otherwise its turn came just in time
                raise Refused("no model server had room in time", reason="queue_timeout", retry_after=2.0) from None
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release()  # its turn came just as it left: the next one has it
            raise
        finally:
            if turn in self._waiting:
                self._waiting.remove(turn)

    def release(self) -> None:
        """A place has become free: wake the first one that still waits."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
