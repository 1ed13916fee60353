"""A canary's report: one page that tells what is compared, what is known, what was decided, and by which rule.

The idea: a file for a browser, an attachment, or a printer: no script, nothing from elsewhere, in light and in dark.
Who reads it wants first what is decided and why, then the figures behind it, then how far they can be trusted, then
what happened when. The same as JSON is what it is made from.

Left to others: the pictures (`chart`), the words (`words`), the figures (`rollout`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from gateway.rollouts.chart import SERIES, Point, evidence_chart, measure_chart, share_chart
from gateway.rollouts.words import MEASURES, OUTCOMES, PHASES, SAYS, View, difference, moment, share, span

MOST = 300  # points of a picture: more are not seen, and a page must not hold up the event loop

_STYLE = """
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--ink:#1b2028;--soft:#667080;--edge:#e2e5ea;--blue:#2764d8;
--good:#1d7f4e;--bad:#c2323c;--open:#5b6b86;--amber:#a8660a;--c0:#2764d8;--c1:#0e8a86;--c2:#c2323c;--c3:#a8660a;
--c4:#7a4cc2;--c5:#5b6b86;--c6:#2f8f3a}
@media(prefers-color-scheme:dark){:root{--page:#12151a;--card:#1a1f26;--ink:#e6e9ee;--soft:#96a0b0;--edge:#2c333d;
--blue:#74a5ff;--good:#5cc98f;--bad:#ff7f86;--open:#a3b1c9;--amber:#e5ab55;--c0:#74a5ff;--c1:#55cfca;--c2:#ff7f86;
--c3:#e5ab55;--c4:#b797f5;--c5:#a3b1c9;--c6:#86d38d}}
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1040px;margin:0 auto;padding:28px 20px}
h1{font-size:22px;margin:0;letter-spacing:-.01em;overflow-wrap:anywhere}h2{font-size:15px;margin:0 0 12px}
p{margin:0}.soft{color:var(--soft)}section{background:var(--card);border:1px solid var(--edge);border-radius:12px;
padding:18px 20px;margin-top:16px}header{display:flex;gap:12px;align-items:center;flex-wrap:wrap}
.pill{border-radius:99px;padding:2px 12px;font-weight:600;font-size:13px;border:1px solid currentColor}
.good{color:var(--good)}.bad{color:var(--bad)}.open{color:var(--open)}.amber{color:var(--amber)}.blue{color:var(--blue)}
.said{font-size:18px;font-weight:600;overflow-wrap:anywhere}.track{display:flex;gap:6px;margin-top:16px}
.track div{flex:1;border-top:5px solid var(--edge);padding-top:5px;color:var(--soft);font-size:13px}
.track .done{border-color:var(--good)}.track .now{border-color:var(--blue);color:var(--ink);font-weight:600}
.track .back{border-color:var(--bad)}table{border-collapse:collapse;width:100%;font-size:14px}
th{text-align:left;color:var(--soft);font-weight:500;font-size:13px}th,td{padding:6px 10px 6px 0;
border-bottom:1px solid var(--edge);vertical-align:top}tr:last-child td{border-bottom:0}
.figure{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}.wide{overflow-x:auto}
.measure{display:grid;grid-template-columns:230px 1fr;gap:8px 22px;padding:14px 0;border-top:1px solid var(--edge)}
.measure:first-of-type{border-top:0}.measure b{display:block;font-size:20px;font-variant-numeric:tabular-nums}
@media(max-width:760px){.measure{grid-template-columns:1fr}}
svg{width:100%;height:auto;display:block}svg text{font:11px system-ui,sans-serif;fill:var(--soft)}
.grid{stroke:var(--edge)}.zero{stroke:var(--soft);stroke-width:.8}.mark{stroke:var(--edge);stroke-dasharray:2 3}
line.margin{stroke:var(--amber);stroke-dasharray:6 4}svg .margin-name{fill:var(--amber)}
path.line{fill:none;stroke:var(--blue);stroke-width:1.8;stroke-linejoin:round}path.area{fill:var(--blue);opacity:.13}
path.line.good{stroke:var(--good)}path.line.bad{stroke:var(--bad)}path.line.open{stroke:var(--open)}path.line.odd{stroke:var(--amber)}
path.band{fill:var(--open);opacity:.16}path.band.good{fill:var(--good)}path.band.bad{fill:var(--bad)}
path.band.odd{fill:var(--amber)}
.dot{fill:var(--blue)}.dot.good{fill:var(--good)}.dot.bad{fill:var(--bad)}.dot.open{fill:var(--open)}
.dot.odd{fill:var(--amber)}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;font-size:13px;font-weight:600;margin:8px 0}"""
_SERIES = "".join(f"path.line.series{n}{{stroke:var(--c{n})}}.legend .series{n}{{color:var(--c{n})}}"
                  for n in range(SERIES))  # fmt: skip
_PRICES = {
    "frozen": "A latency is set against what it should have been by the predictor's prices, frozen when the canary "
    "began, so that load and prompts cancel out.",
    "regression": "A latency is set against what the other arms take for such a prompt beside so many requests.",
    "none yet": "Latencies are not compared yet: the predictor has not learnt enough for its prices to be frozen.",
}
_COLOURS = {"running": "blue", "paused": "amber", "promoted": "good", "rolled_back": "bad"}
_SAYS_COLOURS = {"ok": "good", "worse": "bad", "changed": "amber"}


def report_json(view: View, history: Sequence[Point]) -> dict[str, Any]:
    """What the page is made from."""
    return {"canary": view, "history": list(history)}


def report_html(view: View, history: Sequence[Point]) -> str:
    """The whole page. `view` is a canary as the listener tells it, `history` its points, the oldest first."""
    known = [point for point in history if "measures" in point]
    points = known if len(known) <= MOST else [*known[: -1 : len(known) // MOST + 1], known[-1]]
    body = [_head(view), _arms(view, points), _measures(view, points), _evidence(view, points), _finishes(view),
            _trust(view), _rule(view), _events(history)]  # fmt: skip
    again = '<meta http-equiv="refresh" content="30">' if view["phase"] in ("running", "paused") else ""
    return (f'<!doctype html><html lang="en"><head><meta charset="utf-8">{again}'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            f"<title>{escape(view['name'])}: {PHASES[view['phase']]}</title><style>{_STYLE}{_SERIES}</style></head>"
            f"<body><main>{''.join(body)}</main></body></html>\n")  # fmt: skip


def _head(view: View) -> str:
    phase = view["phase"]
    pill = f'<span class="pill {_COLOURS[phase]}">{PHASES[phase]}</span>'
    names = " and ".join(f"<b>{escape(arm['arm'])}</b>" for arm in view["arms"] if not arm["canary"])
    asked = f"Is <b>{escape(view['arm'])}</b> no worse than {names}?"
    since = f"began {moment(view['began'])} UTC · as of {moment(view['at'])} UTC"
    durable = "" if view["durable"] else " · <span class=amber>not on disk yet</span>"
    return (
        f"<header><h1>{escape(view['name'])}</h1>{pill}</header><p class=soft>{asked} · {since}{durable}</p>"
        f'<section><p class="said">{escape(_decision(view))}</p>{_needed(view)}{_track(view)}</section>'
    )


def _decision(view: View) -> str:
    if view["phase"] == "promoted":
        return f"Promoted. {view['why']}"
    if view["phase"] == "rolled_back":
        return f"Rolled back. {view['why']}"
    said = OUTCOMES[view["outcome"]].capitalize()
    return f"{'Paused. ' if view['phase'] == 'paused' else ''}{said}: {view['why']}"


def _needed(view: View) -> str:
    if view["phase"] not in ("running", "paused"):
        return ""
    told = [f"at this step for {span(view['at'] - view['since'])}, held for {span(view['hold'])} at least"]
    if view["waits_for"] and view["why"] not in view["waits_for"]:
        told.append(view["waits_for"])
    if view["needed"]:
        told.append(f"about {view['needed']:,} more requests to {view['arm']} until it can be said")
    return f'<p class="soft">{escape("; ".join(told))}</p>'


def _track(view: View) -> str:
    cells = []
    for number, value in enumerate(view["steps"]):
        if view["phase"] == "promoted" or number < view["step"]:
            kind = "done"
        else:
            kind = ("back" if view["phase"] == "rolled_back" else "now") if number == view["step"] else ""
        cells.append(f'<div class="{kind}">{share(value)}</div>')
    return f'<div class="track">{"".join(cells)}</div>'


def _arms(view: View, points: Sequence[Point]) -> str:
    rows = []
    for arm in view["arms"]:
        name = f"{escape(arm['arm'])}{' <span class=blue>canary</span>' if arm['canary'] else ''}"
        counts = (arm["requests"], arm["failed"], arm["truncated"], arm["elsewhere"])
        rate = f"{arm['failed'] / arm['requests'] * 100:.2f} %" if arm["requests"] else "–"
        figures = [share(arm["share"]), f"{counts[0]:,}", f"{counts[1]:,} ({rate})", *(f"{n:,}" for n in counts[2:])]
        cells = "".join(f'<td class="figure">{text}</td>' for text in figures)
        rows.append(f"<tr><td>{name}</td><td>{escape(arm['pool'])}</td>{cells}</tr>")
    titles = "".join(f'<th class="figure">{text}</th>' for text in
                     ("share", "requests", "failed", "cut short", "to a fallback"))  # fmt: skip
    picture = share_chart(points, view["steps"]) if len(points) > 1 else ""
    return (f'<section><h2>Arms</h2><div class="wide"><table><tr><th>arm</th><th>pool</th>{titles}</tr>'
            f"{''.join(rows)}</table></div>{picture}</section>")  # fmt: skip


def _measures(view: View, points: Sequence[Point]) -> str:
    if not view["measures"]:
        return '<section><h2>Measures</h2><p class="soft">Nothing has been compared yet.</p></section>'
    parts = [_measure(measure, points) for measure in view["measures"]]
    told = (f"Each is the difference to the other arms. {_PRICES[view['prices']]} The intervals hold at every moment "
            "at once: looking often does not make them wrong.")  # fmt: skip
    return f'<section><h2>Measures</h2><p class="soft">{told}</p>{"".join(parts)}</section>'


def _measure(measure: Mapping[str, Any], points: Sequence[Point]) -> str:
    unit, name = measure["unit"], MEASURES.get(measure["name"], measure["name"])
    low, high = (difference(measure[end], unit) for end in ("low", "high"))
    says = f'<span class="{_SAYS_COLOURS.get(measure["says"], "open")}">{SAYS[measure["says"]]}</span>'
    picture = measure_chart(points, measure["name"], lambda value: difference(value, unit), f"{name} over time")
    return (f'<div class="measure"><div><span class="soft">{escape(name)}</span>'
            f"<b>{difference(measure['estimate'], unit)}</b><span>{low} to {high}</span><br>"
            f'<span class="soft">margin {difference(measure["margin"], unit)}</span> · {says}</div>'
            f"<div>{picture}</div></div>")  # fmt: skip


def _evidence(view: View, points: Sequence[Point]) -> str:
    picture = evidence_chart(points, view["enough"], MEASURES) if len(points) > 1 else ""
    if not picture:
        return ""
    told = ("What a bet of 1 that it is worse would have become at odds that are fair to a canary that is not, on a "
            f"logarithmic scale. At {math.exp(view['enough']):,.0f} by one measure alone, or at less if several agree, "
            f"it is rolled back. One that is as good gets there in at most {share(view['risk'])} of all rollouts, "
            "however often one looks.")  # fmt: skip
    return f'<section><h2>Evidence of harm</h2><p class="soft">{escape(told)}</p>{picture}</section>'


def _trust(view: View) -> str:
    """What the same statistics say where there is nothing to find."""
    if not view["check"]:
        return ""
    told = ("The servers of the other arms are compared with one another all the time, in the same way, as if one of "
            "them were a canary. How far two of a kind are apart is what a canary may differ by as well.")  # fmt: skip
    return (f'<section><h2>Can it be trusted? A against A</h2><p class="soft">{told}</p>'
            f"<p>{escape(view['check'])}</p></section>")  # fmt: skip


def _finishes(view: View) -> str:
    """How answers ended, by arm: shares of those that said."""
    found = view["finishes"]
    kinds = sorted({kind for counts in found.values() for kind in counts})
    if not kinds:
        return ""
    rows = []
    for arm, counts in found.items():
        total = sum(counts.values()) or 1
        cells = "".join(f'<td class="figure">{counts.get(kind, 0) / total * 100:.1f} %</td>' for kind in kinds)
        rows.append(f"<tr><td>{escape(arm)}</td>{cells}</tr>")
    titles = "".join(f'<th class="figure">{escape(kind)}</th>' for kind in kinds)
    return (f'<section><h2>How answers ended</h2><div class="wide"><table><tr><th></th>{titles}</tr>{"".join(rows)}'
            "</table></div></section>")  # fmt: skip


def _rule(view: View) -> str:
    margin = view["margin"]
    told = [
        f"Arm {view['arm']} of {view['model']} gets {', then '.join(share(step) for step in view['steps'])} of the "
        f"requests that {view['rule']} takes. Each step is held for {span(view['hold'])} at least.",
        f"It may be at most {share(margin['ttft'])} slower to the first token, {share(margin['tpot'])} slower per "
        f"token; of a hundred requests {margin['errors'] * 100:.3g} more may fail, or be cut short.",
        "As soon as the evidence says that it is worse, new requests go to the others, and running streams finish. "
        f"The chance of rolling back one that is as good, and of promoting one that is not, is {share(view['risk'])} "
        "each, over the whole rollout.",
    ]
    paragraphs = "".join(f"<p>{escape(text)}</p>" for text in told)
    return f'<section><h2>The rule</h2>{paragraphs}<p class="soft">rule {escape(view["identity"])}</p></section>'


def _events(history: Sequence[Point]) -> str:
    rows = [
        f"<tr><td class='figure'>{moment(point['at'])}</td><td>{escape(point['kind'])}</td>"
        f"<td>{escape(str(point.get('told', '')))}</td></tr>"
        for point in reversed(history) if point.get("kind") not in (None, "judgement")
    ][:100]  # fmt: skip
    if not rows:
        return ""
    return f'<section><h2>What happened (UTC)</h2><div class="wide"><table>{"".join(rows)}</table></div></section>'
