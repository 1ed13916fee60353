"""Whether the recorded endpoint is the one that its policy chooses from the recorded table.

The idea: a record holds what the policy compared, so the choice can be made again from it: the lowest score. Policies
that let something else decide between nearly equal ones (chance, a warmer cache, fewer requests) may have chosen any of
those; with more than one the choice is confirmed, not determined. What a policy did not compare cannot be checked.

Left to others: what another policy would have chosen; that takes the engines (`lab`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from gateway.plan.records import Candidate, Past

EQUAL = 1e-6
# Of policies that take nearly equal scores as equal: by how much, as (share of the least, in the score's own unit) when
# their options do not say. From the policies' own constants and defaults; the others choose the lowest.
_NEAR: Mapping[str, tuple[float, float]] = {
    "predicted_latency": (0.05, 0.0),  # the warmest of those; without a warmer one of a thousandth
    "predicted_ttft": (0.02, 0.0),
    "prefix_affinity": (0.0, 1.0),
    "sticky_until_saturated": (0.0, 1.0),
}
_TIE: Mapping[str, int] = {"predicted_ttft": 0, "prefix_affinity": 1, "sticky_until_saturated": 1}
_LEAST = 0.001  # of the best score, for `predicted_latency` where nobody is warmer
_GUESSED = "predictions are not calibrated"
_WARMEST = "tokens to do at the warmest"
_DRAWN = {"dynamo_kv": "temperature", "llmd_predicted": "draw"}
"""Policies that draw by weight, and the option that makes them do so."""


def eligible(past: Past, options: Mapping[str, object]) -> list[str] | None:
    """The endpoints that the policy may have chosen from this table. None: it compared nothing, or nothing was kept.

    `options` are those of the pool's `pick`, as they were then.
    """
    scored = [one for one in past.candidates if one.score == one.score]
    if not past.chosen or not scored:
        return None
    name = past.policy
    if options.get(_DRAWN.get(name, "")):
        return _names(scored)
    if name == "power_of_two" or (name == "predicted_latency" and past.reason.startswith(_GUESSED)):
        return _of_two(past, scored)
    least = min(one.score for one in scored)
    share, own = _NEAR.get(name, (0.0, 0.0))
    tie = options.get("tie")
    if name in _TIE and isinstance(tie, int | float):
        share, own = (float(tie), 0.0) if _TIE[name] == 0 else (0.0, float(tie))
    slack = abs(least) * share + own + EQUAL
    near = [one for one in scored if one.score <= least + slack]
    return _names(_warmest(near, least) if name == "predicted_latency" else near)


def _names(candidates: Iterable[Candidate]) -> list[str]:
    return [one.endpoint for one in candidates]


def _warmest(near: list[Candidate], least: float) -> list[Candidate]:
    """The warmest of the nearly best, where that is warmer than the best; else those of a thousandth."""
    best = next(one for one in near if one.score == least)
    most = max(map(_cached, near))
    if most > _cached(best):
        return [one for one in near if _cached(one) == most]
    return [one for one in near if one.score <= least + abs(least) * _LEAST + EQUAL]


def _cached(one: Candidate) -> float:
    return one.cached if one.cached == one.cached else 0.0


def _of_two(past: Past, scored: list[Candidate]) -> list[str]:
    """Of the few that were drawn, the one with the fewest requests, and of those the fewest tokens left to do.

    A cache may have decided instead, by tokens; then all have a score, and the chosen one has no more than another.
    """
    if _WARMEST in past.reason:
        scores = [one.score for one in scored]
        return _names(one for one in scored if one.score < max(scores) or scores.count(one.score) > 1)
    key = min((one.score, _tokens(one)) for one in scored)
    return _names(one for one in scored if (one.score, _tokens(one)) == key)


def _tokens(one: Candidate) -> float:
    return one.tokens if one.tokens == one.tokens else math.inf
