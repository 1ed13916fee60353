"""What clients would see of a setting: latencies and kept promises by model and pool, over several seeds.

The idea: the same calls through the same pools several times, with other noise in the engines and other chances taken
by policies; each figure is the mean over those runs with Student's 95 % interval (`statistics`). The first calls are
sent and not counted: the lab's engines begin empty, the real ones were not.

A promise is kept when both of its parts are; what was refused has not kept it. Requests that are promised nothing are
in the latencies and not in the attainment.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from loadtest.lab.pools import Setting
from loadtest.lab.record import Flags, Floats
from loadtest.lab.several import Several
from loadtest.lab.statistics import NOTHING, Interval, mean

ALL = ""
WARM_UP = 0.1
QUANTILES = (50.0, 95.0, 99.0)


@dataclass(frozen=True, slots=True)
class Seen:
    """One line of the result: a model (or ALL) in a pool (or ALL), `requests` in a run.

    `attainment`, `refused` and `promised` are shares; `ttft` and `tpot` (seconds) at the QUANTILES of those answered.
    """

    model: str
    pool: str
    requests: float
    attainment: Interval = NOTHING
    refused: Interval = NOTHING
    ttft: tuple[Interval, ...] = ()
    tpot: tuple[Interval, ...] = ()


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of the calls of one run; NaN where it never came to it. `pool` is a number, -1: refused."""

    pool: tuple[str, ...]
    of: Floats
    ttft: Floats
    tpot: Floats
    met: Flags
    promised: Flags
    counted: Flags


def foresee(setting: Setting, seeds: Iterable[int], warm_up: float = WARM_UP) -> list[Seen]:
    """Run the setting once for each seed. All together first, then each model, then each model in each pool."""
    return summed(setting, [measured(setting, seed, warm_up) for seed in seeds])


def measured(setting: Setting, seed: int, warm_up: float = WARM_UP) -> Measured:
    """One run of the setting."""
    several = Several(setting, seed)
    run = several.run()
    promised = ~(np.isnan(run.ttft_slo) & np.isnan(run.tpot_slo))
    met = ~np.isnan(run.e2e) & ~(run.ttft > run.ttft_slo) & ~(run.tpot > run.tpot_slo)
    counted = np.arange(len(run.ttft)) >= round(warm_up * len(run.ttft))
    return Measured(tuple(plan.name for plan in setting.pools), several.pool.astype(np.float64), run.ttft, run.tpot,
                    met, promised, counted)  # fmt: skip


def summed(setting: Setting, runs: list[Measured]) -> list[Seen]:
    """The lines of several runs of one setting."""
    names = np.array([call.model for call in setting.calls])
    models = list(dict.fromkeys(names.tolist()))
    lines = [_seen(ALL, ALL, runs, np.ones(len(names), np.bool_), None)]
    for model in models:
        own = names == model
        lines.append(_seen(model, ALL, runs, own, None))
        for number, plan in enumerate(setting.pools):
            if any((run.of[own & run.counted] == number).any() for run in runs):
                lines.append(_seen(model, plan.name, runs, own, number))
    return lines


def _seen(model: str, pool: str, runs: list[Measured], own: Flags, number: int | None) -> Seen:
    rows: list[list[float]] = []
    for run in runs:
        kept = own & run.counted & (True if number is None else run.of == number)
        promised = kept & run.promised
        rows.append([
            float(kept.sum()), float(run.met[promised].mean()) if promised.any() else np.nan,
            float((run.of[kept] < 0.0).mean()) if kept.any() else np.nan,
            *_quantiles(run.ttft[kept]), *_quantiles(run.tpot[kept]),
        ])  # fmt: skip
    columns = [mean(list(column)) for column in zip(*rows, strict=True)]
    ends = 3 + len(QUANTILES)
    return Seen(model, pool, columns[0].value, columns[1], columns[2], tuple(columns[3:ends]), tuple(columns[ends:]))


def _quantiles(values: Floats) -> list[float]:
    there = values[~np.isnan(values)]
    return np.percentile(there, QUANTILES).tolist() if len(there) else [np.nan] * len(QUANTILES)
