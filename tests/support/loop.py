"""Runs a test on the event loop the gateway runs on, bounded in time.

`@on_uvloop` makes a plain test function of a coroutine function: it gets a fresh uvloop, and a test that hangs fails
after a while instead of stopping the run.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import uvloop

PATIENCE = 20.0  # seconds; far more than any test takes, so that it never decides one


def on_uvloop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """The test as a plain function, with its own loop."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(PATIENCE):
                await test(*args, **kwargs)

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(bounded())

    # pytest reads the signature through __wrapped__; without it, it would also see a coroutine function there.
    run.__signature__ = inspect.signature(test)  # type: ignore[attr-defined]
    del run.__wrapped__
    return run


async def until(condition: Callable[[], object], what: str = "the condition") -> None:
    """Wait for something that other tasks bring about. Fails with its name when it does not come."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"{what} did not come")


async def soon(awaitable: Awaitable[Any], seconds: float = 5.0) -> Any:
    """The result, or a failure if it takes long."""
    return await asyncio.wait_for(awaitable, seconds)
