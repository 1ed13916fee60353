"""The verb `explain`: why a request went where it went, in a table a person can read.

The idea: the gateway kept what its policy saw (`decisions`); this asks the admin listener for it and prints each
candidate with what was known of it, how old that was, what was predicted, of what its score was made and what it came
to, the choice and its reason, and what came of it. Standard library only: it runs where the gateway does not.

Left to others: keeping and serving the record (`decisions`, `admin`), what would have had to be different for another
choice (`what_if`).
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from gateway.what_if import TIMES, number, seconds, what_if
from gateway.words import CLOSED, WAITED_FOR

ADMIN = "http://127.0.0.1:9090"
TIMEOUT = 10.0

COLUMNS = (
    ("endpoint", "endpoint"),
    ("requests", "requests"),
    ("tokens", "tokens left"),
    ("prefill", "prefill left"),
    ("kv_used", "KV used"),
    ("age", "age"),
)
# How the terms are headed that mean the same with every policy; others by their own names.
TITLES = {"ttft": "first token", "tpot": "per token"}


class ExplainError(Exception):
    """The record could not be had. The message says what, where and what to do."""


class _NoRedirect(HTTPRedirectHandler):
    """The token goes to the address that was given and to no other."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("request_id", metavar="REQUEST_ID", help="the x-request-id of the answer, as in the log")
    parser.add_argument("--admin", metavar="URL", default=ADMIN, help="the admin listener (default: %(default)s)")
    parser.add_argument("--token", metavar="T", default=None, help="the admin token, where one is configured")
    parser.add_argument("--json", action="store_true", help="print the record as it is")


def run(args: Namespace) -> int:
    """Fetch and print. Returns the exit code: 0 done, 1 no such record or no answer, 2 bad usage."""
    address = urlsplit(args.admin)
    if address.scheme not in ("http", "https") or not address.netloc:
        print(f"explain: --admin wants a URL such as {ADMIN}, not {args.admin!r}", file=sys.stderr)
        return 2
    try:
        record = fetch(args.admin, args.request_id, args.token)
    except ExplainError as error:
        print(f"explain: {error}", file=sys.stderr)
        return 1
    print(json.dumps(record, indent=2) if args.json else render(record))
    return 0


def fetch(admin: str, request_id: str, token: str | None) -> dict[str, Any]:
    """The decision record as the admin listener serves it. Raises ExplainError."""
    request = Request(f"{admin.rstrip('/')}/api/decisions/{quote(request_id, safe='')}")
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    # The environment's proxy settings are for the outside, not for this.
    opener = build_opener(ProxyHandler({}), _NoRedirect)
    try:
        with opener.open(request, timeout=TIMEOUT) as answer:
            record = json.loads(answer.read())
    except HTTPError as error:
        raise ExplainError(_explain_status(error, request_id)) from None
    except (URLError, HTTPException, OSError) as error:
        why = getattr(error, "reason", error)
        raise ExplainError(
            f"no answer from the admin listener at {admin}: {why}. Is the gateway running, and is this its `admin:` "
            "address? Say another with --admin URL"
        ) from None
    except ValueError:
        record = None
    if not isinstance(record, dict) or record.get("v") != 1:
        raise ExplainError(f"{admin} answered, but not with a decision record: is it a Headway admin listener?")
    return record


def _explain_status(error: HTTPError, request_id: str) -> str:
    try:
        message = str(json.loads(error.read(64 << 10))["error"]["message"])
    except (ValueError, KeyError, TypeError, OSError):
        message = str(error.reason)
    if error.code == 404:
        return f"{request_id}: {message}"
    if error.code in (401, 403):
        return f"{message} (status {error.code}); give it with --token T"
    return f"the admin listener answered {error.code}: {message}"


# --- printing --------------------------------------------------------------------------------------------------------


def render(record: Mapping[str, Any]) -> str:
    """The record as text, ending without a line break."""
    parts = [_head(record), _routing(record), _admission(record), _table(record), _choice(record), _outcome(record)]
    return _printable("\n\n".join(part for part in parts if part))


def _head(record: Mapping[str, Any]) -> str:
    at = datetime.fromtimestamp(record["at"], UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    facts = {"model": record["model"], "pool": record["pool"], "arm": record["arm"], "class": record["class"],
             "policy": record.get("policy"), "seed": record["seed"]}  # fmt: skip
    told = ", ".join(f"{name} {value}" for name, value in facts.items() if value not in ("", None))
    return f"request {record['request_id']} at {at}\n{told}"


def _routing(record: Mapping[str, Any]) -> str:
    """Which rule and which arm; nothing where there is one way only."""
    lines = list(record.get("routing") or ())
    return "\n".join(lines) if len(lines) > 2 or (record.get("route") or {}).get("arm") else ""


def _admission(record: Mapping[str, Any]) -> str:
    """What it waited for, what was closed to it, and why it was refused; nothing where it just went."""
    told, lines = record.get("admission") or {}, []
    waited = record["outcome"].get("queued")
    if told.get("waited_for") and waited:
        names = ", then ".join(WAITED_FOR.get(what, what) for what in told["waited_for"])
        lines.append(f"waited {seconds(waited)} for {names}")
    for why, endpoints in told.get("closed", {}).items():
        lines.append(f"closed to it: {', '.join(endpoints)}, because {CLOSED.get(why, why)}")
    if told.get("displaced"):
        lines.append(f"taken off its endpoint to make room: {_times(told['displaced'])}")
    if told.get("refused"):
        lines.append(f"refused: {told['refused']['why']}")
    return "\n".join(lines)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _table(record: Mapping[str, Any]) -> str:
    candidates = record["candidates"]
    if not candidates:
        return ""
    terms = list(candidates[0].get("terms", ()))
    rows = [[*(title for _, title in COLUMNS), *(TITLES.get(name, name) for name in terms), "score"]]
    for one in sorted(candidates, key=lambda c: (c["score"] is None, c["score"] or 0.0)):
        known = [_cell(name, one[name]) for name, _ in COLUMNS]
        rows.append([*known, *(_cell(name, one["terms"][name]) for name in terms), _cell("score", one["score"])])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for at, row in enumerate(rows):
        mark = "->" if at and row[0] == record["chosen"] else "  "
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append(f"{mark} {'  '.join(cells)}")
    if record.get("left_out"):
        lines.append(f"   and {record['left_out']} more candidates that were not kept")
    return "\n".join(lines)


def _cell(name: str, value: object) -> str:
    if name == "age":
        return "never" if value is None else f"{value:.2f}s"
    if not isinstance(value, float | int):
        return "?" if value is None else str(value)
    if name in TIMES:
        return seconds(value)
    return f"{value:.1%}" if name == "kv_used" else number(value)


def _choice(record: Mapping[str, Any]) -> str:
    chosen = record["chosen"]
    if not chosen:
        return (
            f"not sent to any endpoint: {record['reason'] or record['outcome']['code'] or 'it never came to a choice'}"
        )
    lines = [f"chosen: {chosen}, because: {record['reason'] or 'no reason was noted'}"]
    lines.append(_promised(record))
    if record["outcome"]["tries"] > 1:
        lines.append(
            f"this is the choice of try {record['outcome']['tries']}; the endpoints tried before were left out"
        )
    lines.append(what_if(record))
    return "\n".join(line for line in lines if line)


def _promised(record: Mapping[str, Any]) -> str:
    """What the request was promised, and what was predicted for it there."""
    slo, predicted = record.get("slo") or {}, record.get("predicted") or {}
    told = []
    for name, title in (("ttft", "first token"), ("tpot", "per token")):
        parts = []
        if predicted.get(name) is not None:
            low, high = predicted.get(f"{name}_low"), predicted.get(f"{name}_high")
            within = f" (90 %: {seconds(low)} to {seconds(high)})" if low is not None and high is not None else ""
            parts.append(f"predicted {seconds(predicted[name])}{within}")
        if slo.get(name) is not None:
            parts.append(f"promised {seconds(slo[name])}")
        if parts:
            told.append(f"{title} {', '.join(parts)}")
    return "; ".join(told)


def _outcome(record: Mapping[str, Any]) -> str:
    outcome = record["outcome"]
    lines = [f"outcome: status {outcome['status']}, {outcome['ended']}{_bracket(outcome['code'])}"]
    times = _listed(outcome, (("queued", "queued"), ("overhead", "gateway"), ("ttft", "first token"),
                              ("ttft_there", "from the dispatch"), ("tpot", "per token"), ("duration", "in all")),
                    seconds)  # fmt: skip
    tokens = _listed(outcome, (("prompt_tokens", "prompt"), ("cached_tokens", "of it cached"),
                               ("completion_tokens", "written")), number)  # fmt: skip
    lines += [f"times:   {times}"] if times else []
    lines += [f"tokens:  {tokens}"] if tokens else []
    return "\n".join(lines)


def _bracket(code: str) -> str:
    return f" ({code})" if code else ""


def _listed(outcome: Mapping[str, Any], names: Sequence[tuple[str, str]], show: Any) -> str:
    return ", ".join(f"{title} {show(outcome[name])}" for name, title in names if outcome.get(name) is not None)


def _printable(text: str) -> str:
    """Nothing that a terminal would obey, whatever a model server or a client has put into a name."""
    return "".join(c if c == "\n" or c.isprintable() else repr(c)[1:-1] for c in text)
