"""A whole gateway in this process, on free ports, and what it wrote down."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from gateway.app import Gateway
from gateway.config.loader import Loaded, digest_of
from gateway.config.types import Admin, Config, EndpointSpec, HealthCheck, Limits, Listen, Model, Pick, Pool, model_to
from gateway.logs import Events, Output, RequestLog
from gateway.records import RequestRecord
from gateway.sockets import bind
from tests.support.client import Answer, Client
from tests.support.loop import until
from tests.support.upstream import Upstream

IN_ORDER = Pick("tests.support.in_order:InOrder")


class Held(Output):
    """A log output that keeps what it is given."""

    def __init__(self) -> None:
        super().__init__(1)
        self.batches: list[Any] = []

    def offer(self, batch: object, size: int, lines: int) -> None:
        self.batches.append(batch)

    @property
    def text(self) -> str:
        made = (batch() if callable(batch) else batch for batch in self.batches)
        return b"".join(made).decode()


class Records(RequestLog):
    """A request log that keeps the records."""

    def __init__(self) -> None:
        super().__init__(Held(), "error")
        self.all: list[RequestRecord] = []

    def write(self, r: RequestRecord) -> None:
        self.all.append(r)


def pool(upstreams: Sequence[Upstream | str], name: str = "p", **more: Any) -> Pool:
    """A pool of these; asked in this order unless the test names a policy."""
    specs = tuple(EndpointSpec(up if isinstance(up, str) else up.url) for up in upstreams)
    settings: dict[str, Any] = {"engine": "http", "pick": IN_ORDER, "health": HealthCheck(every=60.0)}
    return Pool(name, **{"endpoints": specs, **settings, **more})


def config(*pools: Pool, models: Sequence[Model] = (), **more: Any) -> Config:
    """A configuration of these pools; model `m` leads to the first one where the test names none."""
    named = {model.name: model for model in models or (model_to("m", pools[0].name),)}
    made = Config({one.name: one for one in pools}, named, listen=Listen(port=0), admin=Admin(port=0), **more)
    return dataclasses.replace(made, digest=digest_of(made))


def limits(**some: Any) -> Limits:
    return dataclasses.replace(Limits(), **some)


class Running:
    """`async with Running(config) as gateway:`; `next_config` is what a reload will find."""

    def __init__(self, first: Config):
        self.next_config: Config | Exception = first
        self.records = Records()
        self.log = Held()
        self.texts: dict[bytes, Config] = {}
        self.gateway = Gateway(self._loaded(first), self, self.records, Events(self.log))

    def _loaded(self, config: Config) -> Loaded:
        text = config.digest.encode()  # stands for what the file said
        self.texts[text] = config
        return Loaded(config, text=text)

    async def read(self) -> Loaded:
        if isinstance(self.next_config, Exception):
            raise self.next_config
        return self._loaded(self.next_config)

    async def parse(self, text: bytes) -> Loaded:
        return self._loaded(self.texts[text])

    async def __aenter__(self) -> Running:
        listener, admin = bind("127.0.0.1", 0), bind("127.0.0.1", 0)
        self.port, self.admin_port = int(listener.getsockname()[1]), int(admin.getsockname()[1])
        await self.gateway.start(listener, admin)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:  # fmt: skip
        await self.gateway.stop()
        await asyncio.sleep(0)

    def client(self, **more: Any) -> Client:
        return Client(self.port, **more)

    @property
    def in_flight(self) -> float:
        """Whatever the gateway still counts: requests and tokens at endpoints, waiting, held bodies, relays."""
        lanes = self.gateway.proxy.lanes.values()
        counted = sum(float(lane.fleet.ours.sum() + lane.fleet.prefill.sum() + lane.fleet.output.sum()
                            + lane.fleet.decoding.sum()) for lane in lanes)  # fmt: skip
        waiting = sum(len(lane.desk) + len(lane.relays) for lane in lanes)
        return counted + waiting + self.gateway.server.buffered

    async def settled(self, records: int | None = None) -> None:
        """Wait until nothing is in flight (and, if asked, so many requests were written down)."""
        await until(lambda: self.in_flight == 0.0, "an empty gateway")
        if records is not None:
            await until(lambda: len(self.records.all) >= records, f"record number {records}")

    @property
    def last(self) -> RequestRecord:
        return self.records.all[-1]


async def one(raw: bytes, *, upstream: Upstream | None = None, **more: Any) -> tuple[Answer, Running]:
    """The answer to one raw request on a gateway of one endpoint."""
    async with (
        upstream or Upstream() as up,
        Running(config(pool([up]), **more)) as gateway,
        gateway.client() as client,
    ):
        client.send(raw)
        said = await client.answer()
        await gateway.settled()
        return said, gateway
