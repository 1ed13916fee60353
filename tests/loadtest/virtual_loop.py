"""An asyncio event loop whose clock jumps to the next timer, so that nothing waits and every moment is exact."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _NoWait(selectors.SelectSelector):
    """Never waits; tells the loop how long it would have."""

    def __init__(self) -> None:
        super().__init__()
        self.skipped = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("nothing left to happen")
        self.skipped += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` starts at 0; `block(seconds)` is what a busy callback does to it."""

    def __init__(self) -> None:
        self._no_wait = _NoWait()
        super().__init__(self._no_wait)

    def time(self) -> float:
        return self._no_wait.skipped

    def block(self, seconds: float) -> None:
        self._no_wait.skipped += seconds


def run(loop: VirtualLoop, coroutine: Coroutine[Any, Any, T]) -> T:
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.close()
