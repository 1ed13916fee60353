"""What a client may wish for work that is done later: that it is, its class, "this one, once", and whom to call.

All of it is said in request headers, and all of it is checked before anything is stored. A callback may only go to a
host that the operator has listed, so that nobody makes this process call what only it can reach.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from gateway.classes import asked_class, may_use
from gateway.config.types import Config, Key
from gateway.core.errors import BadRequest
from gateway.wire.head import RequestHead

CALLBACK = b"x-headway-callback"
DEADLINE = b"x-headway-deadline"
_ASYNC = re.compile(rb'(?:^|,)[ \t]*respond-async[ \t]*(?:=[ \t]*(?:""|))?(?:;[^,]*)?(?:,|$)', re.IGNORECASE)
_ONCE = re.compile(rb"[!-~]{1,255}")
_URL = re.compile(r"https?://[!-~]{1,2040}")  # printable, without spaces; nothing a header or a log could trip over
_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9_-]|\.(?!\.))*|[0-9a-f:.]+")  # a name or an address, nothing to decode
_WRITTEN_ODDLY = re.compile(r"[\\@#<>\"'{}|^`]")  # two readers might disagree on which host these leave


def wants_async(head: RequestHead) -> bool:
    """Whether the client prefers an answer later (RFC 7240: `Prefer: respond-async`, among others or alone)."""
    return any(name == b"prefer" and _ASYNC.search(value) for name, value in head.fields)


def job_class(config: Config, key: Key, head: RequestHead) -> str:
    """The class of work that is done later: the one asked for, else the operator's for jobs. Raises BadRequest."""
    name = asked_class(config, head.named) or (config.jobs.klass if config.jobs is not None else "")
    if name not in config.classes:
        raise BadRequest(f"there is no class {name[:64]!r}", code="unknown_class", param="x-headway-class")
    if not may_use(key, name):
        raise BadRequest(f"this key may not use the class {name!r}", status=403, code="class_not_allowed",
                         param="x-headway-class")  # fmt: skip
    return name


def idempotency_key(head: RequestHead) -> str | None:
    """The client's word for "this one, once"; None without. Raises BadRequest for what is none."""
    said = head.named.get(b"idempotency-key")
    if said is None:
        return None
    if _ONCE.fullmatch(said) is None:
        raise BadRequest("Idempotency-Key is 1 to 255 printable characters without spaces", code="invalid_value",
                         param="idempotency-key")  # fmt: skip
    return said.decode("ascii")


def no_single_wishes(head: RequestHead) -> None:
    """Raises BadRequest for what is said of single requests and would do nothing for a batch."""
    for name in (DEADLINE, CALLBACK):
        if name in head.named:
            raise BadRequest(f"{name.decode()} is for single requests; a batch has its completion_window",
                             code="invalid_value", param=name.decode())  # fmt: skip


def callback(head: RequestHead, hosts: Sequence[str]) -> str | None:
    """The URL to call when the work has ended; None without. Raises BadRequest where it may not be called."""
    said = head.named.get(CALLBACK)
    if said is None:
        return None
    url = said.decode("latin-1")
    host = host_of(url)
    if host is None:
        raise _refused("a callback is an http or https URL with a host, without user or fragment", "invalid_value")
    if not is_listed(host, hosts):
        raise _refused(f"callbacks to {host[:100]!r} are not allowed here", "callback_not_allowed", 403)
    return url


def host_of(url: str) -> str | None:
    """The host of a URL that could be called, in lower case; None where it is no such URL."""
    if _URL.fullmatch(url) is None or _WRITTEN_ODDLY.search(url):
        return None
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    host = (parts.hostname or "").lower()
    return host if port != 0 and _HOST.fullmatch(host) else None


def is_listed(host: str, hosts: Sequence[str]) -> bool:
    """`*.example.com` stands for every host below it. An address is listed only as itself."""
    if host in hosts:
        return True
    if _is_address(host):
        return False
    return any(name.startswith("*.") and host.endswith(name[1:]) and len(host) >= len(name) for name in hosts)


def _is_address(host: str) -> bool:
    """Also in the spellings that the system's resolver takes for an IPv4 address (`127.1`, `0x7f000001`)."""
    try:
        ip_address(host)
    except ValueError:
        return re.fullmatch(r"(?:0x[0-9a-f]*|[0-9]+)", host.rstrip(".").rpartition(".")[2]) is not None
    return True


def _refused(message: str, code: str, status: int = 400) -> BadRequest:
    return BadRequest(message, status=status, code=code, param=CALLBACK.decode())
