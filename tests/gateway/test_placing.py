"""Who waits for a place where its adapter is, and finds that the adapter has left."""

from __future__ import annotations

import json
from typing import Any

from gateway.config.types import Arm, CanaryRule, Lora, Model, Pool, Route, model_to
from gateway.core.fleet import Fleet
from tests.gateway.test_admit import Slow, held
from tests.support.client import chat, post
from tests.support.gateway import Running, config, pool
from tests.support.loop import on_uvloop, until
from tests.support.upstream import OK, Behaviour, Upstream, answer, whole

LOADED = whole(answer(b"loaded"))
REFUSED = whole(answer(b"no such folder", 400))


def narrow(*ups: Upstream) -> Pool:
    return pool(ups, max_concurrency=1)


def did(up: Upstream) -> list[str]:
    return ["load" if b"load_lora" in one.target else json.loads(one.body)["model"] for one in up.requests]


async def one_waits_and_the_adapter_goes(*then: Behaviour) -> tuple[list[str], int, str]:
    """Two requests for an adapter; while the second one waits, the server forgets it.

    What the server was asked, and what became of the second request.
    """
    slow = Slow()
    async with (
        Upstream(LOADED, slow, *then) as up,
        Running(config(narrow(up), models=[model_to("m", "p", lora=Lora("/adapters/m"))])) as gateway,
        gateway.client() as first,
        gateway.client() as second,
    ):
        first.send(post(chat("m")))
        await until(lambda: up.posts == 2)
        second.send(post(chat("m")))
        await until(lambda: held(gateway) == 1)
        fleet: Fleet = gateway.gateway.fleets()["p"]
        (row,) = fleet.offers.having("m")
        fleet.offers.unlearn(row, "m")
        slow.gate.set()
        assert (await first.answer()).status == 200
        said = await second.answer()
        await gateway.settled(2)
        return did(up), said.status, said.error["code"] if said.status != 200 else ""


@on_uvloop
async def test_who_waits_has_its_adapter_loaded_again_before_it_is_sent() -> None:
    """It was sent to a server without the adapter, whose answer is 404."""
    assert await one_waits_and_the_adapter_goes(LOADED, OK) == (["load", "m", "load", "m"], 200, "")


@on_uvloop
async def test_where_it_cannot_be_loaded_again_who_waits_is_told() -> None:
    assert await one_waits_and_the_adapter_goes(REFUSED) == (["load", "m", "load"], 503, "adapter_not_loaded")


FORGOTTEN = whole(answer(b'{"error":{"message":"no such model"}}', 404))


@on_uvloop
async def test_a_request_whose_adapter_a_server_has_forgotten_is_sent_again_when_it_is_there() -> None:
    """The client got the 404, and on a split it counted against the arm."""
    arms = (Arm("stable", "p", as_="m-1"), Arm("next", "p", as_="m-2"))
    rule = Route(arms, "rollout", canary=CanaryRule("next", steps=(0.5, 1.0), hold=1000.0))
    models = [Model("x", (rule,)), *(model_to(name, "p", lora=Lora(f"/{name}")) for name in ("m", "m-1", "m-2"))]
    async with (
        Upstream(LOADED, OK, FORGOTTEN, LOADED, OK, FORGOTTEN, LOADED, FORGOTTEN, LOADED, OK) as up,
        Running(config(pool([up]), models=models)) as gateway, gateway.client() as client,
    ):  # fmt: skip
        assert [(await client.ask(body=chat("m"))).status for _ in range(2)] == [200, 200]
        assert did(up) == ["load", "m", "m", "load", "m"]
        assert (await client.ask(body=chat("m"))).status == 404, "twice within seconds: it may be the client's doing"
        await until(lambda: gateway.gateway.canaries.share("x", "rollout"), "the first step")
        assert (await client.ask(body=chat("x"))).status == 200
        await gateway.settled()
        found: Any = gateway.gateway.canaries.report("x/rollout")["canary"]
        assert [arm["failed"] for arm in found["arms"]] == [0, 0]
