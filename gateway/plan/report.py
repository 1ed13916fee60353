"""A plan as text for a terminal, and as JSON.

The idea: the sentences first, then tables: where requests move, what is newly refused, what no request hits, what the
lab foresees. Every figure in the text is in the JSON under the same words.

Left to others: making the plan (`verb`).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gateway.plan.limits import Denied
from gateway.plan.replay import WHY, Judged
from gateway.plan.values import ALL, Figure, Reached, Seen
from gateway.plan.words import percent
from gateway.what_if import seconds

if TYPE_CHECKING:
    from gateway.plan.lab import Foreseen
    from gateway.plan.verb import Plan

SHORT = 0.02  # the share of an arm's requests that its pool does not answer, from which it is worth a sentence
_LISTED = 20
_REFUSED = "refused"


def summary(plan: Plan) -> dict[str, Any]:
    """Everything that is printed, as JSON's values."""
    found: dict[str, Any] = {"old": plan.old.digest if plan.old is not None else None, "new": plan.new.digest,
                             "changes": plan.changes}  # fmt: skip
    if plan.history is None:
        return found
    judged = plan.replayed.judged
    found["against"] = {
        "source": plan.history.source, "requests": len(plan.history.requests), "seconds": plan.history.seconds,
        "replayed": len(judged), "without_a_route": dict(plan.unrouted), "unused": dict(plan.history.unused),
    }  # fmt: skip
    if plan.same:
        found["reproduced"] = _reproduced(plan)
    found["moved"] = moved(judged)
    found["newly_refused"] = newly_refused(judged, plan.replayed.denied)
    found["newly_let_in"] = sum(one.way is not None and one.past.code in WHY for one in judged)
    found["rules_never_hit"] = [
        {"model": model, "rule": rule} for model, counts in plan.replayed.counts.items()
        for rule, count in counts.items() if not count.used and not count.shadowed
    ]  # fmt: skip
    found["in_shadow"] = _in_shadow(plan)
    found["limits_in_shadow"] = _by_tenant(one for one in plan.replayed.denied if one.shadow)
    for name, foreseen in (("before", plan.before), ("after", plan.after)):
        if foreseen is not None:
            found[name] = _foreseen(foreseen)
    if plan.after is not None:
        found["cannot_be_met"] = [one._asdict() for one in plan.after.reached if 1.0 - one.there > SHORT and one.arm]
    found["measured"] = measured(plan)
    return found


def _reproduced(plan: Plan) -> dict[str, Any]:
    asked = plan.replayed.judged
    wrong = {request for request, _ in plan.replayed.mismatches}
    return {
        "decisions": len(asked), "reproduced": len(asked) - len(wrong), "endpoints_checked": plan.replayed.checked,
        "endpoints_determined": plan.replayed.determined,
        "mismatches": [{"request_id": request, "told": told} for request, told in plan.replayed.mismatches],
    }  # fmt: skip


def moved(judged: Iterable[Judged]) -> list[dict[str, Any]]:
    """Requests that would first be sent to another pool, by model, tenant and the two pools."""
    counts: Counter[tuple[str, str, str, str]] = Counter()
    for one in judged:
        route = one.past.route
        before = route.pools[0] if route is not None and route.pools else one.past.pool
        after = one.pool or _REFUSED
        if before and before != after:
            counts[one.past.model, one.past.tenant, before, after] += 1
    return [{"model": model, "tenant": tenant, "from": before, "to": after, "requests": count}
            for (model, tenant, before, after), count in counts.most_common()]  # fmt: skip


def newly_refused(judged: Iterable[Judged], found: Iterable[Denied]) -> list[dict[str, Any]]:
    """Requests that were sent to an endpoint and now would not be, by why, model and tenant."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for one in judged:
        if one.refused and one.past.tries:
            counts[WHY[one.refused], one.past.model, one.past.tenant] += 1
    for short in found:
        if not short.shadow and short.past.tries:
            counts[short.why, short.past.model, short.tenant] += 1
    return [{"why": why, "model": model, "tenant": tenant, "requests": count}
            for (why, model, tenant), count in counts.most_common()]  # fmt: skip


def _in_shadow(plan: Plan) -> list[dict[str, Any]]:
    counts = Counter((one.model.name, rule, one.pool) for one in plan.replayed.judged
                     if one.way is not None and one.model is not None for rule in one.way.shadowed)  # fmt: skip
    return [{"model": model, "rule": rule, "requests": count, "go_to": pool}
            for (model, rule, pool), count in counts.most_common()]  # fmt: skip


def _by_tenant(found: Iterable[Denied]) -> list[dict[str, Any]]:
    counts = Counter((one.tenant, one.why) for one in found)
    return [{"tenant": tenant, "why": why, "requests": count} for (tenant, why), count in counts.most_common()]


def measured(plan: Plan) -> float | None:
    """The share of recorded requests with a promise that kept it; a refusal did not."""
    assert plan.history is not None
    promised = [one for one in plan.history.requests if one.ttft_slo > 0.0 or one.tpot_slo > 0.0]
    kept = [one.is_whole and not one.ttft > one.ttft_slo and not one.tpot > one.tpot_slo for one in promised]
    return sum(kept) / len(kept) if kept else None


def _foreseen(found: Foreseen) -> dict[str, Any]:
    return {"engines": dict(found.engines), "unknown": dict(found.blind), "lines": [_line(one) for one in found.lines]}


def _line(one: Seen) -> dict[str, Any]:
    return {
        "model": one.model or "all", "pool": one.pool or "all", "requests": one.requests,
        "attainment": _figure(one.attainment), "refused": _figure(one.refused),
        "ttft": [_figure(figure) for figure in one.ttft], "tpot": [_figure(figure) for figure in one.tpot],
    }  # fmt: skip


def _figure(figure: Figure) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in figure]


def as_json(plan: Plan) -> str:
    return json.dumps(summary(plan), indent=2, ensure_ascii=False)


# --- text -------------------------------------------------------------------------------------------------------


def as_text(plan: Plan) -> str:
    """Paragraphs, ending without a line break."""
    found = summary(plan)
    parts = [_told_changes(plan)]
    if plan.history is not None:
        parts += [_told_source(found["against"]), _told_reproduced(found.get("reproduced")), _told_moved(found),
                  _told_rules(found), _told_lab(plan, found)]  # fmt: skip
    text = "\n\n".join(part for part in parts if part)
    return "".join(c if c == "\n" or c.isprintable() else repr(c)[1:-1] for c in text)


def _told_changes(plan: Plan) -> str:
    if plan.old is None:
        return "" if plan.history is not None else "the file is in order; say with --old what it is compared with"
    return "\n".join(plan.changes) or "nothing changes: the two configurations do the same"


def _told_source(against: Mapping[str, Any]) -> str:
    lines = [f"against {against['requests']} requests over {seconds(against['seconds'])} of {against['source']}"]
    left_out = Counter(against["unused"]) + Counter(
        {f"refused before enough of them was noted ({code})": n for code, n in against["without_a_route"].items()})
    lines += [f"  {count} not used: {why}" for why, count in left_out.most_common()]
    return "\n".join(lines)


def _told_reproduced(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    lines = [f"the same configuration again: {found['reproduced']} of {found['decisions']} decisions come out as "
             f"recorded; of {found['endpoints_checked']} endpoints chosen from a recorded table "
             f"{found['endpoints_determined']} leave no other choice"]  # fmt: skip
    lines += [f"  {one['request_id']}: {one['told']}" for one in found["mismatches"][:_LISTED]]
    more = len(found["mismatches"]) - _LISTED
    return "\n".join(lines + ([f"  and {more} more"] if more > 0 else []))


def _told_moved(found: Mapping[str, Any]) -> str:
    total = max(1, found["against"]["replayed"])
    rows = [["requests", "share", "model", "tenant", "from", "to"]]
    rows += [[str(one["requests"]), percent(one["requests"] / total), one["model"], one["tenant"] or "-", one["from"],
              one["to"]] for one in found["moved"][:_LISTED]]  # fmt: skip
    lines = ["would go elsewhere", *_table(rows)]
    if not found["moved"]:
        lines = ["no request would first be sent to another pool"]
    if found["newly_refused"]:
        rows = [["requests", "model", "tenant", "why"]]
        rows += [[str(one["requests"]), one["model"], one["tenant"] or "-", one["why"]]
                 for one in found["newly_refused"][:_LISTED]]  # fmt: skip
        lines += ["", "would newly be refused", *_table(rows)]
    if found["newly_let_in"]:
        lines += ["", f"{found['newly_let_in']} requests that were refused would be let in"]
    return "\n".join(lines)


def _told_rules(found: Mapping[str, Any]) -> str:
    lines = [f"never hit: rule {one['rule']} of model {one['model']}" for one in found["rules_never_hit"]]
    lines += [f"in shadow: rule {one['rule']} of model {one['model']} would have taken {one['requests']} requests that "
              f"go to {one['go_to']}" for one in found["in_shadow"]]  # fmt: skip
    lines += [f"in shadow: limits would have refused {one['requests']} requests of tenant {one['tenant']}: {one['why']}"
              for one in found["limits_in_shadow"]]  # fmt: skip
    return "\n".join(lines)


def _told_lab(plan: Plan, found: Mapping[str, Any]) -> str:
    after = plan.after
    if after is None:
        return ""
    lines = [f"engines of {pool}: {told}" for pool, told in after.engines.items() if pool not in after.blind]
    lines += [f"pool {pool} cannot be foreseen: {why}; name a `profile`" for pool, why in after.blind.items()]
    if found["measured"] is not None:
        lines.append(f"recorded: {percent(found['measured'])} kept their promise")
    before = {(one.model, one.pool): one for one in plan.before.lines} if plan.before is not None else {}
    rows = [["model", "pool", "requests", "promises kept", "before", "refused", "TTFT p50", "p95", "p99", "TPOT p50",
             "p95"]]  # fmt: skip
    rows += [_row(one, before.get((one.model, one.pool))) for one in after.lines]
    lines += ["", "foreseen (± is the 95 % interval over seeds)", *_table(rows)]
    lines += [_told_short(one) for one in after.reached if 1.0 - one.there > SHORT and one.arm]
    return "\n".join(lines)


def _row(one: Seen, before: Seen | None) -> list[str]:
    return [
        one.model if one.model != ALL else "all", one.pool if one.pool != ALL else "all", f"{one.requests:.0f}",
        _share(one.attainment), _share(before.attainment) if before is not None else "-", _share(one.refused),
        *(_time(figure) for figure in one.ttft), *(_time(figure) for figure in one.tpot[:2]),
    ]  # fmt: skip


def _share(figure: Figure) -> str:
    if math.isnan(figure.value):
        return "-"
    reach = (figure.high - figure.low) / 2.0
    return f"{100.0 * figure.value:.1f} %" + (f" ± {100.0 * reach:.1f}" if reach == reach else "")


def _time(figure: Figure) -> str:
    return "-" if math.isnan(figure.value) else seconds(figure.value)


def _told_short(one: Reached) -> str:
    return (f"cannot be met: of the {one.requests} requests of model {one.model} for {one.pool} ({one.arm}) "
            f"{percent(one.there)} are answered there, {percent(one.elsewhere)} elsewhere, {percent(one.refused)} are "
            "refused")  # fmt: skip


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows]  # fmt: skip
