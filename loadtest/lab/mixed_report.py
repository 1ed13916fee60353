"""The page and the picture of a study with two classes: what the traffic noticed, what the backlog got."""

from __future__ import annotations

from loadtest.lab.bars import verdicts
from loadtest.lab.cells import number, percent, show, table
from loadtest.lab.conditions import conditions
from loadtest.lab.figures import Figures
from loadtest.lab.mixed_study import Points, points
from loadtest.lab.picture import Curve, dots, over_time
from loadtest.lab.plan import OURS
from loadtest.lab.statistics import Interval, mean
from loadtest.lab.study import Result

_MS, _K, _PERCENT = 1e3, 1e-3, 1e2


def mixed_page(result: Result, judged: list[str], command: str) -> str:
    """The page of one scenario; `judged` is its table of bars."""
    plan, fill = result.plan, result.plan.fill
    backlog = f"* backlog: {fill.prompt[0]:g} tokens in, {fill.output[0]:g} out, always some left"
    backlog += f"; slowdown {fill.slowdown:.0%}, at most {fill.aborts} aborts an item"
    backlog += "; engines schedule by priority" if fill.priority else "; engines do not know priorities"
    parts = [f"# {plan.title}", "", plan.about.strip(), "", *conditions(plan), backlog, ""]
    parts += [f"![{plan.title}]({plan.name}.svg)", ""]
    if verdicts(result):
        parts += ["## Bars", "", *judged, ""]
    parts += ["## Figures", "", *mixed_table(result), ""]
    parts += [*_tuned(result), *_EXPLAINED, ""]
    parts += [f"Made by `{command}` in {result.seconds:.0f} s (less what was kept from before).", ""]
    return "\n".join(parts)


_EXPLAINED = """What is allowed of TTFT is the greater of 1.10 x alone and alone + 15 ms, seed by seed. TPOT is kept by
an answer whose mean pace is within the SLO, and by a second (with traffic) in which tokens came within it on average.
Tokens of the backlog are those of tries that came to their end, prompts included, counted when they were worked on;
what aborted tries had been given is wasted. Pauses are counted from their fifth second on.""".splitlines()


def mixed_table(result: Result) -> list[str]:
    """Every gate, and both classes alone."""
    assert result.mixed is not None
    head = ["gate", "TTFT p50 / p95 / p99, ms", "p95 over allowed", "TPOT p50 / p95, ms", "answers / seconds in SLO",
            "attainment", "backlog, k tokens/s", "in pauses", "of alone", "aborts", "wasted"]  # fmt: skip
    alone = result.mixed.alone
    rows = [_row("*traffic alone*", alone.traffic)]
    rows += [_row(f"**`{c.name}`**" if c.policy == OURS else f"`{c.name}`", found) for c, found in result.mixed.rows]
    rows.append(_row("*backlog alone*", alone.backlog))
    return table(head, rows)


def _row(name: str, found: list[Figures]) -> list[str]:
    def at(figure: str) -> Interval:
        return mean([figures.get(figure, float("nan")) for figures in found])

    def three(kind: str, percents: tuple[int, ...]) -> str:
        return " / ".join(number(at(f"{kind}_p{p}").value * _MS) for p in percents)

    return [name, three("ttft", (50, 95, 99)), show(at("ttft_share"), digits=3), three("tpot", (50, 95)),
            f"{percent(at('tpot_kept').value)} / {percent(at('seconds_kept').value)}",
            show(at("attainment"), _PERCENT, " %"), show(at("async"), _K), show(at("async_off"), _K),
            show(at("off_share"), _PERCENT, " %", 3), number(at("aborts").value),
            percent(at("wasted").value)]  # fmt: skip


def _tuned(result: Result) -> list[str]:
    assert result.mixed is not None
    tuned = result.mixed.tuned.items()
    return [f"* `{name}`: x = {x:g} costs at most half a point of attainment there" for name, x in tuned] + [""] * bool(
        tuned
    )


def mixed_picture(result: Result) -> str:
    """The backlog over time where traffic comes in bursts, else a dot per gate."""
    assert result.mixed is not None
    plan, rows = result.plan, result.mixed.rows
    subtitle = f"{result.rate:.4g} requests/s, SLO {plan.slo.ttft:g} s / {plan.slo.tpot * _MS:g} ms"
    if plan.traffic.on:
        curves = [Curve(choice.name, _thousands(points(found[0]))) for choice, found in rows]
        curves.append(Curve("backlog alone", _thousands(points(result.mixed.alone.backlog[0]))))
        cycle = plan.traffic.on + plan.traffic.off
        count = int(plan.requests / result.rate / plan.traffic.on + 0.99)
        moments = {"traffic" + " " * i: i * cycle for i in range(count)}
        return over_time(plan.title, f"{subtitle}; first seed", "backlog, k tokens/s", curves, moments)
    shown = [(f"{choice.name} ({percent(mean([f['attainment'] for f in found]).value)} attained)",
              mean([f["async"] * _K for f in found])) for choice, found in rows]  # fmt: skip
    return dots(plan.title, subtitle, "backlog, k tokens/s", shown, {})


def _thousands(over: Points) -> Points:
    return [(at, value * _K) for at, value in over]
