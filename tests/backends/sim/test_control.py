"""Faults at work: what a client sees of each, and that the server is whole again afterwards."""

import asyncio
import json
from typing import Any

import pytest

from backends.sim.faults import fault
from backends.sim.server import SimServer
from tests.backends.sim.conftest import Start, Wire, ask, events, until

CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, "ignore_eos": True}
PATH = "/v1/chat/completions"


async def switch(server: SimServer, **wanted: Any) -> dict[str, Any]:
    status, state = await ask(server, "POST", "/sim/fault", wanted)
    assert status == 200, state
    return dict(state)


async def stream(server: SimServer, tokens: int = 100_000) -> Wire:
    """A stream whose first event has come."""
    wire = await Wire.open(server)
    body = json.dumps({**CHAT, "max_tokens": tokens, "stream": True}).encode()
    wire.send("POST", PATH, body, content_type="application/json")
    await wire.head()
    await wire.chunk()
    return wire


async def rest(wire: Wire) -> bytes:
    """What still comes until the connection ends."""
    found = await wire.reader.read()
    wire.close()
    return found


async def refused(server: SimServer) -> bool:
    try:
        (await Wire.open(server)).close()
    except ConnectionRefusedError:
        return True
    return False


async def serves(server: SimServer) -> bool:
    status, answer = await ask(server, "POST", PATH, CHAT)
    return status == 200 and answer["usage"]["completion_tokens"] == 4


async def reopened(server: SimServer) -> None:
    while await refused(server):  # noqa: ASYNC110 - a port says nothing when it opens
        await asyncio.sleep(0.005)
    assert await serves(server)


async def test_a_hung_engine_looks_idle_and_answers_when_it_wakes(start: Start) -> None:
    server = await start()
    await switch(server, kind="hang")
    waiting = asyncio.create_task(ask(server, "POST", PATH, CHAT))
    await until(lambda: bool(server.exchanges))
    assert await ask(server, "GET", "/health") == (200, b"")
    _, page = await ask(server, "GET", "/metrics")
    assert b'num_requests_running{engine="0",model_name="llama-3.1-8b"} 0.0' in page
    assert b'num_requests_waiting{engine="0",model_name="llama-3.1-8b"} 0.0' in page
    assert await ask(server, "GET", "/load") == (200, {"server_load": 1})
    assert not waiting.done()
    await switch(server, kind="hang", clear=True)
    status, _ = await waiting
    assert status == 200


async def test_slow_changes_the_pace_and_ends_by_itself(start: Start) -> None:
    server = await start(speed=10.0)
    server.control.begin(fault("slow", 4, 0.01))
    assert server.engine.pace == pytest.approx(0.4)
    await until(lambda: not server.control.active)
    assert server.engine.pace == pytest.approx(0.1)


async def test_a_crash_resets_streams_closes_the_port_and_starts_afresh(start: Start) -> None:
    server = await start(speed=1.0)
    wire, old = await stream(server), server.engine
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):  # the control connection dies too
        await ask(server, "POST", "/sim/fault", {"kind": "crash"})
    with pytest.raises(ConnectionResetError):
        await rest(wire)
    assert await refused(server)
    assert server.engine is not old
    assert not server.exchanges
    server.control.end("crash")
    await reopened(server)


async def test_a_killed_engine_ends_streams_with_an_error_event_and_done(start: Start) -> None:
    server, sibling = await start(speed=1.0), await start()
    server.control.siblings = sibling.control.siblings = [server, sibling]
    wire = await stream(server)
    plain = asyncio.create_task(ask(server, "POST", PATH, {**CHAT, "max_tokens": 100_000}))
    await until(lambda: len(server.exchanges) == 2)
    await switch(sibling, kind="killed", port=server.port)
    tail = await rest(wire)
    assert tail.rstrip(b"\r\n0").endswith(b"data: [DONE]\n\n"[:-2])
    assert b'data: {"error": {"message": "EngineCore encountered an issue.' in tail
    status, answer = await plain
    assert (status, answer["error"]["type"]) == (500, "InternalServerError")
    assert await refused(server)
    await switch(sibling, kind="none", port=server.port)
    await reopened(server)


async def test_refuse_closes_the_port_but_answers_what_runs(start: Start) -> None:
    server = await start(speed=5.0)
    wire = await stream(server, tokens=40)
    server.control.begin(fault("refuse"))
    assert await refused(server)
    assert b"data: [DONE]" in await rest(wire)
    server.control.end("refuse")
    await reopened(server)


async def test_silence_leaves_streams_open_without_a_word(start: Start) -> None:
    server = await start(speed=1.0)
    wire = await stream(server)
    server.control.begin(fault("silent"))
    assert await refused(server)
    steps = server.runner.steps
    assert server.runner.frozen
    server.control.end("silent")
    await until(lambda: server.runner.steps != steps)
    wire.close()
    await reopened(server)


@pytest.mark.parametrize(("kind", "how"), [("cut", "end"), ("reset", "reset")])
async def test_open_streams_are_cut_or_reset_and_the_server_goes_on(start: Start, kind: str, how: str) -> None:
    server = await start(speed=1.0)
    wire = await stream(server)
    await switch(server, kind=kind)
    if how == "reset":
        with pytest.raises(ConnectionResetError):
            await rest(wire)
    else:
        assert b"[DONE]" not in await rest(wire)
    await until(lambda: not server.engine.in_flight)
    assert server.engine.pool.usage == 0.0
    assert await serves(server)
    assert not server.control.active


async def test_later_streams_are_cut_after_so_many_tokens(start: Start) -> None:
    server = await start()
    await switch(server, kind="cut", value=3)
    wire = await Wire.open(server)
    wire.send("POST", "/v1/completions", b'{"prompt": "a", "stream": true}', content_type="application/json")
    await wire.head()
    assert (await rest(wire)).count(b"data: ") == 3
    await switch(server, kind="none")
    assert await serves(server)


@pytest.mark.parametrize(
    ("wanted", "status", "message"),
    [
        ({"kind": "5xx"}, 500, "simulated failure"),
        ({"kind": "5xx", "value": 502}, 502, "simulated failure"),
        ({"kind": "503"}, 503, "The engine is currently busy"),
        ({"kind": "drain"}, 500, "cannot schedule new futures after shutdown"),
    ],
)
async def test_refusals_leave_health_alone(start: Start, wanted: dict[str, Any], status: int, message: str) -> None:
    server = await start()
    await switch(server, **wanted)
    for streamed in (False, True):
        got, answer = await ask(server, "POST", PATH, {**CHAT, "stream": streamed})
        assert got == status
        assert message in answer["error"]["message"]
    assert (await ask(server, "GET", "/health"))[0] == 200
    await switch(server, kind="none")
    assert await serves(server)


async def test_errors_can_hit_a_share_of_requests(start: Start) -> None:
    server = await start(speed=1000.0)
    await switch(server, kind="5xx", value=0.5)
    statuses = [(await ask(server, "POST", PATH, CHAT))[0] for _ in range(60)]
    assert 15 < statuses.count(500) < 45


async def test_draining_finishes_what_runs(start: Start) -> None:
    server = await start(speed=5.0)
    wire = await stream(server, tokens=30)
    await switch(server, kind="drain")
    raw = b""
    while chunk := await wire.chunk():
        raw += chunk
    assert events(raw)[-1] == "[DONE]"
    wire.close()


async def test_the_metrics_page_can_lie_in_several_ways(start: Start) -> None:
    server = await start()
    _, before = await ask(server, "GET", "/metrics")
    for kind, status, part in (
        ("no_metrics", 404, b"Not Found"),
        ("garbage_metrics", 200, b"<html>"),
        ("empty_metrics", 200, b"python_info"),
    ):
        await switch(server, kind=kind)
        got, page = await ask(server, "GET", "/metrics")
        assert got == status
        assert part in (page if isinstance(page, bytes) else json.dumps(page).encode())
        await switch(server, kind=kind, clear=True)
    await switch(server, kind="frozen_metrics")
    assert await serves(server)
    assert (await ask(server, "GET", "/metrics"))[1] == before
    await switch(server, kind="none")
    assert (await ask(server, "GET", "/metrics"))[1] != before


@pytest.mark.parametrize(("kind", "path"), [("dead_metrics", "/metrics"), ("dead_health", "/health")])
async def test_a_dead_page_never_answers_while_requests_do(start: Start, kind: str, path: str) -> None:
    server = await start()
    await switch(server, kind=kind)
    wire = await Wire.open(server)
    wire.send("GET", path)
    assert await serves(server)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(wire.head(), 0.02)
    wire.close()


async def test_slow_metrics_and_failing_health(start: Start) -> None:
    server = await start()
    await switch(server, kind="slow_metrics", value=0.001)
    await switch(server, kind="unhealthy")
    assert (await ask(server, "GET", "/metrics"))[0] == 200
    assert (await ask(server, "GET", "/health"))[0] == 503


async def test_the_state_page_tells_the_truth(start: Start) -> None:
    server = await start()
    await serves(server)
    state = await switch(server, kind="hang")
    assert state["frozen"]
    assert state["output_tokens"] == 4
    assert state["faults"] == [{"kind": "hang", "value": None, "for": None}]


@pytest.mark.parametrize("body", [b"", b"[]", b'{"kind": "nope"}', b'{"kind": "slow"}', b'{"kind": "hang", "port": 1}'])
async def test_a_fault_that_cannot_be_is_refused_with_the_reason(start: Start, body: bytes) -> None:
    status, answer = await ask(await start(), "POST", "/sim/fault", body)
    assert status == 400
    assert answer["error"]
