"""Endpoints that are the addresses of a name, asked for again and again.

The idea: the system's resolver, in a thread of its own that the process does not wait for, so a resolver that hangs for
half a minute delays nothing but the next answer. Which failures empty the set follows what they mean: a resolver that
cannot answer knows nothing, so the last good set stays; a name that does not exist may be a mistake of a minute, so the
set stays for a minute and is empty after it. The system's resolver does not tell how long an answer is good for; ask
as often as changes should be noticed.

Left to others: whether an address answers. Addresses no model server can have are left out (`base.is_forbidden`).
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable

from gateway.core.addresses import is_forbidden
from gateway.core.types import Endpoint
from gateway.discovery.base import Discovery, Report, endpoint_id

Resolve = Callable[[str, int], list[str]]
KEEP = 60.0
"""Seconds that the addresses of a name are kept after it ceased to exist."""
_GONE = frozenset(
    code for code in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None), getattr(socket, "EAI_ADDRFAMILY", None))
    if code is not None
)  # fmt: skip


def resolve(name: str, port: int) -> list[str]:
    """The name's IPv4 and IPv6 addresses, by the system's resolver. Raises socket.gaierror; may take long."""
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return sorted({str(address[0]) for *_, address in found})


class Dns(Discovery):
    """The addresses of `name` with `port`. `clock` and `resolve` are what tests replace."""

    def __init__(
        self,
        pool: str,
        engine: str,
        report: Report,
        *,
        name: str,
        port: int,
        every: float = 30.0,
        resolve: Resolve = resolve,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(pool, engine, report)
        self._name = name
        self._port = port
        self._every = every
        self._resolve = resolve
        self._clock = clock
        self._gone_since: float | None = None
        self._said = ""

    async def watch(self) -> AsyncGenerator[tuple[Endpoint, ...], None]:
        last: tuple[Endpoint, ...] | None = None
        while True:
            found = await self._ask()
            if found is None and last is None:
                found = ()
            if found is not None and found != last:
                last = found
                yield found
            # A failure is asked about again soon: a set that is kept grows old.
            await asyncio.sleep(self._every if self._said == "" else min(self._every, 5.0))

    async def _ask(self) -> tuple[Endpoint, ...] | None:
        """The name's endpoints; None when they stay as they were."""
        try:
            addresses = await _in_thread(lambda: self._resolve(self._name, self._port))
        except (OSError, UnicodeError) as error:
            return self._failed(error)
        self._gone_since = None
        allowed = [address for address in addresses if not is_forbidden(address)]
        left_out = sorted(set(addresses) - set(allowed))
        self._say(f"leads to {', '.join(left_out)}, which no model server can have" if left_out else "")
        return tuple(self._endpoint(address) for address in allowed)

    def _failed(self, error: Exception) -> tuple[Endpoint, ...] | None:
        if not isinstance(error, socket.gaierror) or error.errno not in _GONE:
            self._say(f"cannot be resolved, the last addresses stay: {error}")
            return None
        now = self._clock()
        if self._gone_since is None:
            self._gone_since = now
        if now - self._gone_since < KEEP:
            self._say(f"does not exist, its last addresses stay for {KEEP:.0f} s")
            return None
        self._say(f"has not existed for {KEEP:.0f} s, its addresses are dropped")
        return ()

    def _say(self, what: str) -> None:
        """Report a state once, when it begins."""
        if what != self._said and what:
            self.report(f"pool {self.pool}: name {self._name} {what}")
        self._said = what

    def _endpoint(self, address: str) -> Endpoint:
        host = f"[{address}]" if ":" in address else address
        url = f"http://{host}:{self._port}"
        return Endpoint(id=endpoint_id(url), url=url, pool=self.pool, engine=self.engine)


async def _in_thread(call: Callable[[], list[str]]) -> list[str]:
    """`call()` in a daemon thread: unlike a pool's, it keeps no exiting process waiting for a hanging resolver."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[str]] = loop.create_future()

    def settle(result: list[str] | None, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result or [])

    def work() -> None:
        result, failure = None, None
        try:
            result = call()
        except Exception as error:
            failure = error
        try:
            loop.call_soon_threadsafe(settle, result, failure)
        except RuntimeError:
            return  # the loop was closed while the resolver hung: nobody waits for the answer

    threading.Thread(target=work, name="headway-resolver", daemon=True).start()
    return await answer
