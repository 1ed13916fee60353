"""Load reports in response headers (ORCA), in the two forms engines write.

    JSON {"named_metrics": {"num_requests_waiting": 2, "kv_cache_usage_perc": 0.4}}
    TEXT named_metrics.num_requests_waiting=2, named_metrics.kv_cache_usage_perc=0.4

The binary form is not asked for. Source: Open Request Cost Aggregation (xDS, `OrcaLoadReport`), as vLLM and Triton
write it. Left to others: which names mean what (`base`).
"""

from __future__ import annotations

import json

MAX_HEADER = 4096
_PREFIX = "named_metrics."


def parse_orca(value: str) -> dict[str, float]:
    """The named metrics of a header value, names without prefix. Empty for what cannot be read; never raises."""
    if len(value) > MAX_HEADER:
        return {}
    form, _, rest = value.strip().partition(" ")
    if form.upper() == "JSON":
        return _parse_json(rest)
    if form.upper() == "TEXT":
        return _parse_text(rest)
    return {}


def _parse_json(text: str) -> dict[str, float]:
    try:
        report = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    named = report.get("named_metrics") if isinstance(report, dict) else None
    if not isinstance(named, dict):
        return {}
    return {
        name: float(number)
        for name, number in named.items()
        if isinstance(number, float) or (type(number) is int and abs(number) < 1 << 53)
    }


def _parse_text(text: str) -> dict[str, float]:
    found = {}
    for part in text.split(","):
        name, _, number = part.strip().partition("=")
        try:
            found[name.removeprefix(_PREFIX)] = float(number)
        except ValueError:
            continue
    return found
