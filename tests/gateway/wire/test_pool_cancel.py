"""Cancelling who connects, at every moment of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.wire.pool import EndpointPool


class Transport:
    """Stands for a connection that was made."""

    def close(self) -> None: ...


@pytest.mark.parametrize("turns", range(6))
async def test_a_cancellation_that_comes_as_the_connection_does_is_not_swallowed(
    monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    loop = asyncio.get_running_loop()
    made: asyncio.Future[None] = loop.create_future()

    async def create_connection(factory: Any, *args: Any, **more: Any) -> tuple[Transport, object]:
        await made
        return Transport(), object()

    monkeypatch.setattr(loop, "create_connection", create_connection)
    connecting = asyncio.create_task(EndpointPool("http://127.0.0.1:1").connect())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    made.set_result(None)
    for _ in range(turns):
        await asyncio.sleep(0)
    if connecting.cancel():
        with pytest.raises(asyncio.CancelledError):
            await connecting
    else:
        assert connecting.done()
