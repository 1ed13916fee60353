"""One thread that owns the connection, and commits for many callers at once.

A commit waits for the disk, milliseconds each. So everything that is waiting goes into one transaction, each call in a
savepoint of its own (a call that fails takes back only what it did), and all of them are answered after the commit. The
longer the disk takes, the more calls share its next turn: group commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from gateway.jobs.base import StoreUnavailable
from gateway.jobs.sqlite.schema import connect, lock, orphan, share

P = ParamSpec("P")
T = TypeVar("T")
GROUP = 256  # calls in one transaction


class _Call:
    """One waiting call, and what came of it."""

    __slots__ = ("error", "future", "inside", "result", "run")

    def __init__(self, run: Callable[[sqlite3.Connection], Any], future: asyncio.Future[Any], inside: bool):
        self.run = run
        self.inside = inside
        self.future = future
        self.result: Any = None
        self.error: BaseException | None = None

    def answer(self) -> None:
        if self.future.done():  # its caller was cancelled; what it asked for has happened
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


class Worker:
    """The thread. `call` runs a function on the connection, inside a transaction, and returns after the commit."""

    def __init__(self, path: str):
        self._path = path
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._db: sqlite3.Connection | None = None
        self._lock = -1
        self._file: tuple[int, int] | None = None

    async def call(
        self, function: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Raises what the function raises, and `StoreUnavailable` for all that SQLite raises."""
        result: T = await self._put(lambda db: function(db, *args, **kwargs), inside=True)
        return result

    async def outside(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """The same for what must not run inside a transaction."""
        result: T = await self._put(function, inside=False)
        return result

    def _put(self, run: Callable[[sqlite3.Connection], Any], inside: bool) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        call = _Call(run, loop.create_future(), inside)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, args=(loop,), name="headway-jobs", daemon=True)
            self._thread.start()
        self._calls.put(call)
        return call.future

    async def stop(self) -> None:
        """Finish what is waiting, close the file."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._calls.put(None)
            await asyncio.to_thread(thread.join)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        goes_on = True
        while goes_on:
            group, goes_on = self._next_group()
            if group:
                self._commit(group)
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits for an answer
                    loop.call_soon_threadsafe(_answer, group)
        self._close()

    def _next_group(self) -> tuple[list[_Call], bool]:
        group: list[_Call] = []
        call = self._calls.get()
        while call is not None:
            group.append(call)
            if len(group) == GROUP:
                return group, True
            try:
                call = self._calls.get_nowait()
            except queue.Empty:
                return group, True
        return group, False

    def _commit(self, group: list[_Call]) -> None:
        try:
            db = self._connected()
            if _identity(self._path) != self._file:
                # What is written goes nowhere. Nor is another file the same store: our claims mean others' items there.
                raise sqlite3.OperationalError(f"{self._path} was removed or replaced: a restart is needed")
            db.execute("BEGIN IMMEDIATE")
            for call in group:
                if call.inside:
                    _run_one(db, call)
            db.execute("COMMIT")
        except Exception as error:
            self._take_back()
            for call in group:
                call.error = _unavailable(error)
            return
        for call in group:
            if not call.inside:
                _run_outside(db, call)

    def _take_back(self) -> None:
        if self._db is not None and self._db.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")

    def _connected(self) -> sqlite3.Connection:
        if self._db is None:
            fd, alone = lock(self._path)
            try:
                db = connect(self._path)
                if alone:
                    orphan(db)
                share(fd)
            except BaseException:
                os.close(fd)
                raise
            self._db, self._lock, self._file = db, fd, _identity(self._path)
        return self._db

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            os.close(self._lock)
            self._db = None


def _identity(path: str) -> tuple[int, int] | None:
    """Which file stands at this path; None: there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _run_one(db: sqlite3.Connection, call: _Call) -> None:
    """Run one call in its savepoint. Raises when the whole transaction is lost."""
    db.execute("SAVEPOINT one")
    try:
        call.result = call.run(db)
    except Exception as error:
        call.error = error
        if not db.in_transaction:  # SQLite has taken everything back by itself: the disk is full, or broken
            raise
        db.execute("ROLLBACK TO one")
        if isinstance(error, sqlite3.Error):
            call.error = _unavailable(error)
    db.execute("RELEASE one")


def _run_outside(db: sqlite3.Connection, call: _Call) -> None:
    try:
        call.result = call.run(db)
    except sqlite3.Error as error:
        call.error = _unavailable(error)


def _unavailable(error: Exception) -> StoreUnavailable:
    said = StoreUnavailable(f"job store: {error}")
    said.__cause__ = error
    return said


def _answer(group: list[_Call]) -> None:
    for call in group:
        call.answer()
