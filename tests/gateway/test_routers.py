"""Rules, splits and forced arms, through a whole gateway: where a request goes, and what its record says of it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

from gateway.config.types import Arm, Key, KeyLimits, Model, Rate, Route, Sticky, Text, When, model_to
from gateway.fields import digest
from tests.support.client import Answer, chat, post
from tests.support.gateway import Running, config, pool
from tests.support.loop import on_uvloop, until
from tests.support.upstream import Upstream, answer, cut, hang, whole

SPLIT = (Arm("stable", "one", 3.0), Arm("next", "two", 1.0, as_="m-v2"))


def ok() -> Upstream:
    return Upstream(whole(answer(b'{"model":"m","choices":[]}')))


async def ask(gateway: Running, *fields: str) -> Answer:
    async with gateway.client() as client:
        return await client.ask("/v1/chat/completions", chat("m"), *fields)


def routed(*routes: Route) -> Model:
    return Model("m", routes)


@on_uvloop
async def test_the_first_rule_that_fits_decides_and_the_record_says_which() -> None:
    research = When(header={"x-team": Text(("research",))})
    model = routed(Route((Arm("", "two"),), "research", research), Route((Arm("", "one"),)))
    async with ok() as a, ok() as b, Running(config(pool([a], "one"), pool([b], "two"), models=[model])) as gateway:
        assert (await ask(gateway, "X-Team: research")).status == 200
        assert (await ask(gateway, "x-team: sales")).status == 200
        await gateway.settled(2)
        assert (len(a.requests), len(b.requests)) == (1, 1)
        first, second = (record.route for record in gateway.records.all)
        assert first is not None and second is not None
        assert (first.rule, first.headers, first.pools) == ("research", {"x-team": "research"}, ("two",))
        assert (second.rule, second.headers) == ("routes[1]", {"x-team": "sales"})
        assert [record.pool for record in gateway.records.all] == ["two", "one"]


@on_uvloop
async def test_where_no_rule_fits_the_answer_names_those_that_were_tried() -> None:
    model = routed(Route((Arm("", "one"),), "night", When(header={"x-team": Text(("research",))})))
    async with ok() as a, Running(config(pool([a], "one"), models=[model])) as gateway:
        said = await ask(gateway)
        error = said.error
        assert (said.status, error["code"]) == (404, "no_route") and "night" in error["message"]
        assert not a.requests


@on_uvloop
async def test_a_split_divides_renames_and_says_its_arm() -> None:
    async with (
        ok() as a, ok() as b,
        Running(config(pool([a], "one"), pool([b], "two"), models=[routed(Route(SPLIT))])) as gateway,
    ):  # fmt: skip
        arms = Counter([(await ask(gateway)).named["x-headway-arm"] for _ in range(40)])
        await gateway.settled(40)
        assert 29 <= arms["stable"] <= 31 and arms["next"] == 40 - arms["stable"]
        assert {json.loads(request.body)["model"] for request in b.requests} == {"m-v2"}
        assert Counter(record.arm for record in gateway.records.all) == arms


@on_uvloop
async def test_a_user_keeps_its_arm_over_a_reload_and_over_tries() -> None:
    route = Route(SPLIT, sticky=Sticky("header", "x-session-id"))
    async with ok() as a, ok() as b, Upstream(cut()) as broken:
        pools = (pool([broken, a], "one"), pool([broken, b], "two"))
        async with Running(config(*pools, models=[routed(route)])) as gateway:

            async def arms() -> list[str]:
                sent = [await ask(gateway, f"x-session-id: user-{n}") for n in range(12)]
                assert all(answer.status == 200 for answer in sent)
                return [answer.named["x-headway-arm"] for answer in sent]

            before = await arms()
            assert set(before) == {"stable", "next"}
            gateway.next_config = config(*pools, models=[routed(route)], expose="id")
            assert (await gateway.gateway.reload())[0]
            assert await arms() == before


@on_uvloop
async def test_an_arm_is_chosen_by_those_whose_key_may() -> None:
    keys = (Key(digest(b"tester"), "qa", arms=frozenset(("next",))), Key(digest(b"plain"), "acme"))
    async with (
        ok() as a, ok() as b,
        Running(config(pool([a], "one"), pool([b], "two"), models=[routed(Route(SPLIT))], keys=keys)) as gateway,
    ):  # fmt: skip

        async def choose(key: str, arm: str) -> tuple[int, str]:
            said = await ask(gateway, f"authorization: Bearer {key}", f"x-headway-arm: {arm}")
            return said.status, said.named.get("x-headway-arm") or said.error["code"]

        assert [await choose("tester", "next") for _ in range(3)] == [(200, "next")] * 3
        assert await choose("tester", "stable") == (403, "arm_not_allowed")
        assert await choose("plain", "next") == (403, "arm_not_allowed")
        await gateway.settled(5)
        assert all(b"x-headway-arm" not in request.named for request in b.requests)
        record = gateway.records.all[0]
        assert record.route is not None and record.route.forced and record.route.key.startswith("sha256:")


@on_uvloop
async def test_what_stands_in_the_shadow_is_counted_and_changes_nothing() -> None:
    """A rule, and a tenant's limit: the request goes where it went, and the page says what would have been."""
    tight = KeyLimits(Rate(1.0, 3600.0), shadow=True)
    keys = (Key(digest(b"acme"), "acme", limits=tight),)
    model = routed(Route((Arm("", "two"),), "moved", shadow=True), Route((Arm("", "one"),)))
    async with (
        ok() as a, ok() as b,
        Running(config(pool([a], "one"), pool([b], "two"), models=[model], keys=keys)) as gateway,
    ):  # fmt: skip
        answers = [await ask(gateway, "authorization: Bearer acme") for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 200]
        await gateway.settled(3)
        assert (len(a.requests), len(b.requests)) == (3, 0)
        page = gateway.gateway.metrics.text().decode()
        assert 'headway_shadow_total{name="m/moved",what="rule"} 3.0' in page
        assert 'headway_shadow_total{name="acme",what="limit"} 2.0' in page
        assert 'headway_routed_total{model="m",rule="routes[1]"} 3.0' in page
        record = gateway.last.route
        assert record is not None and record.shadowed == ("moved",)


@on_uvloop
async def test_who_waits_for_a_pool_that_a_reload_takes_away_goes_where_the_model_is_now() -> None:
    async with Upstream(hang()) as busy, ok() as b:
        full = pool([busy], "one", max_concurrency=1)
        async with Running(config(full, models=[model_to("m", "one")])) as gateway, gateway.client() as first:
            first.send(post(chat("m")))
            await until(lambda: busy.posts == 1, "the only place is taken")
            waiting = asyncio.create_task(ask(gateway))
            lane = gateway.gateway.proxy.lanes["one"]
            await until(lambda: len(lane.desk) == 1, "one who waits")
            gateway.next_config = config(pool([b], "two"), models=[model_to("m", "two")])
            assert (await gateway.gateway.reload())[0]
            said = await waiting
            assert (said.status, said.named["x-headway-pool"]) == (200, "two")


@on_uvloop
async def test_who_is_sent_another_way_by_a_reload_keeps_its_arm() -> None:
    def arms(*pools: str) -> Route:
        return Route((Arm("a", pools[0]), Arm("b", pools[1])))

    async with Upstream(hang()) as busy, Upstream(hang()) as full, ok() as up:
        before = [pool([busy], "one", max_concurrency=1), pool([full], "two", max_concurrency=1)]
        # A split of two may send its first two requests one way: the places are taken by models of their own.
        takers = [model_to("to-one", "one"), model_to("to-two", "two")]
        async with Running(config(*before, models=[routed(arms("one", "two")), *takers])) as gateway:
            lanes = gateway.gateway.proxy.lanes
            async with gateway.client() as first, gateway.client() as second:
                first.send(post(chat("to-one")))
                second.send(post(chat("to-two")))
                await until(lambda: busy.posts + full.posts == 2, "both places are taken")
                waiting = [asyncio.create_task(ask(gateway)) for _ in range(4)]
                await until(lambda: sum(len(lane.desk) for lane in lanes.values()) == 4, "four who wait")
                counts = {"a": len(lanes["one"].desk), "b": len(lanes["two"].desk)}
                after = [pool([up], "three"), pool([up], "four")]
                gateway.next_config = config(*after, models=[routed(arms("three", "four"))])
                assert (await gateway.gateway.reload())[0]
                answers = await asyncio.gather(*waiting)
                assert {answer.status for answer in answers} == {200}
                assert Counter(answer.named["x-headway-arm"] for answer in answers) == Counter(counts)
