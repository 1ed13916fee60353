"""A canary's state in words, from what the admin listener says of it: for commands, for reports, for `explain`.

Standard library only: the verbs run where the gateway does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from math import expm1
from typing import Any

View = Mapping[str, Any]

ANY = "-"
"""Stands for the only canary there is, where a name is wanted."""
PHASES = {
    "running": "running",
    "paused": "paused",
    "promoted": "promoted",
    "rolled_back": "rolled back",
}
OUTCOMES = {"promote": "promote", "roll_back": "roll back", "not_yet": "not yet"}
MEASURES = {
    "ttft": "time to first token",
    "tpot": "time per token",
    "errors": "failed requests",
    "truncated": "streams cut short",
    "slow": "first tokens far too late",
    "finish": "reasons of ending",
    "length": "length of answers",
}
SAYS = {"ok": "no worse", "worse": "worse", "unknown": "not known yet", "changed": "changed"}


def overview(views: Sequence[View]) -> str:
    """All canaries, a line each."""
    if not views:
        return "no canary is configured"
    return "\n".join(f"{view['name']}: {headline(view)}" for view in views)


def headline(view: View) -> str:
    """The state in one line."""
    phase = view["phase"]
    if phase == "promoted":
        return f"promoted: arm `{view['arm']}` has all requests since {moment(view['since'])}"
    if phase == "rolled_back":
        return f"rolled back at {moment(view['since'])}: {view['why']}"
    step = f"step {view['step'] + 1} of {len(view['steps'])}, {share(view['share'])} of the requests"
    return f"{PHASES[phase]} at {step}, says {OUTCOMES[view['outcome']]}: {view['why']}"


def status_lines(view: View) -> list[str]:
    """What `headway canary status NAME` prints."""
    lines = [f"{view['name']}: {headline(view)}"]
    if view["phase"] in ("running", "paused"):
        lines.append(f"at this step since {moment(view['since'])}, held for {span(view['hold'])} at least")
        if view["waits_for"] and view["why"] not in view["waits_for"]:
            lines.append(f"why it stays there: {view['waits_for']}")
        if view["needed"]:
            lines.append(f"about {view['needed']:,} more requests to `{view['arm']}` until it can be said")
    for arm in view["arms"]:
        lines.append(arm_line(arm))
    lines += [measure_line(measure) for measure in view["measures"]]
    if view["check"]:
        lines.append(f"A against A: {view['check']}")
    if not view["durable"]:
        lines.append("not on disk yet: a restart now would go on from what was written before")
    return lines


def arm_line(arm: View) -> str:
    """One arm's counts."""
    parts = [f"{arm['requests']:,} requests", f"{arm['failed']:,} failed", f"{arm['truncated']:,} cut short"]
    if arm["elsewhere"]:
        parts.append(f"{arm['elsewhere']:,} went to a fallback and count for nobody")
    role = " (canary)" if arm["canary"] else ""
    return f"  {arm['arm']}{role} -> {arm['pool']}, {share(arm['share'])}: {', '.join(parts)}"


def measure_line(measure: View) -> str:
    """One measure: the estimate, the interval that holds at all times, and what it comes to."""
    name = MEASURES.get(measure["name"], measure["name"])
    told = difference(measure["estimate"], measure["unit"])
    low, high = (difference(measure[end], measure["unit"]) for end in ("low", "high"))
    margin = difference(measure["margin"], measure["unit"])
    return f"  {name}: {told} [{low} to {high}], margin {margin}: {SAYS[measure['says']]}"


def explain_lines(route: View | None, views: Sequence[View]) -> list[str]:
    """What a record's `route` says of its arm, and how the canary of its rule is doing now (`views`: its model's)."""
    if not route or not route.get("arm"):
        return []
    arm, lines = route["arm"], []
    how = "forced by its header" if route.get("forced") else "drawn by its user" if route.get("user") else "drawn"
    drawn = route.get("drawn")
    number = "" if drawn is None or drawn != drawn else f" ({drawn:.4f} of 1)"
    lines.append(f"arm `{arm}` of {route['rule']}: {how}{number}")
    for view in views:
        if view["rule"] == route["rule"]:
            which = "it is the canary" if view["arm"] == arm else f"the canary beside it is `{view['arm']}`"
            lines.append(f"{which}; now {headline(view)}")
    return lines


# --- figures ---------------------------------------------------------------------------------------------------------


def share(value: float) -> str:
    """A share of the requests: 0.05 is 5 %."""
    return f"{value * 100:.3g} %"


def difference(value: float | None, unit: str) -> str:
    """A difference between the arms as people say it, `?` where it is not known.

    `ratio`: a logarithm of one, said in per cent. `points`: shares from 0 to 1, said in points of a hundred.
    """
    if value is None:
        return "?"
    shown = 100.0 * (expm1(min(value, 10.0)) if unit == "ratio" else value)
    digits = f"{shown:+.0f}" if abs(shown) >= 99.5 else f"{shown:+.1f}" if abs(shown) >= 9.95 else f"{shown:+.2g}"
    return f"{digits} %" if unit == "ratio" else f"{digits} pt"


def moment(unix: float) -> str:
    """A moment in UTC."""
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M:%S")


def span(seconds: float) -> str:
    """A duration in its two largest units."""
    left, parts = round(seconds), []
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, left = divmod(left, length)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"
