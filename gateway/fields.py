"""Request header fields: which the gateway reads, which go upstream, and which are stopped here.

The latency a client asks for comes under our own names or under those that others have made common (llm-d's, and the
plain `x-slo-…`); of several the tightest counts.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import secrets
import time
from collections.abc import Callable, Container, Sequence
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network, ip_address

from gateway.config.scalars import LONGEST, parse_decimal, parse_duration
from gateway.core.errors import BadRequest
from gateway.core.types import UNKNOWN
from gateway.wire.head import RequestHead

_STOPPED = frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"te", b"trailer", b"upgrade",
     b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"http2-settings", b"expect",
     b"authorization", b"x-api-key", b"api-key", b"cookie", b"cookie2", b"accept-encoding", b"forwarded", b"x-real-ip",
     b"x-original-url", b"x-rewrite-url", b"x-http-method-override", b"x-request-id", b"x-slo-ttft-ms",
     b"x-slo-tpot-ms", b"endpoint-load-metrics-format", b"prefer", b"idempotency-key")
)  # fmt: skip
_STOPPED_PREFIXES = (b"x-headway-", b"x-gateway-", b"x-llm-d-", b"x-forwarded-", b"x-envoy-")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")

Networks = Sequence[IPv4Network | IPv6Network]
Slos = tuple[float, float]
"""Seconds to the first token, seconds per token after it; NaN where nothing is asked."""
NO_SLOS: Slos = (UNKNOWN, UNKNOWN)

DEADLINE = b"x-headway-deadline"
_TTFT = frozenset((b"x-headway-ttft-slo", b"x-slo-ttft-ms", b"x-llm-d-slo-ttft-ms"))
_TPOT = frozenset((b"x-headway-tpot-slo", b"x-slo-tpot-ms", b"x-llm-d-slo-tpot-ms"))
SLO_FIELDS = _TTFT | _TPOT


def request_ids() -> Callable[[], str]:
    """A maker of ids that are unique in practice across processes: a random part each process, then a count."""
    prefix, count = secrets.token_hex(6) + "-", itertools.count(1)
    return lambda: prefix + str(next(count))


def own_request_id(head: RequestHead) -> str | None:
    """The client's request id, if it is one that can be kept."""
    given = head.named.get(b"x-request-id")
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given.decode("ascii")
    return None


def presented_key(head: RequestHead) -> bytes | None:
    """The client's key as it was sent, from whichever of the three headers."""
    named = head.named
    authorization = named.get(b"authorization")
    if authorization is not None and authorization[:7].lower() == b"bearer ":
        return authorization[7:].strip()
    return named.get(b"x-api-key") or named.get(b"api-key")


def asked_slos(head: RequestHead) -> Slos:
    """The latency that the client asks for. Raises BadRequest, naming the header, for a value that is none."""
    if SLO_FIELDS.isdisjoint(head.named):
        return NO_SLOS
    ttft = [_seconds(name, value) for name, value in head.fields if name in _TTFT]
    tpot = [_seconds(name, value) for name, value in head.fields if name in _TPOT]
    return min(ttft, default=UNKNOWN), min(tpot, default=UNKNOWN)


def asked_deadline(head: RequestHead) -> float:
    """When the answer must be whole, on the monotonic clock; NaN: whenever. Raises BadRequest for what is no time.

    It is given as a duration from now or as a time of day (RFC 3339). One that has passed is for others to refuse.
    """
    value = head.named.get(DEADLINE)
    if value is None:
        return UNKNOWN
    text = value.decode("latin-1")
    try:
        if "T" not in text and "t" not in text:
            return time.monotonic() + parse_duration(text)
        at = datetime.fromisoformat(text.upper())
        if at.tzinfo is None:
            raise ValueError(f"no time zone in {text[:40]!r}")
    except ValueError as error:
        raise BadRequest(f"the header {DEADLINE.decode()}: {error}; a duration such as 30s or a time such as "
                         "2030-01-31T12:00:00Z is expected", code="invalid_value") from None  # fmt: skip
    return time.monotonic() + at.timestamp() - time.time()


def tighter(promised: float | None, asked: float) -> float:
    """What holds for a request: a client may ask for less time than is promised, not for more. NaN: nothing holds."""
    if promised is None or asked < promised:
        return asked
    return promised


def _seconds(name: bytes, value: bytes) -> float:
    text = value.decode("latin-1")
    try:
        if not name.endswith(b"-ms"):
            return parse_duration(text)
        seconds = parse_decimal(text) / 1000.0
    except ValueError as error:
        expected = "milliseconds, such as 250" if name.endswith(b"-ms") else "a duration, such as 250ms or 2s"
        raise BadRequest(f"the header {name.decode()}: {error}; {expected}", code="invalid_value") from None
    if not 0.0 < seconds <= LONGEST:
        raise BadRequest(f"the header {name.decode()}: more than 0 milliseconds are expected", code="invalid_value")
    return seconds


def digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


class Verdicts(dict[bytes, bool]):
    """Whether a field may pass, by its lower-case name; judged once, since everybody sends the same few names."""

    def __init__(self, stopped: Container[bytes], prefixes: tuple[bytes, ...]):
        super().__init__()
        self._stopped = stopped
        self._prefixes = prefixes

    def __missing__(self, name: bytes) -> bool:
        passes = name not in self._stopped and not name.startswith(self._prefixes)
        if len(self) < 1000:
            self[name] = passes
        return passes


class Forwarder:
    """Makes the header lines that go upstream."""

    def __init__(self, trusted: Networks):
        self._trusted = trusted
        self._is_trusted: dict[str, bool] = {}
        self._passes = Verdicts(_STOPPED, _STOPPED_PREFIXES)

    def lines(self, head: RequestHead, peer: str, request_id: str) -> bytes:
        """Every field that may pass, then our own: the request's id and whom we serve."""
        passes = self._passes
        connection = head.named.get(b"connection")
        if connection is None or connection == b"keep-alive" or connection == b"close":
            lines = b"".join([b"%b: %b\r\n" % field for field in head.fields if passes[field[0]]])
        else:
            hops = {word.strip() for word in connection.lower().split(b",")}
            lines = b"".join([b"%b: %b\r\n" % field for field in head.fields
                              if passes[field[0]] and field[0] not in hops])  # fmt: skip
        if not peer:  # a job's request comes from nobody who is there
            return b"%bx-request-id: %b\r\n" % (lines, request_id.encode())
        return b"%bx-request-id: %b\r\nx-forwarded-for: %b\r\n" % (
            lines, request_id.encode(), self._for(head, peer)
        )  # fmt: skip

    def _for(self, head: RequestHead, peer: str) -> bytes:
        before = head.named.get(b"x-forwarded-for")
        if before and self._trusted and self._trusts(peer):
            return b"%b, %b" % (before, peer.encode())
        return peer.encode()

    def _trusts(self, peer: str) -> bool:
        known = self._is_trusted.get(peer)
        if known is None:
            try:
                address = ip_address(peer)
            except ValueError:
                return False
            known = any(address in network for network in self._trusted)
            if len(self._is_trusted) < 10_000:
                self._is_trusted[peer] = known
        return known
