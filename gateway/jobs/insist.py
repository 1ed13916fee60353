"""A store that is away: what must be told to it waits and is told again, until it answers.

Many may wait, and a store that comes back is weak: only one of them asks whether it is there, ever less often, and all
others follow when it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import TypeVar

from gateway.jobs.base import StoreUnavailable

PAUSE, LONGEST_PAUSE = 0.2, 2.0  # seconds to leave a store alone that is away

T = TypeVar("T")


class Insistence:
    """`is_away` tells whether the last answer was that there is none, `why` what was last said about it."""

    def __init__(self, random: Random):
        self._random = random
        self._pause = PAUSE
        self._back = asyncio.Event()
        self._is_asking = False
        self.is_away = False
        self.why = ""

    async def on(self, call: Callable[[], Awaitable[T]]) -> T:
        """The call's answer, however long the store is away."""
        asks = False  # for all
        try:
            while True:
                try:
                    answer = await call()
                except StoreUnavailable as error:
                    self.is_away, self.why = True, error.detail
                    self._back.clear()
                else:
                    self.is_away, self._pause = False, PAUSE
                    self._back.set()
                    return answer
                if asks or not self._is_asking:
                    asks = self._is_asking = True
                    await self._rest()
                else:
                    await self._back.wait()
        finally:
            if asks:  # also where it was cancelled: another one asks then
                self._is_asking = False
                self._back.set()

    async def _rest(self) -> None:
        await asyncio.sleep(self._pause * self._random.uniform(0.5, 1.5))
        self._pause = min(LONGEST_PAUSE, self._pause * 2.0)
