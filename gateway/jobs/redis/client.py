"""The connection to Redis: scripts by name, a lost connection tried again for a while, every failure one of ours.

All steps may be repeated: ids are made by the caller, and what depends on order is fenced. So a call whose connection
broke, or whose server is loading or silent, is simply made again until its patience is over. Redis's refusals to write
(read-only, out of memory, disk full) are told at once.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as NoAnswer

from gateway.jobs.base import StoreUnavailable
from gateway.jobs.redis.scripts import sources

CONNECTIONS = 32
FOR_CLIENTS = 1.0  # seconds a client is kept waiting for a store that does not answer
FOR_WORKERS = 5.0  # the same for work that is under way
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.25

Argument = str | bytes | int | float


class Client:
    """One Redis. Nothing is connected before the first call."""

    def __init__(self, url: str, prefix: str):
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS,
            timeout=FOR_WORKERS,
            socket_timeout=FOR_WORKERS,
            socket_connect_timeout=FOR_CLIENTS,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
        self.redis: Redis = Redis.from_pool(pool)
        self._pool = pool
        self.prefix = prefix
        self._keeps_all = False  # nobody has asked yet
        self._scripts: dict[str, AsyncScript] = {
            name: self.redis.register_script(source) for name, source in sources().items()
        }

    def key(self, *parts: str) -> str:
        return ":".join((self.prefix, *parts))

    async def run(self, script: str, *arguments: Argument, patience: float = FOR_CLIENTS) -> Any:
        """What the script returns. Raises `StoreUnavailable`."""
        return await self.again(lambda: self._scripts[script](keys=[self.prefix], args=arguments), patience)

    async def again(self, step: Any, patience: float = FOR_CLIENTS) -> Any:
        """Await `step()`, anew while Redis is away, until it has an answer. Raises `StoreUnavailable`."""
        pause = FIRST_PAUSE
        failed: Exception | None = None
        try:
            async with asyncio.timeout(patience):
                while True:
                    try:
                        if not self._keeps_all:
                            await self._make_sure()
                        return await step()
                    except (ConnectionLost, NoAnswer) as error:
                        failed = error
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
        except TimeoutError as error:
            raise StoreUnavailable(f"job store: Redis does not answer: {failed or 'no answer in time'}") from error
        except RedisError as error:
            if "READONLY" in str(error):
                # After a failover the old master may stand at the end of these connections for ever.
                await cast(Any, self._pool).disconnect(inuse_connections=False)
            raise StoreUnavailable(f"job store: Redis refuses: {error}") from error

    async def _make_sure(self) -> None:
        """A Redis that makes room by dropping any key is a cache: what was accepted would vanish without a word."""
        try:
            memory = await self.redis.info("memory")
        except ResponseError:  # it does not tell everybody
            memory = {}
        policy = str(memory.get("maxmemory_policy", ""))
        if policy.startswith("allkeys") and memory.get("maxmemory"):
            raise StoreUnavailable(f"job store: this Redis forgets (maxmemory-policy {policy}): noeviction is needed")
        self._keeps_all = True

    async def close(self) -> None:
        await self.redis.aclose()
        await self._pool.disconnect()
