"""What an engine's adapter is: where it shows its load and health, what its numbers and its errors mean.

The idea: an adapter holds knowledge, not code. Most of one is class attributes; `load` turns the wanted samples into a
`Load`, `errors` is a table of what the engine says when it is full or leaving. A 503 of an engine that is full is not a
reason to eject it, and the 500 of one that drains is a reason to do so at once, though its health check still passes.

Absent is never zero: what an engine must say and does not say raises, and the scrape has failed; what it may leave out
is NaN. Left to others: fetching pages (`gateway/prober.py`), acting on a meaning (`gateway/proxy.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from enum import Enum
from typing import Any, ClassVar
from urllib.parse import urlsplit, urlunsplit

from backends.orca import parse_orca
from backends.samples import Samples, ScrapeError
from gateway.core.types import UNKNOWN, Endpoint, Load

# More requests than this at one server is a broken gauge.
MAX_REQUESTS = 1e6
# How much of an error's body is read to learn what it means.
MAX_ERROR = 16 << 10


class Meaning(Enum):
    """What an answer's status and body say about the endpoint."""

    OK = "ok"
    CLIENT = "client"  # the client's own fault: passed on, nothing is held against the endpoint
    FAILED = "failed"  # try elsewhere, count a failure
    SATURATED = "saturated"  # full but well: try elsewhere, do not eject
    LEAVING = "leaving"  # draining: try elsewhere, eject


class Backend:
    """One kind of model server. Subclass it in a file of its own and add one line to the registry.

    The keyword arguments of `__init__` are its options. An instance holds no state of any endpoint, so one serves a
    pool. `labels: {metrics_url: …}` or `{metrics_port: …}` on an endpoint says where its metrics are, if not where
    they usually are.
    """

    name: ClassVar[str]
    wanted: ClassVar[tuple[str, ...]] = ()
    """The metric names that `load` reads: nothing else of the page is parsed."""
    metrics_path: str | None = "/metrics"
    """None: it shows no load."""
    metrics_port: int | None = None
    """None: the endpoint's own port."""
    health_path: str = "/health"
    errors: ClassVar[tuple[tuple[int, str, Meaning], ...]] = ()
    """(status, pattern searched in the error's message, meaning); the first match counts, before the general rule."""
    injects_usage: ClassVar[bool] = False
    """Whether it knows `stream_options.include_usage`."""
    orca_header: ClassVar[str | None] = None
    """The value of the request header `endpoint-load-metrics-format` that asks it for a load report."""
    unsaid_priority: ClassVar[int | None] = None
    """The `priority` of a request that names none; None: it is worth saying always."""
    errs_in_ok_body: ClassVar[bool] = False
    """Whether a 200 can be an error, so that `in_body_error` has to be asked."""

    def priority(self, own: int, highest: int) -> int | None:
        """What to say as `priority` for a class of priority `own` among others up to `highest` (ours: higher first).

        None: it knows no priorities.
        """
        return None

    def metrics_url(self, endpoint: Endpoint) -> str | None:
        """Where this endpoint's metrics are; None if it has none."""
        if self.metrics_path is None:
            return None
        if url := endpoint.labels.get("metrics_url"):
            return url
        port = endpoint.labels.get("metrics_port")
        moved = int(port) if port and port.isdigit() else self.port_of_metrics(endpoint)
        if moved is None:
            return endpoint.url + self.metrics_path
        return at_port(endpoint.url, moved, self.metrics_path)

    def port_of_metrics(self, endpoint: Endpoint) -> int | None:
        """The port of the metrics where no label tells; None: the endpoint's own, below its own path."""
        return self.metrics_port

    def load(self, samples: Samples, now: float) -> Load:
        """What the page says. Raises ScrapeError where a series that must be there is not, or cannot be true."""
        raise ScrapeError(f"{self.name} servers show no metrics", "missing")

    def meaning(self, status: int, body: bytes) -> Meaning:
        """What an answer with this status and body says. Cheap for anything that is not an error."""
        if status < 300:
            return Meaning.OK
        if self.errors:
            message = error_message(body)
            for code, pattern, meaning in self.errors:
                if code == status and re.search(pattern, message):
                    return meaning
        return Meaning.CLIENT if 400 <= status < 500 else Meaning.FAILED

    def event_meaning(self, payload: bytes) -> Meaning:
        """What an error event says (the JSON after `data:`): its own `code` is the status, else 500."""
        error = _parse_object(payload).get("error")
        code = error.get("code") if isinstance(error, dict) else None
        status = code if isinstance(code, int) and 400 <= code <= 599 else 500
        return self.meaning(status, payload)

    def in_body_error(self, body: bytes) -> bool:
        """Whether the body of a 200 is an error; `meaning` of a 500 tells whose. Ask only where `errs_in_ok_body`."""
        return False

    def orca(self, value: str, now: float) -> Load | None:
        """A load report in the response header `endpoint-load-metrics`; None if it says nothing of use.

        It is partial: what it does not name is NaN and has not changed.
        """
        said = parse_orca(value)
        report = Load(
            at=now,
            waiting=_in_range(said, ("num_requests_waiting",), MAX_REQUESTS),
            kv_used=_in_range(said, ("kv_cache_usage_perc", "kv_cache_utilization"), 1.0),
            kv_capacity=_in_range(said, ("max_token_capacity",), 1e12),
        )
        known = (report.waiting, report.kv_used, report.kv_capacity)
        return report if any(value == value for value in known) else None


def at_port(url: str, port: int, path: str) -> str:
    """`path` on another port of the same host."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return urlunsplit((parts.scheme, f"{host}:{port}", path, "", ""))


def port_of(url: str) -> int:
    """The port of a URL, its scheme's own where it names none."""
    parts = urlsplit(url)
    return parts.port or (443 if parts.scheme == "https" else 80)


# --- reading samples: for the engines --------------------------------------------------------------------------------


def count(samples: Samples, *names: str, **labels: str) -> float:
    """Requests: the total of the first of these names that is there. Raises ScrapeError if none is, or if absurd."""
    name = next((name for name in names if name in samples), names[0])
    value = samples.total(name, **labels)
    if value > MAX_REQUESTS:
        raise ScrapeError(f"{name} says {value:g} requests", "bad_value")
    return value


def share(samples: Samples, *names: str, read: Callable[..., float] = Samples.highest, **labels: str) -> float:
    """A share 0..1 by the first name that has one, else NaN. One outside 0..1 is counted as bad, not believed."""
    for name in names:
        value = optional(samples, name, read=read, **labels)
        if value <= 1.0:
            return value
        if value > 1.0:
            samples.bad += 1
    return UNKNOWN


def optional(samples: Samples, name: str, *, read: Callable[..., float] = Samples.total, **labels: str) -> float:
    """The value, or NaN where it is not there or cannot be true."""
    try:
        return read(samples, name, **labels)
    except ScrapeError:
        return UNKNOWN


def pair(samples: Samples, *names: tuple[str, str]) -> tuple[float, float]:
    """Prompt tokens and the cached part of them, by the first pair of counters that is whole; else NaN, NaN."""
    for whole, part in names:
        if samples.has(whole) and samples.has(part):
            return samples.total(whole), samples.total(part)
    return UNKNOWN, UNKNOWN


def error_message(body: bytes) -> str:
    """The text of an error, whatever its shape: `error.message`, `error`, `message` or `detail`; else the body."""
    body = body[:MAX_ERROR]
    found = _parse_object(body)
    error = found.get("error", found.get("detail", found.get("message")))
    if isinstance(error, dict):
        error = error.get("message")
    return error if isinstance(error, str) else body.decode("utf-8", "replace")


def _parse_object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _in_range(said: dict[str, float], names: tuple[str, ...], most: float) -> float:
    return next((said[name] for name in names if 0.0 <= said.get(name, UNKNOWN) <= most), UNKNOWN)
