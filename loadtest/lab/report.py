"""The report of a study: one Markdown page and one picture per scenario, and an index with every bar.

Losing cases stand in the same table as winning ones, with their intervals; a missing figure is shown as missing.
Everything is written from the results alone, so that a page can be read years later without the program.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from loadtest.lab.bars import Verdict, verdicts
from loadtest.lab.cells import number, percent, share, show, table
from loadtest.lab.conditions import conditions, repeats
from loadtest.lab.desked_report import desked_page, desked_picture, desked_table
from loadtest.lab.figures import WINDOW
from loadtest.lab.mixed_report import mixed_page, mixed_picture, mixed_table
from loadtest.lab.picture import Curve, attainment, dots, over_time
from loadtest.lab.plan import OURS
from loadtest.lab.study import CURVE_SEEDS, Result, Row

_MS, _US, _PERCENT = 1e3, 1e6, 1e2
_TOGETHER = 5  # windows: a share needs more requests than a percentile to be read
_EXPLAINED = """The gateway's own fleet table, predictor and policies in front of simulated engines, on the same
requests, seed by seed. g95 (g99) is the highest rate, in requests/s, at which 95 % (99 %) of requests keep both their
TTFT and their mean TPOT; ± is the 95 % interval over seeds (Student's t, ratios paired by seed). A bar is met when the
interval lies above the bar less one percent. No GPU was touched: the engines are a timing model fitted to published
measurements.""".splitlines()


def write(results: Sequence[Result], folder: Path, command: str) -> Path:
    """Write a page and a picture per result, and the index. Returns the index's path."""
    folder.mkdir(parents=True, exist_ok=True)
    for result in results:
        name = result.plan.name
        (folder / f"{name}.svg").write_text(picture(result), encoding="utf-8")
        (folder / f"{name}.md").write_text(page(result, command), encoding="utf-8")
    index = folder / "index.md"
    index.write_text(index_page(results, command), encoding="utf-8")
    return index


# -- one scenario


def page(result: Result, command: str) -> str:
    """The page of one scenario."""
    plan = result.plan
    bars = bars_table([("", verdict) for verdict in verdicts(result)])
    if result.mixed is not None:
        return mixed_page(result, bars, command)
    if result.desks is not None:
        return desked_page(result, bars, command)
    parts = [f"# {plan.title}", "", plan.about.strip(), "", *conditions(plan), ""]
    parts += [f"![{plan.title}]({plan.name}.svg)", ""]
    judged = verdicts(result)
    if judged:
        parts += ["## Bars", "", *bars_table([("", verdict) for verdict in judged]), ""]
    parts += ["## Bounds", "", *_bounds(result), ""]
    parts += ["## Policies", "", *policies_table(result), "", *_at_rate(result), ""]
    special = _special(result)
    parts += [*special, ""] if special else []
    parts += [f"Made by `{command}` in {result.seconds:.0f} s (less what was kept from before).", ""]
    return "\n".join(parts)


def _bounds(result: Result) -> list[str]:
    lines = [f"* B1, fluid capacity: {result.fluid:.4g} requests/s"]
    if result.reference is not None and result.reference.goals:
        goals = result.reference.mean("g95"), result.reference.mean("g99")
        lines.append(f"* B2, pooled server: g95 {show(goals[0])}, g99 {show(goals[1])}")
    elif result.reference is not None:
        lines.append(f"* B2, pooled server: attainment {show(result.reference.mean('attainment'), _PERCENT, ' %')}")
    if result.unbounded > 0:
        lines.append(f"* B4, cache ceiling: {result.ceiling:.1%} of prompt tokens (a cache without end: "
                     f"{result.unbounded:.1%}); B1 is given these hits")  # fmt: skip
    feasible = result.rows[0].mean("feasible")
    lines.append(f"* B0: {1 - feasible.value:.2%} of requests that no idle engine could serve in time are left out")
    return lines


def policies_table(result: Result) -> list[str]:
    """Every policy: g95, g99, shares of the bounds, and ours over it with the interval."""
    if result.mixed is not None:
        return mixed_table(result)
    if result.desks is not None:
        return desked_table(result)
    if not result.plan.study.search:
        return _fixed_table(result)
    pooled = result.reference.mean("g95").value if result.reference else math.nan
    head = ["policy", "g95, requests/s", "g99, requests/s", "of B1", "of B2", "ours / it, g95", "ours / it, g99"]
    rows = []
    for row in _ranked(result, "g95"):
        g95 = row.mean("g95")
        ratios = [result.ratio(goal, OURS, row.choice.name) for goal in ("g95", "g99")]
        ours_over = ["" if row.choice.name == OURS else show(ratio, digits=3) for ratio in ratios]
        shares = [share(g95.value, result.fluid), share(g95.value, pooled)]
        rows.append([_name(row), show(g95), show(row.mean("g99")), *shares, *ours_over])
    return table(head, rows)


def _fixed_table(result: Result) -> list[str]:
    head = ["policy", "attainment", "of the pooled server's", "ours / it"]
    rows = []
    for row in _ranked(result, "attainment"):
        to_pooled = result.ratio("attainment", row.choice.name, "pooled")
        ours = result.ratio("attainment", OURS, row.choice.name)
        rows.append([_name(row), show(row.mean("attainment"), _PERCENT, " %"), show(to_pooled, digits=3),
                     "" if row.choice.name == OURS else show(ours, digits=3)])  # fmt: skip
    return table(head, rows)


def _at_rate(result: Result) -> list[str]:
    head = ["policy", "attainment", "TTFT p50 / p95 / p99, ms", "TPOT p50 / p95 / p99, ms", "cached (of B4)",
            "TTFT error", "in 90 %", "TPOT error", "in 90 %", "decision, µs", "held"]  # fmt: skip
    rows = []
    for row in _ranked(result, "attainment"):
        cells = [_name(row), show(row.mean("attainment"), _PERCENT, " %")]
        for kind in ("ttft", "tpot"):
            cells.append(" / ".join(number(row.mean(f"{kind}_p{p}").value * _MS) for p in (50, 95, 99)))
        hit = row.mean("hit").value
        cells.append(f"{percent(hit)} ({share(hit, result.ceiling)})" if result.ceiling else "–")
        cells += [percent(row.mean(name).value)
                  for name in ("ttft_mape_500", "ttft_coverage", "tpot_mape", "tpot_coverage")]  # fmt: skip
        cells += [number(row.mean("cost").value * _US), percent(row.mean("held").value)]
        rows.append(cells)
    said = f"At {result.rate:.4g} requests/s, {share(result.rate, result.fluid)} of B1 (means over seeds; errors are "
    said += "mean absolute ones after the first 500 requests; a decision is snapshot, pick and reservation, median):"
    return [said, "", *table(head, rows)]


def _special(result: Result) -> list[str]:
    """What only some scenarios measure."""
    asked = {
        "ttft_mape_100": ("TTFT error, first 100", _PERCENT, " %"),
        "shift_before": ("before the shift", _PERCENT, " %"),
        "shift_during": ("300 after it", _PERCENT, " %"),
        "shift_after": ("the next 300", _PERCENT, " %"),
        "shift_steady": ("steady", _PERCENT, " %"),
        "shift_ratio": ("next 300 / steady", 1.0, ""),
        "first_ttft_p95_ratio": ("TTFT p95, first 10 s / without it", 1.0, ""),
        "slow_ttft_p95_ratio": ("TTFT p95 after 10 s / without it", 1.0, ""),
        "less_traffic": ("less traffic", _PERCENT, " %"),
        "oscillation": ("swing of its share / others'", 1.0, ""),
        "restored": ("traffic after recovery / others'", 1.0, ""),
    }
    shown = [name for name in asked if any(not math.isnan(row.mean(name).value) for row in result.rows)]
    if not shown:
        return []
    head = ["policy", *(asked[name][0] for name in shown)]
    cells = [[_name(row), *(show(row.mean(name), *asked[name][1:]) for name in shown)] for row in result.rows]
    return table(head, cells)


def _ranked(result: Result, figure: str) -> list[Row]:
    rows = sorted(result.rows, key=lambda row: -_or_low(row.mean(figure).value))
    return rows + ([result.reference] if result.reference else [])


def _or_low(value: float) -> float:
    return -1.0 if math.isnan(value) else value


def _name(row: Row) -> str:
    name = f"`{row.choice.name}`" if row.choice.name != "pooled" else "*pooled server (B2)*"
    return f"**{name}**" if row.choice.policy == OURS else name


# -- the picture


def picture(result: Result) -> str:
    """Attainment against rate; at one rate: over time where something changes, else a dot per policy."""
    plan = result.plan
    if result.mixed is not None:
        return mixed_picture(result)
    if result.desks is not None:
        return desked_picture(result)
    under = f"SLO {plan.slo.ttft:g} s{' + prefill' if plan.slo.unloaded else ''} / {plan.slo.tpot * _MS:g} ms"
    if plan.study.search:
        curves = [Curve(row.choice.name, row.curve, f"g95 {number(row.mean('g95').value)}")
                  for row in _ours_first(result, "g95")]  # fmt: skip
        pooled = result.reference.mean("g95").value if result.reference else math.nan
        subtitle = f"{under}; lines: mean of {min(CURVE_SEEDS, plan.study.seeds)}, g95: of {repeats(plan)}"
        return attainment(plan.title, subtitle, curves, {"B1 fluid": result.fluid, "B2 pooled": pooled})
    watched = [row for row in result.rows if row.windows is not None]
    subtitle = f"{under}; {result.rate:.4g} requests/s, {repeats(plan)}"
    if watched:
        return _over_time(result, subtitle)
    rows = [(row.choice.name, row.mean("attainment")) for row in _ours_first(result, "attainment")]
    wanted = [bar.at_least for bar in plan.study.bars if bar.figure == "attainment" and not bar.over]
    marks = {"bar": wanted[0]} if wanted else {}
    return dots(plan.title, subtitle, "requests within their SLO", rows, marks)


def _ours_first(result: Result, figure: str) -> list[Row]:
    ranked = [row for row in _ranked(result, figure) if row is not result.reference]
    return sorted(ranked, key=lambda row: row.choice.name != OURS)


def _over_time(result: Result, subtitle: str) -> str:
    about_traffic = any(bar.figure == "less_traffic" for bar in result.plan.study.bars)
    curves = []
    for row in result.rows:
        assert row.windows is not None
        values = row.windows.traffic(_TOGETHER) if about_traffic else row.windows.ttft_p95
        length = WINDOW * (_TOGETHER if about_traffic else 1)
        curves.append(Curve(row.choice.name, [((i + 0.5) * length, value) for i, value in enumerate(values)]))
    paces = [group.pace for group in result.plan.groups if len(group.pace) > 1]
    moments = {f"x {factor:g}": at for at, factor in paces[0][1:]}
    axis = f"TTFT p95 per {WINDOW:g} s of arrivals, s"
    if about_traffic:
        axis = f"its share of the requests of {_TOGETHER * WINDOW:g} s"
    return over_time(result.plan.title, f"{subtitle}; first seed", axis, curves, moments)


# -- the index


def index_page(results: Sequence[Result], command: str) -> str:
    """Every bar of every scenario, and what there is to read."""
    judged = [(result.plan.name, verdict) for result in results for verdict in verdicts(result)]
    counts = {word: sum(verdict.word == word for _, verdict in judged) for word in ("met", "missed", "open")}
    parts = [
        "# The lab: policies compared in virtual time",
        "",
        *_EXPLAINED,
        "",
        f"Of {len(judged)} bars {counts['met']} are met, {counts['missed']} missed, {counts['open']} left open.",
        "",
        "## Bars",
        "",
        *bars_table(judged),
        "",
        "## Scenarios",
        "",
        *table(["scenario", "", "B1", "our g95", "our attainment"], [_index_row(result) for result in results]),
        "",
        f"Made by `{command}`.",
        "",
    ]
    return "\n".join(parts)


def _index_row(result: Result) -> list[str]:
    plan, ours = result.plan, result.row(OURS)
    g95 = show(ours.mean("g95")) if ours and plan.study.search else ""
    kept = f"{show(ours.mean('attainment'), _PERCENT, ' %')} at {result.rate:.4g}/s" if ours else ""
    return [f"[{plan.name}]({plan.name}.md)", plan.title, f"{result.fluid:.4g}", g95, kept]


def bars_table(judged: Sequence[tuple[str, Verdict]]) -> list[str]:
    """Bars with figure and interval; the scenario's column only where one is given."""
    head = ["scenario", "figure", "wanted", "found", "95 % interval", "seeds", ""]
    rows = []
    for name, verdict in judged:
        bar, found = verdict.bar, verdict.figure
        who = "" if bar.policy == OURS else f" of `{bar.policy}`"
        against = f" (`{verdict.against}`)" if verdict.against else ""
        sure = f"{found.low:.3g} to {found.high:.3g}" if math.isfinite(found.low) else "–"
        word = {"met": "met", "missed": "**missed**", "open": "open"}[verdict.word]
        link = f"[{name}]({name}.md)" if name else ""
        rows.append([link, f"{bar.words}{against}{who}", bar.wanted, number(found.value), sure, str(found.count), word])
    if not any(row[0] for row in rows):
        head, rows = head[1:], [row[1:] for row in rows]
    return table(head, rows)
