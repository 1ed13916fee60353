"""The page and the picture of a study of the desk: per load, what was kept, what was refused, and how."""

from __future__ import annotations

import math

from loadtest.lab.cells import number, percent, show, table
from loadtest.lab.conditions import conditions
from loadtest.lab.picture import dots
from loadtest.lab.study import Result

_MS, _PERCENT = 1e3, 1e2


def desked_page(result: Result, judged: list[str], command: str) -> str:
    """The page of one scenario; `judged` is its table of bars."""
    plan, rules = result.plan, result.plan.admission
    words = f"* class: at most {rules.limit:,} wait, {rules.wait:g} s, order {rules.order}"
    if rules.tenants:
        words += f"; {rules.tenants} tenants, the first asks for {rules.greedy:g} x its share"
    if rules.deadlines[1] > 0.0:
        words += f"; deadlines {rules.deadlines[0]:g} to {rules.deadlines[1]:g} s after arrival, evenly"
    parts = [f"# {plan.title}", "", plan.about.strip(), "", *conditions(plan), words, ""]
    parts += [f"![{plan.title}]({plan.name}.svg)", ""]
    if judged:
        parts += ["## Bars", "", *judged, ""]
    parts += ["## Figures", "", f"100 % is B1, {result.fluid:.4g} requests/s.", "", *desked_table(result), ""]
    parts += [f"Made by `{command}` in {result.seconds:.0f} s (less what was kept from before).", ""]
    return "\n".join(parts)


def desked_table(result: Result) -> list[str]:
    """Every load."""
    head = ["load", "offered, /s", "goodput, /s", "of the most", "kept by the served", "refused", "of these on arrival",
            "refusals after, p99, ms", "told when to come back", "TTFT p95, ms"]  # fmt: skip
    more = {"others_share": "others' TTFT p95 / without", "served_late": "served late", "far_late": "beyond the bound",
            "latest": "latest by, s", "in_time": "in time, of all"}  # fmt: skip
    shown = [name for name in more if any(not math.isnan(row.mean(name).value) for row in result.rows)]
    rows = []
    for row in result.rows:
        at = row.mean
        cells = [row.choice.name, number(at("offered").value), show(at("goodput")), show(at("goodput_share"), digits=3),
                 percent(at("kept").value), percent(at("refused").value), percent(at("on_arrival").value),
                 number(at("answer_p99").value * _MS), percent(at("told").value),
                 number(at("ttft_p95").value * _MS)]  # fmt: skip
        rows.append(cells + [show(at(name), digits=3) for name in shown])
    return table(head + [more[name] for name in shown], rows)


def desked_picture(result: Result) -> str:
    """Goodput, or what was looked for, by load."""
    plan = result.plan
    axes = {
        "others_share": "others' TTFT p95 over that without the greedy tenant",
        "served_late": "share of the served that missed their deadline",
        "goodput": "goodput, requests/s",
    }
    there = [name for name in axes if any(not math.isnan(row.mean(name).value) for row in result.rows)]
    name = there[0] if there else "goodput"
    rows = [(row.choice.name, row.mean(name)) for row in result.rows]
    wanted = [bar.at_most for bar in plan.study.bars if bar.figure == name and math.isfinite(bar.at_most)]
    subtitle = f"SLO {plan.slo.ttft:g} s / {plan.slo.tpot * _MS:g} ms; B1 {result.fluid:.4g} requests/s"
    return dots(plan.title, subtitle, axes[name], rows, {"bar": wanted[0]} if wanted else {})
