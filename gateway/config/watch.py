"""Tells when the configuration file has changed.

The idea: its content is compared, so a symlink swap counts and a mere `touch` does not. It is compared with what was
read last for use, whoever asked for that: a file that was changed, reloaded by hand and changed back within a second
is what it was when it was looked at before, and not what is in use. What a change means is found out elsewhere: the
file is read again when it is loaded, and a bad one is refused there.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

from gateway.config.files import EVERY, changes


async def watch(
    path: str, every: float = EVERY, used: Callable[[], bytes | None] | None = None
) -> AsyncGenerator[None, None]:
    """One event after each change of the content, also when the file goes away. Ends only by being closed.

    `used` gives the content that was read last for use (None: it could not be read); where it differs already, that is
    the first event. Without it, a change between that reading and the first look is missed.
    """
    contents = changes(path, every=every, used=used)
    if await anext(contents) != (used() if used is not None else None) and used is not None:
        yield None
    async for _ in contents:
        yield None
