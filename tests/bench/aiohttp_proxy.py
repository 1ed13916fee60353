"""What one writes first: a streaming reverse proxy of aiohttp's server and client, round robin, no other logic.

It is the yardstick of the bars: the same language, the same event loop (uvloop), the same upstreams.

    python -m tests.bench.aiohttp_proxy PORT UPSTREAM_PORT...
"""

from __future__ import annotations

import itertools
import sys

import uvloop
from aiohttp import ClientSession, ClientTimeout, TCPConnector, web

HOP_BY_HOP = frozenset(("connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host"))


async def make(ports: list[int]) -> web.Application:
    turns = itertools.cycle([f"http://127.0.0.1:{port}" for port in ports])
    session = ClientSession(
        connector=TCPConnector(limit=0, keepalive_timeout=60), timeout=ClientTimeout(total=None), auto_decompress=False
    )

    async def relay(request: web.Request) -> web.StreamResponse:
        headers = {k: v for k, v in request.headers.items() if k.lower() not in HOP_BY_HOP}
        body = await request.read()
        async with session.request(request.method, next(turns) + request.path_qs, headers=headers, data=body) as answer:
            reply = web.StreamResponse(status=answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in HOP_BY_HOP:
                    reply.headers[name] = value
            await reply.prepare(request)
            async for chunk in answer.content.iter_any():
                await reply.write(chunk)
            await reply.write_eof()
            return reply

    app = web.Application(client_max_size=64 << 20)
    app.router.add_route("*", "/{path:.*}", relay)

    async def close(_: web.Application) -> None:
        await session.close()

    app.on_cleanup.append(close)
    return app


if __name__ == "__main__":
    uvloop.install()
    web.run_app(make([int(port) for port in sys.argv[2:]]), host="127.0.0.1", port=int(sys.argv[1]), access_log=None)
