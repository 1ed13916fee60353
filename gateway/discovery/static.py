"""Endpoints that the configuration lists. They change only when the configuration does, which makes a new source."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable

from gateway.core.types import Endpoint
from gateway.discovery.base import Discovery, Listed, Report


class Static(Discovery):
    """The listed endpoints, once. An address that is listed is used, whatever network it is in."""

    def __init__(self, pool: str, engine: str, report: Report, *, endpoints: Iterable[Listed]) -> None:
        super().__init__(pool, engine, report)
        self._set = self.endpoints(endpoints)

    async def watch(self) -> AsyncGenerator[tuple[Endpoint, ...], None]:
        yield self._set
