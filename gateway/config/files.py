"""Files of an operator: read without ever waiting, and looked at for changes.

The idea: ask for the file's state twice a second in a thread. Notifications of the kernel miss what matters here
(symlink swaps of mounted secrets and config maps, network file systems), and two looks a second cost nothing. A change
is believed when two looks in a row agree, so a file that is being written is not read half. Content that is the same
as before is no change.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncGenerator, Callable

EVERY = 0.5
"""Seconds between two looks."""
MOST = 1 << 20
"""Bytes that a file here may have."""

State = tuple[str, int, int, int, int] | None


def read_regular(path: str, most: int) -> bytes:
    """Up to `most` bytes of a regular file. Raises OSError, also for pipes, devices and folders; never waits."""
    # Non-blocking: opening a pipe that nobody writes to would otherwise wait for ever.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(0, "not a regular file")
        return file.read(most)


def _state(path: str) -> State:
    """What tells one version of the file from another; None when it is not there."""
    try:
        real = os.path.realpath(path, strict=True)
        seen = os.stat(real)
    except OSError:
        return None
    return real, seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns


def _look(path: str, most: int) -> bytes | None:
    try:
        return read_regular(path, most)
    except (OSError, ValueError):
        return None


async def changes(
    path: str, most: int = MOST + 1, *, every: float = EVERY, used: Callable[[], bytes | None] | None = None
) -> AsyncGenerator[bytes | None, None]:
    """The file's first `most` bytes now and after each change; None when it cannot be read.

    `most` is one more than what is acceptable, so that who parses it can tell. `used` is what was read last by somebody
    who reads the file at other times too: content is new if it differs from that, not from what was seen here before.
    Ends only by being closed.
    """
    state = await asyncio.to_thread(_state, path)
    known = await asyncio.to_thread(_look, path, most)
    yield known
    pending: State = state
    while True:
        await asyncio.sleep(every)
        now = await asyncio.to_thread(_state, path)
        if now != pending:
            pending = now
        elif pending != state:
            state = pending
            content = await asyncio.to_thread(_look, path, most)
            if content != (used() if used is not None else known):
                known = content
                yield content
