"""What was measured of each request, and the figures made of many.

Latencies count from the moment a request *should* have started (its intended time), so a generator or a
server that falls behind cannot hide the wait it causes (coordinated omission; G. Tene, wrk2). The same
figures from the actual start are kept beside them. A request with a failure counts in no latency figure
and never in goodput; the failures are counted by reason.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

PERCENTILES = (50, 90, 99)
LAG_LIMIT = 0.010  # s: above this p99 of start lag the generator, not the server, shaped the figures
CPU_LIMIT = 0.80  # share of a core, likewise


@dataclass(slots=True)
class Record:
    """One request. Moments are seconds on the run's clock, 0 = start of the run; None: never happened."""

    intended: float
    started: float
    ended: float
    first: float | None = None
    last: float | None = None
    failure: str = ""
    status: int = 0
    tokens: int = 0
    asked_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    endpoint: str = ""
    tenant: str = ""
    resent: bool = False
    gaps: array[float] = field(default_factory=lambda: array("d"))

    @property
    def ok(self) -> bool:
        """Answered whole."""
        return not self.failure

    @property
    def lag(self) -> float:
        """How late the generator itself started it, s."""
        return max(0.0, self.started - self.intended)

    @property
    def ttft(self) -> float | None:
        """Seconds from the intended start to the first content."""
        return None if self.first is None else self.first - self.intended

    @property
    def tpot(self) -> float | None:
        """Mean seconds per token after the first; None with fewer than two tokens."""
        if self.first is None or self.last is None or self.tokens < 2:
            return None
        return (self.last - self.first) / (self.tokens - 1)

    @property
    def e2e(self) -> float:
        """Seconds from the intended start to the end of the answer."""
        return self.ended - self.intended


@dataclass(frozen=True, slots=True)
class Slo:
    """What a good request keeps; seconds. None: not part of it."""

    ttft: float | None = None
    tpot: float | None = None

    def met(self, record: Record) -> bool:
        """Answered whole and in time. One token has no TPOT to miss."""
        if not record.ok:
            return False
        ttft, tpot = record.ttft, record.tpot
        if self.ttft is not None and (ttft is None or ttft > self.ttft):
            return False
        return self.tpot is None or tpot is None or tpot <= self.tpot


@dataclass(frozen=True, slots=True)
class Generator:
    """How the load generator itself fared. CPU is in shares of one core."""

    seconds: float
    cpu_mean: float
    cpu_peak: float  # busiest second
    connections: int


def quantiles(values: Sequence[float] | np.ndarray[Any, Any]) -> dict[str, float] | None:
    """mean, p50, p90, p99 and max of the values; None when there are none."""
    data = np.asarray(values, dtype=float)
    if not data.size:
        return None
    made = {"mean": float(data.mean()), "max": float(data.max())}
    made.update({f"p{p}": float(v) for p, v in zip(PERCENTILES, np.percentile(data, PERCENTILES), strict=True)})
    return made


def summarize(records: Sequence[Record], slo: Slo, generator: Generator) -> dict[str, Any]:
    """The figures of a run, as plain values for JSON. Latencies in seconds, rates per second."""
    good = [record for record in records if record.ok]
    first_start = min((record.started for record in records), default=0.0)
    wall = max(max((record.ended for record in records), default=0.0) - first_start, 1e-9)
    met = sum(slo.met(record) for record in records)
    return {
        "requests": len(records),
        "ok": len(good),
        "failed": dict(Counter(record.failure for record in records if not record.ok).most_common()),
        "resent": sum(record.resent for record in records),
        "slo": {"ttft": slo.ttft, "tpot": slo.tpot},
        "slo_met": met,
        "slo_share": met / len(records) if records else 0.0,
        "rate": {
            "offered": _rate([record.intended for record in records]),
            "started": _rate([record.started for record in records]),
            "completed": len(good) / wall,
            "goodput": met / wall,
        },
        "tokens": {
            "prompt": sum(record.prompt_tokens for record in good),
            "cached": sum(record.cached_tokens for record in good),
            "output": sum(record.tokens for record in good),
            "short_answers": sum(record.tokens < record.asked_tokens for record in good),
            "output_per_s": sum(record.tokens for record in good) / wall,
        },
        "latency": _latency(records, good),
        "endpoints": _by_endpoint(good),
        "generator": asdict(generator),
    }


def _rate(times: Sequence[float]) -> float:
    """Events per second between the first and the last."""
    span = max(times) - min(times) if times else 0.0
    return (len(times) - 1) / span if span > 0 else 0.0


def _latency(records: Sequence[Record], good: Sequence[Record]) -> dict[str, dict[str, float] | None]:
    gaps = [np.frombuffer(record.gaps) for record in good if record.gaps]
    return {
        "ttft": quantiles([r.ttft for r in good if r.ttft is not None]),
        "ttft_from_start": quantiles([r.ttft - r.lag for r in good if r.ttft is not None]),
        "tpot": quantiles([r.tpot for r in good if r.tpot is not None]),
        "gap": quantiles(np.concatenate(gaps) if gaps else ()),
        "e2e": quantiles([r.e2e for r in good]),
        "start_lag": quantiles([r.lag for r in records]),
    }


def _by_endpoint(good: Iterable[Record]) -> dict[str, dict[str, Any]]:
    groups: dict[str, list[Record]] = {}
    for record in good:
        groups.setdefault(record.endpoint, []).append(record)
    return {
        name: {
            "requests": len(group),
            "tokens": sum(record.prompt_tokens + record.tokens for record in group),
            "ttft": quantiles([record.ttft for record in group if record.ttft is not None]),
        }
        for name, group in sorted(groups.items())
        if name
    }


def warnings(summary: dict[str, Any]) -> list[str]:
    """Reasons not to trust the figures of a run; empty when there are none."""
    found = []
    lag = summary["latency"]["start_lag"]
    if lag is not None and lag["p99"] > LAG_LIMIT:
        found.append(
            f"the generator started requests late: start lag p99 {lag['p99'] * 1e3:.1f} ms "
            f"(limit {LAG_LIMIT * 1e3:.0f} ms); use a lower rate or a less busy machine"
        )
    cpu = summary["generator"]["cpu_peak"]
    if cpu > CPU_LIMIT:
        found.append(
            f"the generator used {cpu:.0%} of a core in its busiest second (limit {CPU_LIMIT:.0%}); "
            "its own delays are in the figures"
        )
    refused = sum(count for reason, count in summary["failed"].items() if reason.startswith("generator"))
    if refused:
        found.append(f"{refused} requests were never sent: too many connections open (--max-open)")
    return found
