"""Tells when the configuration file has changed.

The idea: its content is compared, so a symlink swap counts and a mere `touch` does not. What a change means is found
out elsewhere: the file is read again when it is loaded, and a bad one is refused there.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from gateway.config.files import EVERY, changes


async def watch(path: str, every: float = EVERY, known: bytes | None = None) -> AsyncGenerator[None, None]:
    """One event after each change of the content, also when the file goes away. Ends only by being closed.

    `known` is what was read before: if the file is different already, that is the first event. Without it, a change
    between that reading and the first look is missed.
    """
    contents = changes(path, every=every)
    if await anext(contents) != known and known is not None:
        yield None
    async for _ in contents:
        yield None
