"""The operators' pages of rollouts: canaries, mirrors, the configurations that were in use, and the way back.

Left to others: who may ask, and everything that goes wrong (`admin`), what there is to show (`rollouts`,
`mirrors`, `history`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec
from aiohttp import web

from gateway.admin_answers import error, json
from gateway.captures.captures import Captures
from gateway.config.types import Config
from gateway.decisions import DecisionRing, describe
from gateway.history import History, HistoryError, view
from gateway.mirrors.mirrors import Mirrors
from gateway.rollouts.canaries import Canaries, CanaryError

_ALONE = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}  # a page that loads nothing
PIECE = 200  # records described in one go


class RolloutView(Protocol):
    """What these pages show; the running gateway is one."""

    @property
    def config(self) -> Config: ...
    @property
    def decisions(self) -> DecisionRing: ...
    @property
    def canaries(self) -> Canaries: ...
    @property
    def mirrors(self) -> Mirrors: ...
    @property
    def captures(self) -> Captures: ...
    @property
    def history(self) -> History: ...
    async def rollback(self, digest: str) -> tuple[bool, Sequence[str]]:
        """Use the configuration with this digest again: whether it is in use now, and if not, what is wrong with it."""
        ...


class RolloutPages:
    """`add_to` a router."""

    def __init__(self, view: RolloutView):
        self._view = view

    def add_to(self, router: web.UrlDispatcher) -> None:
        router.add_get("/api/canaries", self._canaries)
        router.add_post("/api/canaries/{name:.+}/{verb}", self._command)
        router.add_get("/api/canaries/{name:.+}", self._canary)
        router.add_get("/canaries/{name:.+}", self._page)
        router.add_get("/api/mirrors", self._mirrors)
        router.add_get("/api/captures", self._captures)
        router.add_get("/api/history", self._history)
        router.add_post("/api/rollback", self._rollback)
        router.add_get("/api/decisions", self._decisions)

    async def _canaries(self, request: web.Request) -> web.Response:
        return json(self._view.canaries.views())

    async def _canary(self, request: web.Request) -> web.Response:
        try:
            return json(self._view.canaries.report(request.match_info["name"]))
        except CanaryError as wrong:
            return error(wrong.status, wrong.code, str(wrong))

    async def _page(self, request: web.Request) -> web.Response:
        try:
            page = self._view.canaries.page(request.match_info["name"])
            return web.Response(text=page, content_type="text/html", headers=_ALONE)
        except CanaryError as wrong:
            return error(wrong.status, wrong.code, str(wrong))

    async def _command(self, request: web.Request) -> web.Response:
        said = await _said(request)
        if said is None:
            return _unreadable()
        try:
            return json(await self._view.canaries.command(request.match_info["verb"], request.match_info["name"],
                                                          said.get("by", ""), said.get("why", "")))  # fmt: skip
        except CanaryError as wrong:
            return error(wrong.status, wrong.code, str(wrong))

    async def _mirrors(self, request: web.Request) -> web.Response:
        return json({"mirrors": self._view.mirrors.view()})

    async def _captures(self, request: web.Request) -> web.Response:
        return json({"captures": self._view.captures.view()})

    async def _history(self, request: web.Request) -> web.Response:
        return json(view(self._view.history.entries, self._view.config.digest))

    async def _rollback(self, request: web.Request) -> web.Response:
        said = await _said(request)
        if said is None:  # (what was meant by it may have been another configuration than the one before)
            return _unreadable()
        try:
            found = self._view.history.earlier(said.get("digest", ""))
        except HistoryError as wrong:
            return error(404, "no_such_configuration", str(wrong))
        done, problems = await self._view.rollback(found.digest)
        now = self._view.config.digest
        if not done:
            return error(400, "bad_config", "not gone back to, what is in use stays", problems=list(problems))
        return json({"digest": found.digest, "now": now, "at": found.at, "changed": now != found.digest})

    async def _decisions(self, request: web.Request) -> web.StreamResponse:
        """All records that are kept, the oldest first: a page that may be large, so in pieces."""
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        await answer.prepare(request)
        records, encode = self._view.decisions.all(), msgspec.json.encode
        await answer.write(b'{"decisions":[')
        for start in range(0, len(records), PIECE):
            part = b",".join(encode(describe(record)) for record in records[start : start + PIECE])
            await answer.write((b"," if start else b"") + part)
            await asyncio.sleep(0)
        await answer.write(b"]}\n")
        return answer


async def _said(request: web.Request) -> Mapping[str, str] | None:
    """The texts in the request's body, which may be empty; None where it is something else."""
    try:
        return msgspec.json.decode(await request.read() or b"{}", type=dict[str, str])
    except ValueError:
        return None


def _unreadable() -> web.Response:
    return error(400, "invalid_json", "the body must be a JSON object of strings, or empty")
