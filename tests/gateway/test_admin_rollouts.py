"""Canaries, mirrors, history and the way back, as operators reach them: over the admin port of a whole gateway."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aiohttp

from gateway.config.types import Arm, CanaryRule, Mirror, Model, Route, model_to
from tests.support.client import chat
from tests.support.gateway import Running, config, pool
from tests.support.loop import on_uvloop, until
from tests.support.upstream import Upstream, answer, whole


def ok() -> Upstream:
    return Upstream(whole(answer(b'{"model":"m","choices":[{"finish_reason":"stop"}]}')))


async def call(gateway: Running, method: str, path: str, said: Any = None) -> tuple[int, Any]:
    url = f"http://127.0.0.1:{gateway.admin_port}{path}"
    async with aiohttp.ClientSession() as session, session.request(method, url, json=said) as found:
        text = await found.text()
        return found.status, json.loads(text) if found.content_type == "application/json" else text


@on_uvloop
async def test_a_canary_is_shown_paused_and_aborted_and_its_arm_follows_at_once() -> None:
    rollout = CanaryRule("next", steps=(0.5, 1.0), hold=1000.0)
    route = Route((Arm("stable", "one"), Arm("next", "two")), "rollout", canary=rollout)
    async with (
        ok() as a, ok() as b,
        Running(config(pool([a], "one"), pool([b], "two"), models=[Model("m", (route,))])) as gateway,
        gateway.client() as client,
    ):  # fmt: skip
        listed = (await call(gateway, "GET", "/api/canaries"))[1]["canaries"]
        assert [one["name"] for one in listed] == ["m/rollout"]
        await until(lambda: gateway.gateway.canaries.share("m", "rollout") == 0.5, "the first step")
        arms = {(await client.ask(body=chat("m"))).named["x-headway-arm"] for _ in range(12)}
        assert arms == {"stable", "next"}
        status, page = await call(gateway, "GET", "/canaries/m/rollout")
        assert status == 200 and page.lstrip().lower().startswith("<!doctype html")
        status, said = await call(gateway, "POST", "/api/canaries/m/rollout/abort", {"by": "ops", "why": "a feeling"})
        assert status == 200, said
        arms = {(await client.ask(body=chat("m"))).named["x-headway-arm"] for _ in range(12)}
        assert arms == {"stable"}
        page = gateway.gateway.metrics.text().decode()
        assert 'headway_canary_share{model="m",rule="rollout"} 0.0' in page
        assert 'headway_canary_phase{model="m",rule="rollout"} 3.0' in page
        assert (await call(gateway, "POST", "/api/canaries/m/rollout/fly"))[0] == 404
        assert (await call(gateway, "GET", "/api/canaries/nobody"))[0] == 404


@on_uvloop
async def test_who_goes_back_gets_the_configuration_before_until_the_file_is_read_again(tmp_path: Path) -> None:
    async with ok() as up:
        first = config(pool([up]), state=str(tmp_path))
        second = config(pool([up]), models=[model_to("other", "p")], state=str(tmp_path))
        async with Running(first) as gateway, gateway.client() as client:
            gateway.next_config = second
            assert (await gateway.gateway.reload())[0]
            history = (await call(gateway, "GET", "/api/history"))[1]
            assert [one["digest"] for one in history["applied"]] == [second.digest, first.digest]
            for wrong in ({"digest": 7}, ["beef"], "beef"):
                assert (await call(gateway, "POST", "/api/rollback", wrong))[0] == 400, "nobody meant the one before"
            status, said = await call(gateway, "POST", "/api/rollback", {})
            assert status == 200 and said["now"] == first.digest, said
            assert (await client.ask(body=chat("m"))).status == 200
            assert (await call(gateway, "POST", "/api/rollback", {"digest": "beef"}))[0] == 404
            assert (await gateway.gateway.reload())[0]
            assert (await client.ask(body=chat("m"))).status == 404, "the file is what counts once it is read"


@on_uvloop
async def test_a_mirror_copies_and_operators_see_what_came_of_it() -> None:
    route = Route((Arm("", "one"),), "main", mirror=Mirror("two", 1.0))
    async with (
        ok() as a, ok() as b,
        Running(config(pool([a], "one"), pool([b], "two"), models=[Model("m", (route,))])) as gateway,
        gateway.client() as client,
    ):  # fmt: skip
        for _ in range(3):
            assert (await client.ask(body=chat("m"))).status == 200
            await until(lambda: gateway.in_flight == 0.0, "the copy's end")
        assert (len(a.requests), len(b.requests)) == (3, 3)
        (mirror,) = (await call(gateway, "GET", "/api/mirrors"))[1]["mirrors"]
        assert mirror["rule"] == "main" and mirror["outcomes"]["same"] == 3, mirror
        await gateway.settled(3)
        assert len(gateway.records.all) == 3, "copies have no record"
        decisions = (await call(gateway, "GET", "/api/decisions"))[1]["decisions"]
        assert [one["route"]["rule"] for one in decisions] == ["main"] * 3
