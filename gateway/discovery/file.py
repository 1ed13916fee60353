"""Endpoints out of a file of their own, which another program may write: read again whenever it changes.

The idea: a file that is missing or wrong keeps the last good set. How changes are noticed (`contents`) and how the text
is read (`parse`) are given, because the configuration's room, which has a file to follow too, already does both.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable

from gateway.core.types import Endpoint
from gateway.discovery.base import Discovery, Listed, Report


class File(Discovery):
    """The endpoints that `parse(content)` finds in the file at `path`. `parse` raises ValueError for a bad file.

    `contents` gives the file's content now and after each change, None when it cannot be read.
    """

    def __init__(
        self,
        pool: str,
        engine: str,
        report: Report,
        *,
        path: str,
        contents: Callable[[str], AsyncIterator[bytes | None]],
        parse: Callable[[bytes], Iterable[Listed]],
    ) -> None:
        super().__init__(pool, engine, report)
        self._path = path
        self._parse = parse
        self._contents = contents

    async def watch(self) -> AsyncGenerator[tuple[Endpoint, ...], None]:
        last: tuple[Endpoint, ...] | None = None
        async for content in self._contents(self._path):
            found = await self._read(content)
            if found is None and last is None:
                found = ()
            if found is not None and found != last:
                last = found
                yield found

    async def _read(self, content: bytes | None) -> tuple[Endpoint, ...] | None:
        """The endpoints in `content`; None when they stay as they were."""
        if content is None:
            self.report(f"pool {self.pool}: endpoints file {self._path} cannot be read; the last good set stays")
            return None
        try:
            return self.endpoints(await asyncio.to_thread(self._parse, content))
        except ValueError as error:
            self.report(f"pool {self.pool}: bad endpoints file, the last good set stays: {error}")
            return None
