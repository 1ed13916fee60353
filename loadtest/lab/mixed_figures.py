"""The figures of a run with two classes: what the traffic noticed, what the backlog got, and what was done in vain.

Tokens of the backlog are prompt and output tokens of tries that came to their end, counted when they were worked on: a
prompt at its first token, the answer evenly after it. What a try that was aborted had been given is wasted.

`off`: the time without traffic, from the fifth second of each pause on that a burst comes after; `tpot_kept`: the
share of answers whose mean pace kept its SLO; `seconds_kept`: the share of seconds (with traffic) in which tokens came
within it on average.
"""

from __future__ import annotations

import math

import numpy as np

from loadtest.lab.figures import Figures, figures
from loadtest.lab.mixed import Mixed
from loadtest.lab.record import Flags, Floats, Run

SETTLE = 5.0  # seconds of a pause that are not counted
LEAST = 0.2  # of a second's worth of gaps: a second with less than that is not judged


def mixed_figures(done: Mixed, run: Run) -> Figures:
    """Everything that tables and bars may ask of a run. Seconds, shares, tokens per second."""
    found: Figures = figures(run) if done.interactive else {}
    begin = _begin(done, run)
    found |= _backlog(done, begin)
    if done.interactive:
        found["tpot_kept"] = _kept(run)
        found["seconds_kept"] = _seconds_kept(run, begin, done.until)
        found["attainment"] = _attained(run, done.until)
    return found


def _begin(done: Mixed, run: Run) -> float:
    """Where measuring begins: at the first measured arrival; with bursts, where the cycle nearest to it does."""
    first = float(run.arrived[run.measured][0]) if run.measured.any() else done.until
    cycle = done.scenario.traffic.on + done.scenario.traffic.off
    return round(first / cycle) * cycle if cycle else first


def _attained(run: Run, until: float) -> float:
    """As everywhere, but of those that had time to end."""
    counted = run.counted & (run.arrived < until - 10.0)
    return float(run.met[counted].mean()) if counted.any() else math.nan


def _kept(run: Run) -> float:
    ended = run.counted & np.isfinite(run.tpot)
    return float((run.tpot <= run.tpot_slo)[ended].mean()) if ended.any() else math.nan


def _seconds_kept(run: Run, begin: float, until: float) -> float:
    """Gaps are taken as even within an answer."""
    ended = np.isfinite(run.tpot) & np.isfinite(run.ttft)
    first, last = (run.arrived + run.ttft)[ended], (run.arrived + run.e2e)[ended]
    edges = np.arange(math.floor(begin), math.ceil(until) + 1.0)
    there = _overlap(first, last, edges)
    gaps = _overlap(first, last, edges, 1.0 / np.maximum(run.tpot[ended], 1e-6))
    judged = there > LEAST
    slo = float(np.nanmin(run.tpot_slo))
    mean = np.divide(there, gaps, out=np.zeros_like(there), where=gaps > 0.0)
    return float((mean <= slo)[judged].mean()) if judged.any() else math.nan


def _overlap(first: Floats, last: Floats, edges: Floats, weight: Floats | float = 1.0) -> Floats:
    """Seconds that intervals spend between neighbouring edges, times their weights, summed."""

    def below(x: Floats) -> Floats:
        order_first, order_last = np.argsort(first), np.argsort(last)
        weights = np.broadcast_to(np.asarray(weight, np.float64), first.shape)
        total = np.zeros(len(x))
        for times, order, sign in ((first, order_first, 1.0), (last, order_last, -1.0)):
            w, t = weights[order], times[order]
            cw, ct = np.concatenate(([0.0], np.cumsum(w))), np.concatenate(([0.0], np.cumsum(w * t)))
            n = np.searchsorted(t, x)
            total += sign * (x * cw[n] - ct[n])
        return total

    return np.diff(below(edges))


def _backlog(done: Mixed, begin: float) -> Figures:
    tries = done.tries.columns()
    whole = tries["complete"] > 0.0
    until = done.until
    every, off = tokens_over(done, begin)
    spent = (tries["prompt"] + tries["output"])[~whole & (tries["ended"] >= begin)]
    aborted = int(np.isfinite(tries["ended"][~whole]).sum())
    return {
        "async": float(every.sum()) / max(1e-9, until - begin),
        "async_off": float(every[off].mean()) if off.any() else math.nan,
        "async_off_raw": float(tokens_over(done, begin, aborted_too=True)[0][off].mean()) if off.any() else math.nan,
        "async_on": float(every[~off].mean()) if (~off).any() else math.nan,
        "async_items": float((whole & (tries["ended"] >= begin)).sum()),
        "aborts": float(aborted),
        "wasted": float(spent.sum()) / max(1.0, float(every.sum())),
        "found_again": float(tries["found"].sum()),
        "preemptions": float(done.run_.preemptions),
    }


def tokens_over(done: Mixed, begin: float, aborted_too: bool = False) -> tuple[Floats, Flags]:
    """Tokens of the backlog per second of the run from `begin` on, and which of these seconds count as `off`."""
    tries = done.tries.columns()
    used = np.isfinite(tries["first"]) & np.isfinite(tries["ended"])
    if not aborted_too:
        used &= tries["complete"] > 0.0
    edges = np.arange(math.floor(begin), math.ceil(done.until) + 1.0)
    first, last = tries["first"][used], np.maximum(tries["ended"][used], tries["first"][used] + 1e-6)
    every = _overlap(first, last, edges, tries["output"][used] / (last - first))
    prompts, _ = np.histogram(first, edges, weights=tries["prompt"][used] + tries["found"][used])
    traffic = done.scenario.traffic
    cycle = traffic.on + traffic.off
    within = edges[:-1] % cycle if cycle else np.zeros(len(edges) - 1)
    off = within >= traffic.on + SETTLE if cycle else np.zeros(len(within), np.bool_)
    if done.until - begin > 1.5 * cycle:
        off &= edges[:-1] < done.until - cycle  # what the next burst costs a pause is not seen of the last one
    return every + prompts, off


def series(done: Mixed, every: float) -> list[tuple[float, float]]:
    """Tokens of the backlog per second over the whole run, by windows of so many seconds (their middles)."""
    each, _ = tokens_over(done, 0.0)
    together = max(1, round(every))
    count = len(each) // together
    means = each[: count * together].reshape(count, together).mean(axis=1)
    return [((i + 0.5) * together, float(value)) for i, value in enumerate(means)]
