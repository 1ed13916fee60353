"""A store that is away: what must be told to it waits and is told again, until it answers."""

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
        self.is_away = False
        self.why = ""

    async def on(self, call: Callable[[], Awaitable[T]]) -> T:
        """The call's answer, however long the store is away."""
        pause = PAUSE
        while True:
            try:
                answer = await call()
            except StoreUnavailable as error:
                self.is_away, self.why = True, error.detail
                await asyncio.sleep(pause * self._random.uniform(0.5, 1.5))
                pause = min(LONGEST_PAUSE, pause * 2.0)
            else:
                self.is_away = False
                return answer
