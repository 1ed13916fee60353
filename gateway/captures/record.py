"""One captured request and its answer as a line of JSON: in the gateway's own layout, or in SageMaker's.

The gateway's own:

    {"v": 1, "request_id": …, "at": "2026-01-31T12:00:00.250Z", "model": …, "pool": …, "arm": …, "class": …,
     "tenant": …, "endpoint": …, "path": …, "status": 200, "ended": "complete", "finish": "stop", "stream": true,
     "ttft": …, "duration": …, "prompt_tokens": …, "completion_tokens": …,
     "request": {"type": "application/json", "bytes": 512, "data": {…}},
     "answer": {"type": "text/event-stream", "bytes": 9000, "data": "data: {…}\\n\\n…", "truncated": true}}

`data` is the JSON itself, or text (a stream's events as they came), or with `"encoding": "base64"` bytes; it is null
where there is a `left_out`, which says why. SageMaker's layout is what its data capture writes and its model monitor
reads, a line for each request: `captureData` with `endpointInput` and `endpointOutput`, `eventMetadata` and
`eventVersion`; a body is always a string there, and its `encoding` is JSON, CSV or BASE64.

Left to others: what may be kept of a body (`redacted`, `stream`), when, and where to (`captures`, `writer`).
"""

from __future__ import annotations

import json
import math
import uuid
from base64 import b64encode
from datetime import UTC, datetime
from typing import Any, NamedTuple

from gateway.captures.redacted import Redactor, dumped, mended, parse_json, selected
from gateway.captures.redaction import Pause, Turns, no_pause
from gateway.captures.stream import Stream
from gateway.config.types import Capture
from gateway.records import RequestRecord


class Part(NamedTuple):
    """A body as it was caught: `data` is its beginning where it `is_cut`; `kind` its content type, `size` its bytes."""

    kind: str
    data: bytes
    size: int
    is_cut: bool


class Shown(NamedTuple):
    """A body as it may be kept: a JSON value, text, or base64; `left_out` says why there is nothing."""

    encoding: str  # json, text or base64
    data: Any
    left_out: str = ""


def line(rule: Capture, record: RequestRecord, finish: str, request: Part, answer: Part) -> bytes:
    """The record as one line, with its end. Runs in the writer's thread."""
    pause = Turns().pause
    layout = _sagemaker if rule.layout == "sagemaker" else _own
    made = layout(record, finish, (request, shown(request, rule, pause)), (answer, shown(answer, rule, pause)))
    # In ASCII: half of a surrogate pair, which a body may have, is no UTF-8.
    return json.dumps(made, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"


def shown(part: Part, rule: Capture, pause: Pause = no_pause) -> Shown:
    """What of a body may be kept."""
    kind = part.kind.partition(";")[0].strip().lower()
    if not part.data:
        return Shown("text", "")
    if kind.endswith("json") or part.data.lstrip()[:1] in (b"{", b"["):
        value = _value_of(part, pause)  # many clients do not say that what they send is JSON, or say something else
        if isinstance(value, dict | list):
            value = selected(value, rule.fields) if rule.fields else value
            return Shown("json", Redactor(pause).value(value) if rule.redact else value)
    if kind == "text/event-stream":
        return _stream_shown(part, rule, pause)
    if not _is_text(kind):
        return _bytes_shown(part, rule)
    if rule.fields:
        return Shown("text", None, "it has no fields")
    text = part.data.decode("utf-8", "replace")
    return Shown("text", Redactor(pause).text(text) if rule.redact else text)


def _stream_shown(part: Part, rule: Capture, pause: Pause) -> Shown:
    stream = Stream(part.data.decode("utf-8", "replace"), part.is_cut, pause)
    if rule.fields:
        stream.select(rule.fields)
    if rule.redact:
        stream.redact()
    return Shown("text", stream.text)


def _value_of(part: Part, pause: Pause) -> Any:
    """The JSON of a body, as much as there is of it; None where it is none."""
    text = part.data.decode("utf-8", "replace")
    try:
        return parse_json(mended(text, pause) if part.is_cut else text)
    except (ValueError, RecursionError):
        return None


def _bytes_shown(part: Part, rule: Capture) -> Shown:
    if rule.redact or rule.fields:
        return Shown("base64", None, "it is not text")
    return Shown("base64", b64encode(part.data).decode("ascii"))


def _is_text(kind: str) -> bool:
    return kind.startswith("text/") or "json" in kind or kind.endswith("xml")


# --- layouts ---------------------------------------------------------------------------------------------------------


def _own(record: RequestRecord, finish: str, request: tuple[Part, Shown], answer: tuple[Part, Shown]) -> dict[str, Any]:
    return {
        "v": 1, "request_id": record.request_id, "at": _time(record.at, "milliseconds"), "model": record.model,
        "pool": record.pool, "arm": record.arm, "class": record.klass, "tenant": record.tenant,
        "endpoint": record.endpoint, "path": record.path, "status": record.status, "ended": record.ended,
        "finish": finish, "stream": record.stream, "ttft": _known(record.ttft), "duration": _known(record.duration),
        "prompt_tokens": _known(record.prompt_tokens), "completion_tokens": _known(record.completion_tokens),
        "request": _own_part(*request), "answer": _own_part(*answer),
    }  # fmt: skip


def _own_part(part: Part, body: Shown) -> dict[str, Any]:
    made: dict[str, Any] = {"type": part.kind, "bytes": part.size, "data": body.data}
    if body.encoding == "base64" and body.data is not None:
        made["encoding"] = "base64"
    if part.is_cut:
        made["truncated"] = True
    if body.left_out:
        made["left_out"] = body.left_out
    return made


def _sagemaker(record: RequestRecord, finish: str, request: tuple[Part, Shown],
               answer: tuple[Part, Shown]) -> dict[str, Any]:  # fmt: skip
    return {
        "captureData": {
            "endpointInput": _sagemaker_part("INPUT", *request),
            "endpointOutput": _sagemaker_part("OUTPUT", *answer),
        },
        "eventMetadata": {
            "eventId": str(uuid.uuid4()),
            "inferenceId": record.request_id,
            "inferenceTime": _time(record.at, "seconds"),
        },
        "eventVersion": "0",
    }


def _sagemaker_part(mode: str, part: Part, body: Shown) -> dict[str, Any]:
    data, encoding = body.data, "BASE64"
    if body.encoding == "json":
        data, encoding = dumped(data), "JSON"
    elif body.encoding == "text":
        encoding = "CSV" if part.kind.lower().startswith("text/csv") else "JSON" if "json" in part.kind.lower() else ""
        if not encoding and data is not None:  # of text it knows these two; the rest it keeps as bytes
            data, encoding = b64encode(data.encode("utf-8", "replace")).decode("ascii"), "BASE64"
    made = {"observedContentType": part.kind, "mode": mode, "data": data, "encoding": encoding or "BASE64"}
    if part.is_cut:
        made["truncated"] = True
    return made


def _time(at: float, precision: str) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec=precision).replace("+00:00", "Z")


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
