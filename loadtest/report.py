"""The figures of a run for people: a table for the terminal, and one self-contained HTML page.

The page has no script, loads nothing, and holds the same numbers as the JSON. Plots: the distribution of
latency, first token over time, the rate asked for and got, and where requests went if the server says so
(`x-headway-endpoint`).
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from loadtest.measure import Record, Slo, warnings
from loadtest.svg import Axis, Series, chart, spanning

PER_CELL = 30  # requests on average behind each percentile over time
MAX_DOTS = 3000  # more do not show anything new and make the page slow
_ROWS = (
    ("ttft", "first token (TTFT)", 1e3),
    ("ttft_from_start", "first token, from actual start", 1e3),
    ("tpot", "per further token (TPOT)", 1e3),
    ("gap", "gap between tokens", 1e3),
    ("e2e", "whole answer", 1e3),
    ("start_lag", "generator's start lag", 1e3),
)
_COLUMNS = ("mean", "p50", "p90", "p99", "max")

_STYLE = """
:root { --ink: #1d2430; --soft: #667085; --rule: #e3e7ee; --paper: #fff; --wash: #f5f7fa; --warn: #b54708;
  --c0: #2563eb; --c1: #d97706; --c2: #059669; --c3: #be185d; --c4: #6d28d9 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf2; --soft: #98a2b3; --rule: #333c4d; --paper: #12161f;
  --wash: #1b212d; --warn: #fdb022; --c0: #60a5fa; --c1: #fbbf24; --c2: #34d399; --c3: #f472b6; --c4: #a78bfa } }
body { font: 14px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1120px;
  margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem; margin: 0 } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem }
.facts { color: var(--soft); overflow-wrap: anywhere }
.warn { border-left: 4px solid var(--warn); background: var(--wash); padding: .5rem .8rem }
.cards { display: flex; flex-wrap: wrap; gap: .6rem; margin: 1rem 0 }
.cards div { background: var(--wash); border-radius: 6px; padding: .5rem .9rem; color: var(--soft) }
.cards b { display: block; font-size: 1.25rem; color: var(--ink); font-variant-numeric: tabular-nums }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 1rem }
.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .8rem; border-bottom: 1px solid var(--rule); text-align: right }
th:first-child, td:first-child { text-align: left } th { color: var(--soft); font-weight: 500 }
svg { width: 100%; height: auto; font: 11px system-ui, sans-serif } svg text { fill: var(--soft) }
svg .title { fill: var(--ink); font-size: 13px; font-weight: 600 } .grid { stroke: var(--rule); stroke-width: 1 }
.line { fill: none; stroke-width: 1.8 } .dots { fill: none; stroke-width: 3.5; stroke-linecap: round; opacity: .4 }
.s0 { stroke: var(--c0) } .s1 { stroke: var(--c1) } .s2 { stroke: var(--c2) } .s3 { stroke: var(--c3) }
.s4 { stroke: var(--c4) } .key { stroke-width: 0 } .key.s0, .bar { fill: var(--c0) } .key.s1 { fill: var(--c1) }
.key.s2 { fill: var(--c2) } .key.s3 { fill: var(--c3) } .key.s4 { fill: var(--c4) }
td { white-space: nowrap } .share { display: inline-block; height: .7em; background: var(--c0); border-radius: 2px }
"""


def _cells(row: dict[str, float] | None, scale: float) -> list[str]:
    return ["-"] * len(_COLUMNS) if row is None else [f"{row[column] * scale:,.1f}" for column in _COLUMNS]


def table(summary: dict[str, Any]) -> str:
    """The figures as text for a terminal."""
    rate, generator, slo = summary["rate"], summary["generator"], summary["slo"]
    failed = sum(summary["failed"].values())
    lines = [
        f"requests {summary['requests']}   ok {summary['ok']}   failed {failed}   resent {summary['resent']}",
        *(f"  failed: {count} x {reason}" for reason, count in summary["failed"].items()),
        f"rate per s: offered {rate['offered']:.2f}, started {rate['started']:.2f}, completed {rate['completed']:.2f}",
        f"goodput {rate['goodput']:.2f} per s: {summary['slo_share']:.1%} of requests kept {_slo_words(slo)}",
        f"tokens: prompt {summary['tokens']['prompt']:,} (cached {summary['tokens']['cached']:,}), output "
        f"{summary['tokens']['output']:,} ({summary['tokens']['output_per_s']:,.0f} per s), "
        f"answers shorter than asked {summary['tokens']['short_answers']}",
        "",
        f"{'ms':32}" + "".join(f"{column:>11}" for column in _COLUMNS),
        *(
            f"{name:32}" + "".join(f"{cell:>11}" for cell in _cells(summary["latency"][key], scale))
            for key, name, scale in _ROWS
        ),
        "",
        *(
            f"{name:32}{entry['requests']:>8} requests {entry['requests'] / max(1, summary['ok']):>7.1%}"
            for name, entry in summary["endpoints"].items()
        ),
        f"generator: {generator['seconds']:.1f} s, CPU {generator['cpu_mean']:.0%} of a core (busiest second "
        f"{generator['cpu_peak']:.0%}), {generator['connections']} connections opened",
    ]
    return "\n".join(lines)


def _slo_words(slo: dict[str, float | None]) -> str:
    words = [f"{name.upper()} <= {value * 1e3:.0f} ms" for name, value in slo.items() if value is not None]
    return " and ".join(words) or "no limit but a whole answer"


def page(title: str, facts: dict[str, Any], summary: dict[str, Any], records: Sequence[Record]) -> str:
    """The HTML page. `facts` (what was run) are shown under the title."""
    told = " · ".join(f"{escape(str(name))}: {escape(str(value))}" for name, value in facts.items())
    warned = "".join(f'<p class="warn">{escape(text)}</p>' for text in warnings(summary))
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
            f'<h1>{escape(title)}</h1><p class="facts">{told}</p>{warned}',
            _cards(summary),
            '<div class="plots">',
            *_plots(summary, records),
            "</div>",
            _latency_table(summary),
            _failure_table(summary),
            _endpoint_table(summary),
            _generator_table(summary),
            "</body></html>\n",
        ]
    )


def _cards(summary: dict[str, Any]) -> str:
    rate, latency = summary["rate"], summary["latency"]
    cards = [
        (f"{summary['requests']:,}", "requests"),
        (f"{sum(summary['failed'].values()):,}", "failed"),
        (f"{rate['offered']:.2f}/s", "offered"),
        (f"{rate['goodput']:.2f}/s", "goodput"),
        (f"{summary['slo_share']:.1%}", _slo_words(summary["slo"])),
    ]
    for key, name in (("ttft", "TTFT p99"), ("tpot", "TPOT p99")):
        if latency[key] is not None:
            cards.append((f"{latency[key]['p99'] * 1e3:,.0f} ms", name))
    return (
        '<div class="cards">'
        + "".join(f"<div><b>{escape(value)}</b>{escape(name)}</div>" for value, name in cards)
        + "</div>"
    )


def _plots(summary: dict[str, Any], records: Sequence[Record]) -> list[str]:
    good = [record for record in records if record.ok]
    if not good:
        return ["<p>No request was answered whole, so there is nothing to plot.</p>"]
    end = max(record.ended for record in records)
    return [
        _cdf("Latency from the intended start", [
            ("TTFT", [r.ttft for r in good if r.ttft is not None]), ("whole answer", [r.e2e for r in good]),
        ]),
        _cdf("Time per token", [
            ("TPOT", [r.tpot for r in good if r.tpot is not None]),
            ("gap between tokens", np.concatenate([np.frombuffer(r.gaps) for r in good if r.gaps] or [np.empty(0)])),
        ]),
        _over_time(good, end),
        _rates(records, Slo(summary["slo"]["ttft"], summary["slo"]["tpot"]), end),
    ]  # fmt: skip


def _cdf(title: str, named: Sequence[tuple[str, Sequence[float] | np.ndarray[Any, Any]]]) -> str:
    shares = np.concatenate([np.linspace(0.0, 0.98, 99), np.linspace(0.98, 1.0, 41)[1:]])
    series = [
        Series(name, np.maximum(np.quantile(values, shares), 1e-4).tolist(), (shares * 100).tolist())
        for name, values in named
        if len(values)
    ]
    every = [value for one in series for value in one.x]
    return chart(title, spanning("seconds", every, log=True), Axis("% of requests or gaps", 0.0, 100.0), series)


def _over_time(good: Sequence[Record], end: float) -> str:
    pairs = [(r.intended, max(r.ttft, 1e-4)) for r in good if r.ttft is not None]
    pairs.sort()
    if not pairs:
        return ""
    at, ttft = np.array(pairs).T
    stride = -(-len(at) // MAX_DOTS)
    count = min(40, max(1, len(at) // PER_CELL))
    edges = np.linspace(0.0, max(end, 1e-3), count + 1)
    cells = np.clip(np.digitize(at, edges) - 1, 0, count - 1)
    full = [cell for cell in range(count) if (cells == cell).any()]
    middles = [float(edges[cell] + edges[cell + 1]) / 2 for cell in full]
    series = [
        Series("each request", at[::stride].tolist(), ttft[::stride].tolist(), dots=True),
        *(
            Series(f"p{p}", middles, [float(np.percentile(ttft[cells == cell], p)) for cell in full])
            for p in (50, 99)
        ),
    ]  # fmt: skip
    return chart(
        "First token over time",
        Axis("seconds", 0.0, max(end, 1e-3)),
        spanning("TTFT, s", ttft.tolist(), log=True),
        series,
    )


def _rates(records: Sequence[Record], slo: Slo, end: float) -> str:
    end = max(end, 1e-3)
    edges = np.linspace(0.0, end, min(60, max(2, int(end))) + 1)
    width = edges[1] - edges[0]
    named = (
        ("offered", [r.intended for r in records]),
        ("completed", [r.ended for r in records if r.ok]),
        ("failed", [r.ended for r in records if not r.ok]),
        ("late (SLO missed)", [r.ended for r in records if r.ok and not slo.met(r)]),
    )
    series = []
    for name, times in named:
        counts = np.histogram(times, edges)[0] / width
        if len(times) or name in ("offered", "completed"):
            series.append(Series(name, edges.tolist(), [*counts.tolist(), float(counts[-1])], stairs=True))
    every = [value for one in series for value in one.y]
    return chart("Requests per second", Axis("seconds", 0.0, end), spanning("per second", every), series)


def _html_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    return f'<h2>{escape(title)}</h2><div class="wide"><table><tr>{top}</tr>{body}</table></div>'


def _latency_table(summary: dict[str, Any]) -> str:
    rows = [[escape(name), *_cells(summary["latency"][key], scale)] for key, name, scale in _ROWS]
    return _html_table("Latency", ["ms", *_COLUMNS], rows)


def _failure_table(summary: dict[str, Any]) -> str:
    rows = [[escape(reason), f"{count:,}"] for reason, count in summary["failed"].items()]
    return _html_table("Failures", ["reason", "requests"], rows)


def _endpoint_table(summary: dict[str, Any]) -> str:
    total = max(1, summary["ok"])
    rows = []
    for name, entry in summary["endpoints"].items():
        share = entry["requests"] / total
        bar = f'<span class="share" style="width:{share * 12:.2f}em"></span> {share:.1%}'
        rows.append([escape(name), f"{entry['requests']:,}", bar, f"{entry['tokens']:,}", *_cells(entry["ttft"], 1e3)])
    head = ["endpoint", "requests", "share", "tokens", *(f"TTFT {column}, ms" for column in _COLUMNS)]
    return _html_table("Where requests went", head, rows)


def _generator_table(summary: dict[str, Any]) -> str:
    rate, tokens, generator = summary["rate"], summary["tokens"], summary["generator"]
    rows = [
        ["requests per second: offered, started", f"{rate['offered']:.2f}, {rate['started']:.2f}"],
        ["answered whole per second, of which inside the SLO", f"{rate['completed']:.2f}, {rate['goodput']:.2f}"],
        ["prompt tokens, of which cached", f"{tokens['prompt']:,}, {tokens['cached']:,}"],
        ["output tokens, per second", f"{tokens['output']:,}, {tokens['output_per_s']:,.0f}"],
        ["answers shorter than asked", f"{tokens['short_answers']:,}"],
        ["requests sent again after a connection closed under them", f"{summary['resent']:,}"],
        ["connections opened", f"{generator['connections']:,}"],
        [
            "generator's CPU, share of a core: mean, busiest second",
            f"{generator['cpu_mean']:.0%}, {generator['cpu_peak']:.0%}",
        ],
        ["length of the run", f"{generator['seconds']:.1f} s"],
    ]
    return _html_table("Rates, tokens and the generator itself", ["", ""], rows)
