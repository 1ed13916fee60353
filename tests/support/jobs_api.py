"""Files, batches and jobs behind the real listener, with a front that knows nothing else and a store of the test's."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from openai import AsyncOpenAI

from gateway.config.types import Config, EndpointSpec, Jobs, Key, Pool, Secret, model_to
from gateway.core.errors import HeadwayError
from gateway.core.lengths import Lengths
from gateway.dialects import OPENAI
from gateway.fields import digest
from gateway.intake import Intake
from gateway.jobs.base import Store
from gateway.jobs.http import JobsApi
from gateway.jobs.sqlite import SqliteStore
from gateway.paths import is_asynchronous
from gateway.records import RequestRecord
from gateway.sockets import bind
from gateway.wire.above import Answering, Sink, Verdict
from gateway.wire.head import RequestHead, WireError
from gateway.wire.reply import Reply
from gateway.wire.server import Server
from tests.support.client import Client

ALICE, BOB, POOR = "sk-alice", "sk-bob", "sk-poor"


def settings(**more: Any) -> Config:
    """Alice and Bob may do all, Poor may use neither the model `other` nor the class of jobs."""
    keys = (
        Key(digest(ALICE.encode()), "alice"), Key(digest(BOB.encode()), "bob"),
        Key(digest(POOR.encode()), "poor", frozenset(("m",)), frozenset(("interactive",))),
    )  # fmt: skip
    pool = Pool("p", engine="http", endpoints=(EndpointSpec("http://127.0.0.1:9"),))
    models = {"m": model_to("m", "p", aliases=("alias",)), "other": model_to("other", "p")}
    return Config({"p": pool}, models, **{"keys": keys, "jobs": Jobs(Secret("sqlite:x")), **more})


class ApiFront:
    """What the real front does with asynchronous work, and no more."""

    def __init__(self, api: JobsApi, intake: Intake):
        self._api = api
        self._intake = intake
        self.refused: list[int] = []

    def screen(self, head: RequestHead) -> Verdict | Sink | None:
        try:
            key = self._intake.key(head)
            if is_asynchronous(head.path):
                return self._api.screen(head, key)
            head.found = self._intake.screen(head)
            assert self._api.wants(head, key)
            return None
        except HeadwayError as error:
            return _failing(error)

    def handle(self, head: RequestHead, body: bytes, reply: Reply, peer: str) -> Answering | None:
        try:
            ask = self._intake.of_request(head, body, peer, "r-1", time.monotonic())
        except HeadwayError as error:
            return _failing(error)(reply)
        return self._api.submit(head, ask, body, reply, _free)

    def refuse(self, error: WireError, reply: Reply, path: bytes) -> None:
        self.refused.append(error.status)
        reply.send(error.status, b"", OPENAI.body(HeadwayError(error.message, code=error.code)))


def _failing(error: HeadwayError) -> Verdict:
    def answer(reply: Reply) -> None:
        reply.send(error.status, b"content-type: application/json\r\n", OPENAI.body(error))

    return answer


async def _free() -> None:
    """Nobody has limits here."""


class Api:
    """`async with Api(tmp_path) as api:`; `validating=False` leaves batches where they are."""

    def __init__(self, where: Path | None = None, *, store: Store | None = None, settings: Config | None = None,
                 validating: bool = True):  # fmt: skip
        self.config = settings or _SETTINGS
        self.store = store or SqliteStore(str((where or Path()) / "jobs.db"))
        self.records: list[RequestRecord] = []
        self.made = 0
        lengths = Lengths()
        self.intake = Intake(self.config, lambda name: lengths)
        self.api = JobsApi(self.store, self.config, self.intake, self.records.append, made=self._made)
        self.front = ApiFront(self.api, self.intake)
        self.server = Server(self.front, self.config.limits)
        self._validating = validating
        self._sdks: list[AsyncOpenAI] = []

    def _made(self) -> None:
        self.made += 1

    async def __aenter__(self) -> Api:
        await self.store.open()
        sock = bind("127.0.0.1", 0)
        self.port = int(sock.getsockname()[1])
        await self.server.start(sock, None)
        if self._validating:
            self.api.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:  # fmt: skip
        for sdk in self._sdks:
            await sdk.close()
        self.server.stop()
        await self.api.stop()
        await self.store.close()
        await asyncio.sleep(0)

    def client(self) -> Client:
        return Client(self.port)

    def sdk(self, key: str = ALICE) -> AsyncOpenAI:
        """The official client."""
        made = AsyncOpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=key, max_retries=0)
        self._sdks.append(made)
        return made


_SETTINGS = settings()


def lines(*bodies: dict[str, Any], url: str = "/v1/chat/completions") -> bytes:
    """An input file of these bodies; `custom_id` is c1, c2, …"""

    return b"".join(
        json.dumps({"custom_id": f"c{n}", "method": "POST", "url": url, "body": body}).encode() + b"\n"
        for n, body in enumerate(bodies, 1)
    )


def said(text: str = "hi", model: str = "m", **more: Any) -> dict[str, Any]:
    """The body of a chat request."""
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}
