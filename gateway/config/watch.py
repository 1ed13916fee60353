"""Tells when the configuration file has changed.

The idea: its content is compared, so a symlink swap counts and a mere `touch` does not. What a change means is found
out elsewhere: the file is read again when it is loaded, and a bad one is refused there.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from gateway.config.files import EVERY, changes


async def watch(path: str, every: float = EVERY) -> AsyncGenerator[None, None]:
    """One event after each change of the content, also when the file goes away. Ends only by being closed."""
    async for _ in changes(path, every=every, first=False):
        yield None
