"""A mirror in a running gateway: the client's answer is as without it, and no record but the client's own is kept."""

import json

from gateway.config.types import Key, KeyLimits, Rate
from gateway.fields import digest
from tests.support.client import chat
from tests.support.gateway import Running, config, pool
from tests.support.loop import on_uvloop, until
from tests.support.mirroring import mirrored
from tests.support.upstream import OK, Upstream, answer, cut, hang, sse, whole

TOKEN = b'data: {"choices":[{"delta":{"content":"a"}}]}'
STOP = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}'
DONE = b"data: [DONE]"
STREAM = whole(sse(TOKEN, TOKEN, STOP, DONE))


@on_uvloop
async def test_the_client_gets_the_first_pools_answer_and_the_copies_are_compared() -> None:
    async with Upstream(OK, STREAM) as primary, Upstream(OK, cut()) as shadow:
        made = config(pool([primary]), pool([shadow], "shadow"), models=[mirrored(as_="m-v2")])
        async with Running(made) as gateway, gateway.client() as client:
            said = await client.ask(body=chat())
            assert said.status == 200 and said.named["x-headway-pool"] == "p"
            streamed = await client.ask(body=chat(stream=True))
            assert streamed.body.count(b"data:") == 4
            counts = gateway.gateway.mirrors.view()
            await until(lambda: sum(gateway.gateway.mirrors.view()[0]["outcomes"].values()) == 2, "two outcomes")
            await gateway.settled(2)
            [counts] = gateway.gateway.mirrors.view()
            assert counts["outcomes"] == {"same": 1, "differs_status": 1}
            assert [json.loads(one.body)["model"] for one in shadow.requests] == ["m-v2", "m-v2"]
            assert len(gateway.records.all) == len(gateway.gateway.decisions) == 2
            assert {record.pool for record in gateway.records.all} == {"p"}
            assert gateway.records.all[1].finish == "stop"
            page = gateway.gateway.metrics.text().decode()
            assert 'headway_mirror_total{model="m",outcome="same",pool="shadow"} 1.0' in page
            assert 'pool="shadow"' not in "".join(line for line in page.splitlines() if "requests_total" in line)


@on_uvloop
async def test_a_shadow_that_hangs_or_refuses_is_not_felt() -> None:
    async with Upstream(OK) as primary, Upstream(hang()) as shadow:
        made = config(pool([primary]), pool([shadow], "shadow"), models=[mirrored(concurrency=2)])
        async with Running(made) as gateway, gateway.client() as client:
            for _ in range(5):
                assert (await client.ask(body=chat())).status == 200
            await until(lambda: shadow.posts == 2, "the copies that may go")
            assert gateway.gateway.mirrors.view()[0]["outcomes"] == {"busy": 3}
            gateway.gateway.mirrors.close()
            await gateway.settled(5)


@on_uvloop
async def test_copies_are_nobodys_requests_to_the_limits_of_a_tenant() -> None:
    limits = KeyLimits(requests=Rate(2, 60.0), concurrency=1)
    key = Key(digest(b"secret"), "acme", limits=limits)
    async with Upstream(OK) as primary, Upstream(OK) as shadow:
        made = config(pool([primary]), pool([shadow], "shadow"), models=[mirrored()], keys=(key,))
        async with Running(made) as gateway, gateway.client() as client:
            own = "authorization: Bearer secret"
            said = [await client.ask("/v1/chat/completions", chat(), own) for _ in range(3)]
            assert [one.status for one in said] == [200, 200, 429]
            await until(lambda: shadow.posts == 2, "two copies")
            await until(lambda: gateway.gateway.mirrors.view()[0]["outcomes"] == {"same": 2}, "two outcomes")
            assert all(b"authorization" not in one.named for one in shadow.requests)


@on_uvloop
async def test_a_request_that_is_refused_before_it_was_sent_has_no_copy() -> None:
    refusing = whole(answer(b'{"error": {}}', 400))
    async with Upstream(refusing) as primary, Upstream(OK) as shadow:
        made = config(pool([primary]), pool([shadow], "shadow"), models=[mirrored()])
        async with Running(made) as gateway, gateway.client() as client:
            gateway.gateway.proxy.lanes = {"shadow": gateway.gateway.proxy.lanes["shadow"]}
            assert (await client.ask(body=chat())).status == 503
            await until(lambda: gateway.gateway.mirrors.view()[0]["outcomes"] == {"unsent": 1}, "the outcome")
            assert shadow.posts == 0
