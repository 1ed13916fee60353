"""What a plan is tried against: recorded requests, read from decision records, a running gateway, or a trace.

The idea: one value for each request that says what was asked, by whom, what was decided and what came of it, whatever
it was read from. A line that cannot be used is counted with its reason, not fatal: files are cut, and older gateways
wrote less. A trace has only arrivals and lengths, so its requests ask for the model that is named for all of them.

Left to others: what another configuration makes of them (`replay`), and the lab (`lab`).
"""

from __future__ import annotations

import gzip
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from gateway.admin_client import ask, is_url
from gateway.core.types import UNKNOWN

VERSION = 1
NO_RECORD = "not a line of JSON, or neither a decision record nor a line of a trace"
OTHER_VERSION = f"of another version than {VERSION}"
MOST = 20_000  # records; of more the newest are used
OLDER = f"older than the newest {MOST:,}"
NO_TIME = "without a time of arrival"


class PlanError(Exception):
    """The plan cannot be made. The message says of what, and what to do."""


@dataclass(frozen=True, slots=True)
class Route:
    """What routing looked at and what it said, as it was recorded (`records.Routed`); NaN or "" where not known.

    `share`: the canary's when its arm was drawn; `klass`: the class that was asked for, None where nobody noted it.
    """

    asked: str
    rule: str = ""
    arm: str = ""
    drawn: float = UNKNOWN
    forced: bool = False
    pools: tuple[str, ...] = ()
    path: str = ""
    key: str = ""
    session: str = ""
    user: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    prompt_tokens: float = UNKNOWN
    limit: int | None = None
    shadowed: tuple[str, ...] = ()
    share: float = UNKNOWN
    klass: str | None = None


class Candidate(NamedTuple):
    """One line of the table that an endpoint was chosen from: what can decide between endpoints. NaN: not known."""

    endpoint: str
    score: float
    tokens: float
    cached: float


@dataclass(frozen=True, slots=True, eq=False)
class Past:
    """One recorded request, equal to no other: clients choose ids, and may choose one twice.

    `at` is Unix time; seconds and tokens, NaN where not known. `candidates` is the table that its endpoint was chosen
    from, as the record has it.
    """

    id: str
    at: float
    model: str = ""
    pool: str = ""
    arm: str = ""
    klass: str = ""
    tenant: str = "anonymous"
    stream: bool = True
    policy: str = ""
    chosen: str = ""
    reason: str = ""
    candidates: tuple[Candidate, ...] = ()
    left_out: int = 0
    ttft_slo: float = UNKNOWN
    tpot_slo: float = UNKNOWN
    status: int = 200
    ended: str = "complete"
    code: str = ""
    tries: int = 1
    queued: float = 0.0
    ttft: float = UNKNOWN
    ttft_there: float = UNKNOWN
    tpot: float = UNKNOWN
    duration: float = UNKNOWN
    prompt_tokens: float = UNKNOWN
    cached_tokens: float = UNKNOWN
    completion_tokens: float = UNKNOWN
    route: Route | None = None

    @property
    def is_whole(self) -> bool:
        """Answered to its end, so that its lengths are known."""
        return self.ended == "complete" and self.status == 200

    @property
    def prompt(self) -> float:
        """Tokens of its prompt, as counted or else as estimated; NaN where nobody said."""
        if self.prompt_tokens > 0.0:
            return self.prompt_tokens
        return self.route.prompt_tokens if self.route is not None else UNKNOWN


@dataclass(slots=True)
class History:
    """Recorded requests in the order of their arrival, from where, and what could not be used.

    `lines` are the records as they were written (none of a trace's): the lab fits engines to them.
    """

    source: str
    requests: list[Past] = field(default_factory=list)
    unused: Counter[str] = field(default_factory=Counter)
    lines: list[bytes] = field(default_factory=list)
    is_trace: bool = False

    @property
    def seconds(self) -> float:
        """From the first arrival to the last."""
        return self.requests[-1].at - self.requests[0].at if self.requests else 0.0


def read(source: str, token: str | None = None, model: str = "") -> History:
    """The recorded requests of a file, or of the gateway whose admin listener `source` is.

    `model` is what the requests of a trace ask for. Raises PlanError and AdminError.
    """
    if is_url(source):
        return _of_lines(source, _fetched(source, token), model)
    try:
        with _open(source) as lines:
            return _of_lines(source, lines, model)
    except (OSError, EOFError) as error:
        raise PlanError(f"{source}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _open(source: str) -> Any:
    return gzip.open(source, "rb") if source.endswith(".gz") else Path(source).open("rb")


def _fetched(source: str, token: str | None) -> Iterator[bytes]:
    answer = ask(source, "/api/decisions", token, timeout=60.0)
    if not isinstance(answer, dict) or not isinstance(answer.get("decisions"), list):
        raise PlanError(f"{source} answered, but not with decision records: is it a Headway admin listener?")
    for record in answer["decisions"]:
        yield json.dumps(record).encode()


def _of_lines(source: str, lines: Iterable[bytes], model: str) -> History:
    found = History(source)
    for line in lines:
        if not line.strip():
            continue
        record = _parsed(line)
        if record is None:
            found.unused[NO_RECORD] += 1
        elif "arrival_s" in record:
            found.is_trace = True
            _keep(found, _of_trace(record, len(found.requests), model), None)
        elif not isinstance(record.get("outcome"), dict) or "v" not in record:
            found.unused[NO_RECORD] += 1
        elif record["v"] != VERSION:
            found.unused[OTHER_VERSION] += 1
        else:
            try:
                _keep(found, past_of(record), line)
            except (TypeError, ValueError, AttributeError, OverflowError):
                found.unused[NO_RECORD] += 1
    _trim(found, MOST)
    found.requests.sort(key=lambda one: one.at)
    if found.is_trace and not model:
        raise PlanError(f"{source} is a trace: say with --model NAME which model its requests ask for")
    if not found.requests:
        first_reason = next(iter(found.unused), "it is empty")
        raise PlanError(f"{source}: no recorded request can be used ({first_reason})")
    return found


def _keep(found: History, past: Past, line: bytes | None) -> None:
    if math.isnan(past.at):
        found.unused[NO_TIME] += 1
        return
    found.requests.append(past)
    if line is not None:
        found.lines.append(line if line.endswith(b"\n") else line + b"\n")


    if len(found.requests) >= 2 * MOST:
        _trim(found, MOST)


def _trim(found: History, most: int) -> None:
    """Records are written in the order in which requests ended: the first lines are the oldest."""
    if len(found.requests) > most:
        found.unused[OLDER] += len(found.requests) - most
        del found.requests[:-most], found.lines[:-most]


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def past_of(record: Mapping[str, Any]) -> Past:
    """A decision record, as the file or the admin listener has it, as a value.

    Raises TypeError, ValueError, AttributeError or OverflowError for one that no gateway wrote.
    """
    outcome, slo, route = record["outcome"], record.get("slo") or {}, record.get("route")
    table = tuple(map(_candidate, record.get("candidates") or ()))
    return Past(
        id=str(record.get("request_id", "")), at=number(record.get("at")), model=str(record.get("model", "")),
        pool=str(record.get("pool", "")), arm=str(record.get("arm", "")), klass=str(record.get("class", "")),
        tenant=str(record.get("tenant", "")), stream=bool(outcome.get("stream")), policy=str(record.get("policy", "")),
        chosen=str(record.get("chosen", "")), reason=str(record.get("reason", "")), candidates=table,
        left_out=int(record.get("left_out") or 0), ttft_slo=number(slo.get("ttft")), tpot_slo=number(slo.get("tpot")),
        status=int(outcome.get("status") or 0), ended=str(outcome.get("ended", "")), code=str(outcome.get("code", "")),
        tries=int(outcome.get("tries") or 0), route=_route(route) if isinstance(route, dict) else None,
        **{name: number(outcome.get(name)) for name in _FIGURES},
    )  # fmt: skip


_FIGURES = ("queued", "ttft", "ttft_there", "tpot", "duration", "prompt_tokens", "cached_tokens", "completion_tokens")


def _candidate(one: Mapping[str, Any]) -> Candidate:
    terms = one.get("terms") or {}
    return Candidate(str(one.get("endpoint", "")), number(one.get("score")), number(one.get("tokens")),
                     number(terms.get("cached")))  # fmt: skip


def _route(told: Mapping[str, Any]) -> Route:
    headers = told.get("headers")
    limit = told.get("limit")
    return Route(
        str(told.get("asked", "")), str(told.get("rule", "")), str(told.get("arm", "")), number(told.get("drawn")),
        bool(told.get("forced")), _words(told.get("pools")), str(told.get("path", "")), str(told.get("key", "")),
        str(told.get("session", "")), str(told.get("user", "")),
        {str(name): str(value) for name, value in headers.items()} if isinstance(headers, dict) else {},
        number(told.get("prompt_tokens")), limit if type(limit) is int else None, _words(told.get("shadowed")),
        number(told.get("share")), str(told["klass"]) if "klass" in told else None,
    )  # fmt: skip


def _words(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list | tuple) else ()


def _of_trace(row: Mapping[str, Any], place: int, model: str) -> Past:
    prompt = number(row.get("prompt_tokens"))
    session = str(row.get("session_id", ""))
    route = Route(model, session=session, user=session, prompt_tokens=prompt, path="/v1/chat/completions", klass="")
    return Past(f"trace-{place}", number(row.get("arrival_s")), model=model, tenant=str(row.get("tenant", "")),
                prompt_tokens=prompt, completion_tokens=number(row.get("output_tokens")), route=route)  # fmt: skip


def number(value: object) -> float:
    """NaN for whatever is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return UNKNOWN
    return float(value) if math.isfinite(value) else UNKNOWN
