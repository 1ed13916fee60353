"""Endpoints out of a file of their own, which another program may write: read again whenever it changes.

The idea: see `changes` for how a change is noticed. A file that is missing or wrong keeps the last good set. How the
text is read is given (`parse`), since only the configuration's room speaks YAML.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable

from gateway.core.types import Endpoint
from gateway.discovery.base import Discovery, Listed, Report
from gateway.discovery.changes import EVERY, changes

MOST = (1 << 20) + 1
"""Bytes that are read: one more than a file may have, so that `parse` can refuse the rest."""


class File(Discovery):
    """The endpoints that `parse(content)` finds in the file at `path`. `parse` raises ValueError for a bad file."""

    def __init__(
        self,
        pool: str,
        engine: str,
        report: Report,
        *,
        path: str,
        parse: Callable[[bytes], Iterable[Listed]],
        every: float = EVERY,
    ) -> None:
        super().__init__(pool, engine, report)
        self._path = path
        self._parse = parse
        self._every = every

    async def watch(self) -> AsyncGenerator[tuple[Endpoint, ...], None]:
        last: tuple[Endpoint, ...] | None = None
        async for content in changes(self._path, MOST, every=self._every):
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
