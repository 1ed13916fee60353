"""Tells clients that their job has ended, at the URL they gave: signed, repeated until somebody there says 2xx.

A callback makes this process connect where a client wants, so it is fenced in (server-side request forgery, OWASP A10):
only hosts that the operator has listed, asked again at each call; never an address that is not public, unless the host
itself is listed by name (a pattern such as `*.example.com` is not enough), and the address that was checked is the one
that is connected to; no redirects, no proxies of the environment, a bounded time, an answer nobody reads.

The body is one event as OpenAI's webhooks have them, `{"id", "object": "event", "type": "job.completed", "created_at",
"data"}`, where `data` is the job as `GET /v1/jobs/{id}` shows it (without its response where that is large:
`response_omitted`). With a secret it is signed as Standard Webhooks says (standardwebhooks.com): `webhook-id`,
`webhook-timestamp` (Unix seconds), `webhook-signature: v1,` and the Base64 of an HMAC-SHA256 over
`{id}.{timestamp}.{body}`. Its key is the secret's bytes; of a secret `whsec_…` what its Base64 stands for. The id stays
the same when a call is repeated: a receiver can tell.

A host that does not answer a tenant is asked by one of the tenant's calls in a while, and the others count as failed
meanwhile: one client's dead receiver keeps nobody else waiting for the places that it would fill with time-outs.

Left to others: which URL a client may give (`wishes`), keeping what is due (`Store.due_callbacks`).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import hmac
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from random import Random
from typing import Any

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult

from gateway import VERSION
from gateway.config.types import Jobs
from gateway.jobs.base import Store, StoreUnavailable
from gateway.jobs.insist import Insistence
from gateway.jobs.model import Call, Job
from gateway.jobs.objects import job_object
from gateway.jobs.wishes import host_of, is_listed

AT_ONCE = 8
AT_A_TIME = 2  # taken from the store: with each comes its response, which may be large
CLOSED, LONGEST_CLOSED = 2.0, 60.0  # seconds that a host is left alone which did not answer, longer each time
HOSTS = 1000  # that do not answer: more are not remembered
POLL = 1.0  # seconds between looks for calls that are due
TIMEOUT = aiohttp.ClientTimeout(total=15.0, connect=5.0)
LEASE = 60.0  # seconds for which a call is nobody else's
FIRST, LONGEST, SPREAD = 2.0, 3600.0, 0.25
TRIES = 16  # over about eight hours
LARGEST = 256 << 10  # bytes of a response that is sent along
_NAT64 = IPv6Address("64:ff9b::")
_PUBLIC = IPv6Network("2000::/3")  # what is handed out (RFC 4291, 2.4); old ways to write an IPv4 address lie beside it


class Forbidden(OSError):
    """This host may not be called, or not at this address."""


class _Silence:
    """A host that did not answer: closed for a while, then open for one."""

    __slots__ = ("_misses", "_until")

    def __init__(self) -> None:
        self._misses = 0
        self._until = 0.0

    def may_try(self, now: float) -> bool:
        if now < self._until:
            return False
        self._until = now + LONGEST_CLOSED  # for others, until this one knows
        return True

    def missed(self, now: float) -> None:
        self._until = now + min(LONGEST_CLOSED, CLOSED * 2.0 ** min(self._misses, 10))
        self._misses += 1


class Callbacks:
    """One per process. `rules` gives the configuration in use."""

    def __init__(self, store: Store, rules: Callable[[], Jobs], random: Random):
        self._store = store
        self._rules = rules
        self._random = random
        self._insist = Insistence(random)
        self._loop: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession | None = None
        self._news = asyncio.Event()
        self._calls: set[asyncio.Task[None]] = set()
        self._silent: dict[tuple[str, str], _Silence] = {}  # by tenant and host
        self.told: Counter[str] = Counter()  # how calls went: delivered, failed, forbidden, given_up

    def start(self) -> None:
        self._loop = asyncio.get_running_loop().create_task(self._work())

    def wake(self) -> None:
        """A job has ended."""
        self._news.set()

    async def stop(self) -> None:
        """A call that is cut off here is repeated when its lease has ended."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def _work(self) -> None:
        while True:
            try:
                self._news.clear()
                wanted = min(AT_A_TIME, AT_ONCE - len(self._calls))
                if wanted == 0 or await self._begin(wanted) < wanted:
                    await self._rest()
            except Exception as error:
                _report(error)
                await asyncio.sleep(POLL)

    async def _begin(self, wanted: int) -> int:
        """Begin calls that are due; how many."""
        calls = await self._insist.on(partial(self._due, wanted))
        for call in calls:
            job = call.job
            begun = asyncio.get_running_loop().create_task(
                self._call(job.id, job.callback or "", job.tenant, call.tries, event(job))
            )
            self._calls.add(begun)
            begun.add_done_callback(self._over)
        return len(calls)

    async def _due(self, wanted: int) -> list[Call]:
        at = time.time()  # of this try: by the end of an outage, a lease from its beginning would be over
        return await self._store.due_callbacks(wanted, at + LEASE, at)

    def _over(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        self._news.set()  # there is a place for another
        if not call.cancelled() and (error := call.exception()) is not None:
            _report(error)

    async def _rest(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL):
                await self._news.wait()

    async def _call(self, job_id: str, url: str, tenant: str, tries: int, body: bytes) -> None:
        how = await self._deliver(job_id, url, tenant, body)
        if how == "failed" and tries + 1 >= TRIES:
            how = "given_up"
        self.told[how] += 1
        again = time.time() + self._pause(tries) if how == "failed" else None
        try:
            await self._store.called(job_id, again)
        except StoreUnavailable:  # it is due again when its lease has ended: called twice rather than not at all
            self.told["repeated"] += 1

    def _pause(self, tries: int) -> float:
        return min(LONGEST, FIRST * 2.0**tries) * self._random.uniform(1.0 - SPREAD, 1.0 + SPREAD)

    async def _deliver(self, job_id: str, url: str, tenant: str, body: bytes) -> str:
        rules = self._rules()
        host = host_of(url)
        if host is None or not is_listed(host, rules.callbacks):
            return "forbidden"
        silent = self._silent.get((tenant, host))
        if silent is not None and not silent.may_try(time.monotonic()):
            return "failed"
        headers = headers_of(job_id, body, rules, int(time.time()))
        try:
            async with self._client().post(url, data=body, headers=headers, allow_redirects=False) as answer:
                status = answer.status
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            if isinstance(error.__cause__, Forbidden):
                return "forbidden"
            if len(self._silent) >= HOSTS:
                self._silent.clear()
            self._silent.setdefault((tenant, host), _Silence()).missed(time.monotonic())
            return "failed"
        self._silent.pop((tenant, host), None)
        if status == 410:
            return "given_up"
        return "delivered" if 200 <= status < 300 else "failed"

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(resolver=_Checked(lambda: self._rules().callbacks), use_dns_cache=False,
                                             limit=AT_ONCE, force_close=True)  # fmt: skip
            self._session = aiohttp.ClientSession(connector=connector, timeout=TIMEOUT, trust_env=False,
                                                  cookie_jar=aiohttp.DummyCookieJar())  # fmt: skip
        return self._session


class _Checked(AbstractResolver):
    """Names to addresses; those that may not be connected to are never handed on."""

    def __init__(self, hosts: Callable[[], tuple[str, ...]]):
        self._hosts = hosts

    async def resolve(self, host: str, port: int = 0,
                      family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:  # fmt: skip
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
        checked: list[ResolveResult] = []
        for of, _, proto, _, address in found:
            if host.lower() not in self._hosts() and is_internal(str(address[0])):
                raise Forbidden(f"{host} leads to the internal address {address[0]}")
            checked.append(ResolveResult(hostname=host, host=str(address[0]), port=port, family=of, proto=proto,
                                         flags=socket.AI_NUMERICHOST))  # fmt: skip
        return checked

    async def close(self) -> None:
        pass


def _report(error: BaseException) -> None:
    """A bug of ours: callbacks go on, and the log has the trace."""
    context = {"message": "calling back failed", "exception": error}
    asyncio.get_running_loop().call_exception_handler(context)


def is_internal(address: str) -> bool:
    """Whether an address is anything but a public host's, also where a public-looking one stands for it."""
    ip: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address):
        inside = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inside is None and int(ip) >> 32 == int(_NAT64) >> 32:
            inside = IPv4Address(int(ip) & 0xFFFFFFFF)
        if inside is not None:
            return is_internal(str(inside))
        if ip not in _PUBLIC:
            return True
    return not ip.is_global or ip.is_multicast


def event(job: Job) -> bytes:
    """What is sent."""
    omitted = job.result is not None and len(job.result.body) > LARGEST
    data: dict[str, Any] = job_object(replace(job, result=None) if omitted else job)
    if omitted:
        data["response_omitted"] = True
    return msgspec.json.encode({
        "id": f"evt_{job.id}", "object": "event", "type": f"job.{job.state}",
        "created_at": int(job.ended_at or job.created_at), "data": data,
    })  # fmt: skip


def headers_of(job_id: str, body: bytes, rules: Jobs, at: int) -> Mapping[str, str]:
    id_ = f"evt_{job_id}"
    headers = {"content-type": "application/json", "user-agent": f"headway/{VERSION}",
               "webhook-id": id_, "webhook-timestamp": str(at)}  # fmt: skip
    if rules.secret is not None:
        headers["webhook-signature"] = signature(rules.secret.reveal(), id_, at, body)
    return headers


def signature(secret: str, id_: str, at: int, body: bytes) -> str:
    """As Standard Webhooks has it."""
    key = secret.encode()
    if secret.startswith("whsec_"):
        with contextlib.suppress(binascii.Error):  # it may be a secret that only looks like one
            key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    made = hmac.new(key, b"%b.%d.%b" % (id_.encode(), at, body), hashlib.sha256).digest()
    return "v1," + base64.b64encode(made).decode()
