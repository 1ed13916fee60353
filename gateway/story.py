"""Runs the coroutine of one request from the callbacks that move it, without a task of its own.

A request's story is one coroutine, because that is how it reads best. A task would let the event loop run it: a handle,
a hop through the loop and a context copy for the start and for every wake-up, about a tenth of what a request costs
here. But everything a story waits for ends in a callback of ours, so the callback can just go on with the story. It
starts in the callback that brought the request's last byte and goes on in the one that brought the answer's.

A story may wait for a `Turn` or for any asyncio future; what needs a task (time-outs, connecting) is given one and
waited for as a future.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any


class Turn:
    """Something a story waits for that happens once. `take` continues the story at once, inside the caller."""

    __slots__ = ("_story", "_taken")

    def __init__(self) -> None:
        self._story: Story | None = None
        self._taken = False

    def take(self) -> None:
        """It has happened. Later calls do nothing."""
        if not self._taken:
            self._taken = True
            story, self._story = self._story, None  # nothing is left behind that points back
            if story is not None:
                story.step(None)

    def __await__(self) -> Generator[Turn, None, None]:
        if not self._taken:
            yield self

    def is_awaited_by(self, story: Story) -> None:
        self._story = story


class Story:
    """Drives one coroutine. `cancel` throws CancelledError into it; an exception that escapes goes to `on_bug`."""

    __slots__ = ("_coroutine", "_waiting", "_is_running", "_on_bug")

    def __init__(self, coroutine: Coroutine[Any, Any, None], on_bug: Callable[[BaseException], None]):
        self._coroutine: Coroutine[Any, Any, None] | None = coroutine
        self._waiting: Turn | asyncio.Future[Any] | None = None
        self._is_running = False
        self._on_bug = on_bug

    @property
    def is_over(self) -> bool:
        return self._coroutine is None

    def step(self, error: BaseException | None) -> None:
        """Go on until the next wait or the end."""
        coroutine = self._coroutine
        if coroutine is None or self._is_running:  # running: it is on its way to what has just happened
            return
        self._waiting = None
        self._is_running = True
        try:
            waiting = coroutine.send(None) if error is None else coroutine.throw(error)
        except StopIteration:
            self._coroutine = None
        except asyncio.CancelledError:
            self._coroutine = None
        except BaseException as bug:
            self._coroutine = None
            self._on_bug(bug)
        else:
            self._wait_for(waiting)
        finally:
            self._is_running = False

    def _wait_for(self, waiting: Turn | asyncio.Future[Any]) -> None:
        self._waiting = waiting
        if isinstance(waiting, Turn):
            waiting.is_awaited_by(self)
        else:
            waiting._asyncio_future_blocking = False  # what a task does with a future it was handed
            waiting.add_done_callback(self._wake)

    def _wake(self, future: asyncio.Future[Any]) -> None:
        if future is self._waiting:
            self.step(None)

    def cancel(self) -> None:
        """Nobody wants the rest."""
        if self._coroutine is None or self._is_running:
            return
        waiting = self._waiting
        if isinstance(waiting, asyncio.Future):
            waiting.cancel()
        self.step(asyncio.CancelledError())


async def in_a_task(coroutine: Coroutine[Any, Any, None]) -> None:
    """Tell a story inside a task, which waits for its end. What it raises is raised here; a cancel is passed on."""
    end: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def told() -> None:
        try:
            await coroutine
        except asyncio.CancelledError:
            end.cancel()
        except BaseException as error:
            if not end.done():  # else nobody waits for it any more
                end.set_exception(error)
        else:
            if not end.done():
                end.set_result(None)

    story = Story(told(), lambda bug: None)
    story.step(None)
    try:
        await end
    finally:
        story.cancel()
