"""What would have had to be different for another choice, told from a decision record.

The idea: the record has what each candidate scored and, where the policy gives them, the terms its score is made of.
The second best is set beside the chosen one: by how much it lost, which terms made the difference, and what would have
been enough. Nothing is assumed of a policy but the names of three terms that mean the same everywhere (`ttft`, `tpot`,
`cached`). A term that equals the score gives it its unit; others are its parts, and what they leave over is looked at
before anything is said of what would have been enough. Standard library only, as `explain`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

TIMES = ("ttft", "tpot")
"""Terms in seconds: what was predicted there, and no parts of a score."""
FIGURES = (*TIMES, "cached")
# What scores count where no term says it; a policy that is not named here is shown without a unit.
UNITS = {
    "least_tokens": "tokens",
    "least_inflight": "requests",
    "power_of_two": "requests",
    "prefix_affinity": "tokens",
    "sticky_until_saturated": "tokens",
    "uncached_tokens": "tokens",
    "dynamo_kv": "blocks",
    "predicted_ttft": "ttft",
}
EXACT = 1e-3  # share of a score that two sums of float32 may differ by
NEAR = 0.02  # share of a score within which policies let something else decide, so that a tie makes no herd

One = Mapping[str, Any]


def what_if(record: Mapping[str, Any]) -> str:
    """Lines of text, or an empty string where there was nothing to choose between."""
    chosen, candidates = record["chosen"], record["candidates"]
    others = [candidate for candidate in candidates if candidate["endpoint"] != chosen]
    if not others:
        return "it was the only candidate" if candidates and not record.get("left_out") else ""
    own = next((candidate for candidate in candidates if candidate["endpoint"] == chosen), None)
    scored = [candidate for candidate in others if candidate["score"] is not None]
    if own is None or own["score"] is None or not scored:
        return "this choice compared no scores: any candidate could have been next"
    rival = min(scored, key=lambda candidate: candidate["score"])
    gap, name = rival["score"] - own["score"], rival["endpoint"]
    unit = UNITS.get(record.get("policy", ""), "") if not own.get("terms") else _unit(own, rival)
    by = seconds(abs(gap)) if unit in TIMES else f"{number(abs(gap))} {unit}".strip()
    if gap == 0:
        return f"{name} scored the same: the tie was broken"
    if gap < 0:
        return f"{name} scored lower by {by}; something other than the score decided, see the reason"
    is_near = bool(own.get("terms")) and gap <= NEAR * abs(own["score"])
    lines = [f"second best: {name}, by {by}{'; so near, it could have been either' if is_near else _enough(unit)}"]
    if not unit:
        lines += _parts(own, rival, math.inf if is_near else gap)
    lines.append(_there(own, rival))
    return "\n".join(line for line in lines if line)


def _enough(unit: str) -> str:
    if unit == "ttft":
        return " of predicted first token; with that much less there, it would have been chosen"
    if unit == "tpot":
        return " of predicted time per token; with that much less there, it would have been chosen"
    return "; with that many fewer there, it would have been chosen" if unit else ""


def _unit(own: One, rival: One) -> str:
    """The term that is the score itself, if there is one."""
    name: str
    for name in own["terms"]:
        values = [one["terms"].get(name) for one in (own, rival)]
        if None not in values and all(
            abs(value - one["score"]) <= EXACT * abs(one["score"])
            for value, one in zip(values, (own, rival), strict=True)
        ):
            return name
    return ""


def _parts(own: One, rival: One, gap: float) -> list[str]:
    """Which parts of the score made the difference, and what would have been enough to make up for `gap`."""
    names = [name for name in own.get("terms", ()) if name not in FIGURES]
    if not names or any(one["terms"].get(name) is None for one in (own, rival) for name in names):
        return []
    parts = {name: (own["terms"][name], rival["terms"][name]) for name in names}
    rests = [one["score"] - sum(part[row] for part in parts.values()) for row, one in enumerate((own, rival))]
    adds_up = all(abs(rest) <= EXACT * abs(one["score"]) for rest, one in zip(rests, (own, rival), strict=True))
    price = 0.0 if adds_up else _price(own, rival, rests)
    differences = {name: its - mine for name, (mine, its) in parts.items()}
    if not adds_up:
        differences["its first token" if price else "the rest"] = rests[1] - rests[0]
    told = sorted((item for item in differences.items() if item[1]), key=lambda item: -item[1])
    lines = [f"the difference: {', '.join(f'{name} {value:+.3g}' for name, value in told)}"] if told else []
    enough = []
    most = max(names, key=lambda name: differences[name])
    if (adds_up or price) and parts[most][1] >= gap:  # a part is at least nothing
        enough.append(f"`{most}` {number(parts[most][1] - gap)} instead of {number(parts[most][1])} there")
    if price and gap / price < rival["terms"]["ttft"]:
        enough.append(f"its first token predicted {seconds(gap / price)} sooner")
    return [*lines, f"with {', or '.join(enough)}, it would have been chosen"] if enough else lines


def _price(own: One, rival: One, rests: list[float]) -> float:
    """What a second to the first token costs in scores, where what the parts leave over is just that; else 0."""
    times = [one["terms"].get("ttft") for one in (own, rival)]
    if not all(times) or min(rests) <= 0.0:
        return 0.0
    prices = [rest / time for rest, time in zip(rests, times, strict=True)]
    return prices[0] if abs(prices[0] - prices[1]) <= 10.0 * EXACT * prices[0] else 0.0


def _there(own: One, rival: One) -> str:
    """How the second best differed in what was predicted and known of it; empty where nothing was predicted."""
    if own.get("terms", {}).get("ttft") is None:
        return ""
    told = []
    for name, show, more, less in (
        ("ttft", seconds, "later first token", "sooner first token"),
        ("tpot", seconds, "more per token", "less per token"),
        ("cached", number, "more tokens of it cached", "fewer tokens of it cached"),
        ("prefill", number, "more prompt tokens waiting", "fewer prompt tokens waiting"),
        ("requests", number, "more requests", "fewer requests"),
    ):
        mine, its = (one["terms"].get(name, one.get(name)) for one in (own, rival))
        if mine is not None and its is not None and its != mine:
            by = show(abs(its - mine))
            words = more if its > mine else less
            if by == "1":
                words = words.replace("tokens", "token").replace("requests", "request")
            told.append(f"{by} {words}")
    return f"there: {', '.join(told)}" if told else ""


def number(value: float) -> str:
    """Three digits that matter for small figures, whole numbers for large ones."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def seconds(value: float) -> str:
    """A time as people say it."""
    return f"{value * 1000:.3g} ms" if value < 1.0 else f"{value:.2f} s"
