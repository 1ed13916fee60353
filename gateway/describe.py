"""What operators are shown of a running gateway, in JSON's terms: null where a figure is not known, secrets masked."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping

from gateway.config.types import Key, Secret
from gateway.core.fleet import Fleet
from gateway.core.prediction import PredictorReport
from gateway.core.types import Endpoint
from gateway.gauges import Filled, Queued
from gateway.grants import Reading

MASK = "…"
# Names that cannot be fields of a class, by what they are called there.
_SPELT = {"klass": "class", "as_": "as"}


def describe_predictor(report: PredictorReport) -> dict[str, object]:
    """How good a pool's predictions have been of late; null where there was nothing to judge by."""
    return {
        "calibrated": report.calibrated,
        "samples": report.samples,
        "ttft": {"error": _finite(report.ttft_error), "coverage": _finite(report.ttft_coverage)},
        "tpot": {"error": _finite(report.tpot_error), "coverage": _finite(report.tpot_coverage)},
    }


def describe_endpoint(
    fleet: Fleet, row: int, endpoint: Endpoint, now: float, pace: float = math.nan
) -> dict[str, object]:
    """What is known of the endpoint in a row, in JSON's terms. `since` is seconds ago.

    `pace` is how many times as long as predicted for its pool it takes; null where nobody predicts.
    `said` is the server's own word and `said.age` how old it is; null where it said nothing.
    """
    health = fleet.health(row)
    return {
        "id": endpoint.id,
        "url": _mask_url(endpoint.url),
        "engine": endpoint.engine,
        "labels": dict(endpoint.labels),
        "state": health.state.value,
        "why": health.reason,
        "since": _finite(now - health.since),
        "weight": health.weight(now),
        "pace": _finite(pace),
        "leaving": fleet.is_leaving(row),
        "inflight": int(fleet.ours[row]),
        "inflight_tokens": _finite(float(fleet.prefill[row] + fleet.output[row])),
        "limit": endpoint.max_concurrency,
        "said": {
            "waiting": _finite(float(fleet.waiting[row])),
            "running": _finite(float(fleet.running[row])),
            "kv_used": _finite(float(fleet.kv_used[row])),
            "kv_capacity": _finite(float(fleet.kv_capacity[row])),
            "age": _finite(now - float(fleet.at[row])),
        },
    }


def describe_queues(queues: Mapping[str, Queued], filled: Filled | None) -> dict[str, object]:
    """The queues of one pool by class, and what its filler does."""
    found: dict[str, object] = {
        klass: {"waiting": queue.waiting, "oldest": _finite(queue.oldest), "drain_tokens_per_s": _finite(queue.drain),
                "inflight": queue.inflight}
        for klass, queue in queues.items()
    }  # fmt: skip
    if filled is None:
        return {"classes": found}
    return {"classes": found, "filler": {
        "inflight": filled.inflight, "displaced": filled.aborted, "correction": _finite(filled.correction),
        "use": _finite(filled.use), "slowdown": {"ttft": _finite(filled.ttft), "tpot": _finite(filled.tpot)},
    }}  # fmt: skip


def describe_reading(reading: Reading) -> dict[str, object]:
    """What one tenant's keys with the same limits have left, and what they have used."""
    return {
        "tenant": reading.tenant, "keys": reading.keys, "limits": masked(reading.limits),
        "requests_left": reading.requests_left, "tokens_left": reading.tokens_left,
        "tokens_today": reading.spent_today, "running": reading.running, "admitted": reading.admitted,
        "refused": dict(reading.refused), "tokens_charged": reading.charged, "of_them_estimated": reading.estimated,
    }  # fmt: skip


_KEY_DIGEST = re.compile(r"(sha256:[0-9a-f]{6})[0-9a-f]{58}")  # of a client's key, in a rule


def masked(value: object) -> object:
    """The configuration as JSON: every secret is `…`, of a client's key only the start of its hash is shown."""
    if isinstance(value, Secret):
        return MASK
    if isinstance(value, Key):
        shown = {f.name: masked(getattr(value, f.name)) for f in dataclasses.fields(value) if f.name != "digest"}
        return {"key": f"sha256:{value.digest.hex()[:6]}{MASK}", **shown}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {_SPELT.get(f.name, f.name): masked(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): masked(item) for name, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(str(item) for item in value)
    if isinstance(value, list | tuple):
        return [masked(item) for item in value]
    if isinstance(value, float):
        return _finite(value)
    if isinstance(value, str):
        return _KEY_DIGEST.sub(rf"\1{MASK}", _mask_url(value))
    return value if value is None or isinstance(value, bool | int) else str(value)


def _mask_url(text: str) -> str:
    """A URL without its user and password."""
    return re.sub(r"(?<=://)[^/@\s]*@", f"{MASK}@", text)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
