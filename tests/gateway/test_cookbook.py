"""The operators' cookbook: each of its files is loaded as it stands and does what its first line says."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from gateway.config.loader import Loaded, digest_of, load
from gateway.config.types import Admin, HealthCheck, Listen
from tests.support.client import Answer, chat
from tests.support.gateway import Running
from tests.support.loop import on_uvloop, until
from tests.support.ports import free_port
from tests.support.upstream import Upstream, answer, whole

BOOK = Path(__file__).parents[2] / "config" / "examples" / "cookbook"
SERVERS = ("GPU_1", "GPU_2", "L4_1", "H100_1", "STABLE_1", "STABLE_2", "NEXT_1", "OURS_1", "RENTED_1", "NEW_1",
           "CHAT_1", "LONG_1", "SPOT_1", "SMALL_1")  # fmt: skip


class Kitchen:
    """A gateway with one file of the book, and a model server for each of its variables."""

    def __init__(self, gateway: Running, servers: dict[str, Upstream]):
        self.gateway = gateway
        self.servers = servers

    async def ask(self, model: str, *fields: str, **more: Any) -> Answer:
        async with self.gateway.client() as client:
            return await client.ask("/v1/chat/completions", chat(model, **more), *fields)

    def asked(self, server: str) -> list[dict[str, Any]]:
        """The JSON bodies that a server got."""
        return [json.loads(request.body) for request in self.servers[server].requests if request.body]


Scene = Callable[[Kitchen], Awaitable[None]]


async def first_model(kitchen: Kitchen) -> None:
    said = await kitchen.ask("gpt-4o-mini")
    assert said.status == 200 and said.json()["model"] == "gpt-4o-mini"
    assert [body["model"] for body in kitchen.asked("GPU_1") + kitchen.asked("GPU_2")] == ["llama-3.1-8b"]


async def two_gpu_types(kitchen: Kitchen) -> None:
    assert (await kitchen.ask("llama-3.1-8b")).named["x-headway-pool"] == "l4"


async def canary(kitchen: Kitchen) -> None:
    forced = await kitchen.ask("qwen3-32b", "authorization: Bearer sk-qa", "x-headway-arm: next")
    assert forced.named["x-headway-arm"] == "next" and kitchen.asked("NEXT_1")[0]["model"] == "qwen3-32b-v2"
    assert forced.json()["model"] == "qwen3-32b"
    team = "authorization: Bearer sk-team"
    said = [await kitchen.ask("qwen3-32b", team, f"x-session-id: {n}") for n in range(10)]
    again = [await kitchen.ask("qwen3-32b", team, f"x-session-id: {n}") for n in range(10)]
    arms = [answer.named["x-headway-arm"] for answer in said]
    assert arms == [answer.named["x-headway-arm"] for answer in again] and arms.count("stable") >= 8
    assert (await kitchen.ask("qwen3-32b", team, "x-headway-arm: next")).status == 403
    await until(lambda: kitchen.gateway.gateway.canaries.share("qwen3-32b", "v2") == 0.01, "the first step, on disk")


async def fallback(kitchen: Kitchen) -> None:
    await kitchen.servers["OURS_1"].__aexit__(None, None, None)
    said = await kitchen.ask("llama-3.1-8b")
    assert (said.status, said.named["x-headway-pool"]) == (200, "rented")


async def shadow(kitchen: Kitchen) -> None:
    for _ in range(20):
        said = await kitchen.ask("llama-3.1-8b", "authorization: Bearer sk-research")
        assert (said.status, said.named["x-headway-pool"]) == (200, "gpus")
    await until(lambda: sum(_outcomes(kitchen).values()) >= 1, "a copy")
    page = kitchen.gateway.gateway.metrics.text().decode()
    assert 'headway_shadow_total{name="llama-3.1-8b/research-to-new",what="rule"} 20.0' in page


def _outcomes(kitchen: Kitchen) -> dict[str, int]:
    (mirror,) = kitchen.gateway.gateway.mirrors.view()
    found = mirror["outcomes"]
    assert isinstance(found, dict)
    return found


async def lora_tenants(kitchen: Kitchen) -> None:
    acme = "authorization: Bearer sk-acme"
    assert [(await kitchen.ask("acme-support", acme)).status for _ in range(2)] == [200, 200]
    bodies = kitchen.asked("GPU_1") + kitchen.asked("GPU_2")
    loads = [body for body in bodies if "lora_path" in body]
    assert loads == [{"lora_name": "acme-support", "lora_path": "/adapters/acme-support"}]
    assert (await kitchen.ask("globex-legal", acme)).status == 403


async def long_prompts_apart(kitchen: Kitchen) -> None:
    assert (await kitchen.ask("llama-3.1-8b")).named["x-headway-pool"] == "chat"
    long = [{"role": "user", "content": "word " * 20_000}]
    assert (await kitchen.ask("llama-3.1-8b", messages=long)).named["x-headway-pool"] == "long"


async def batch_night(kitchen: Kitchen) -> None:
    assert (await kitchen.ask("llama-3.1-8b")).named["x-headway-pool"] == "gpus"
    assert (await kitchen.ask("llama-3.1-8b", "x-headway-class: async")).status == 200
    await kitchen.gateway.settled(2)
    rules = [record.route.rule for record in kitchen.gateway.records.all if record.route is not None]
    assert rules[0] == "routes[1]" and rules[1] in ("night", "routes[1]")
    async with kitchen.gateway.client() as client:
        assert (await client.get("/v1/batches")).status == 200


async def incident(kitchen: Kitchen) -> None:
    flood = [await kitchen.ask("llama-3.1-8b", "authorization: Bearer sk-crawler") for _ in range(6)]
    assert {answer.status for answer in flood} == {200, 429}
    assert {answer.named["x-headway-pool"] for answer in flood if answer.status == 200} == {"small"}
    shop = [await kitchen.ask("llama-3.1-8b", "authorization: Bearer sk-shop") for _ in range(4)]
    assert [(answer.status, answer.named["x-headway-pool"]) for answer in shop] == [(200, "gpus")] * 4
    assert kitchen.gateway.gateway.limiter.spared() == {"shop": 3}


async def rollback(kitchen: Kitchen) -> None:
    running, first = kitchen.gateway, kitchen.gateway.gateway.config
    changed = dataclasses.replace(first, expose="id")
    running.next_config = dataclasses.replace(changed, digest=digest_of(changed))
    assert (await running.gateway.reload())[0] and running.gateway.config.expose == "id"
    assert await running.gateway.rollback("") == (True, [])
    assert running.gateway.config.digest == first.digest
    assert (await kitchen.ask("llama-3.1-8b")).status == 200


SCENES: dict[str, Scene] = {
    "01-first-model": first_model, "02-two-gpu-types": two_gpu_types, "03-canary": canary, "04-fallback": fallback,
    "05-shadow": shadow, "06-lora-tenants": lora_tenants, "07-long-prompts-apart": long_prompts_apart,
    "08-batch-night": batch_night, "09-incident": incident, "10-rollback": rollback,
}  # fmt: skip


def loaded(name: str, folder: Path, env: dict[str, str]) -> Loaded:
    """The file as it stands, but for ports; what it keeps is kept in `folder`."""
    file = folder / f"{name}.yaml"
    file.write_text((BOOK / f"{name}.yaml").read_text())
    found = load(file, env)
    calm = HealthCheck(every=60.0)
    pools = {pool.name: dataclasses.replace(pool, health=calm) for pool in found.config.pools.values()}
    made = dataclasses.replace(found.config, listen=Listen(port=0), admin=Admin(port=free_port()), pools=pools)
    return dataclasses.replace(found, config=dataclasses.replace(made, digest=digest_of(made)))


def test_every_page_of_the_book_has_a_scene_and_is_in_the_docs() -> None:
    assert sorted(SCENES) == sorted(path.stem for path in BOOK.glob("*.yaml"))
    page = (BOOK.parents[2] / "docs" / "cookbook.md").read_text()
    assert [name for name in SCENES if f"cookbook/{name}.yaml" not in page] == []


@pytest.mark.parametrize("name", SCENES)
def test_a_page_of_the_book_does_what_it_says(name: str, tmp_path: Path) -> None:
    @on_uvloop
    async def run() -> None:
        async with AsyncExitStack() as stack:
            said = whole(answer(b'{"model":"llama-3.1-8b","choices":[{"finish_reason":"stop"}]}'))
            renamed = whole(answer(b'{"model":"qwen3-32b-v2","choices":[{"finish_reason":"stop"}]}'))
            servers = {}
            for one in SERVERS:
                servers[one] = await stack.enter_async_context(Upstream(renamed if one == "NEXT_1" else said))
            env = {one: up.url for one, up in servers.items()}
            config = loaded(name, tmp_path, env).config
            gateway = await stack.enter_async_context(Running(config))
            await SCENES[name](Kitchen(gateway, servers))

    run()
