"""What clients would see of a setting: latencies and kept promises by model and pool, over several seeds.

The idea: the same calls through the same pools several times, with other noise in the engines and other chances taken
by policies; each figure is the mean over those runs with Student's 95 % interval (`statistics`). The first calls are
sent and not counted: the lab's engines begin empty, the real ones were not.

A promise is kept when both of its parts are; what was refused has not kept it. Requests that are promised nothing are
in the latencies and not in the attainment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gateway.plan.values import ALL, QUANTILES, Figure, Reached, Seen, Setting
from loadtest.lab.engines import fitted, shared_blocks
from loadtest.lab.record import Flags, Floats
from loadtest.lab.several import Several
from loadtest.lab.statistics import mean

__all__ = ("fitted", "foresee", "measured", "reached", "shared_blocks", "summed")

WARM_UP = 0.1


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of the calls of one run; NaN where it never came to it. `of` is the pool's number, -1: refused."""

    of: Floats
    ttft: Floats
    tpot: Floats
    met: Flags
    promised: Flags
    counted: Flags


def foresee(setting: Setting, seeds: Sequence[int]) -> tuple[list[Seen], list[Reached]]:
    """Run the setting once for each seed. All together first, then each model, then each model in each pool."""
    runs = [measured(setting, seed) for seed in seeds]
    return summed(setting, runs), reached(setting, runs)


def measured(setting: Setting, seed: int, warm_up: float = WARM_UP) -> Measured:
    """One run of the setting."""
    several = Several(setting, seed)
    run = several.run()
    promised = ~(np.isnan(run.ttft_slo) & np.isnan(run.tpot_slo))
    met = ~np.isnan(run.e2e) & ~(run.ttft > run.ttft_slo) & ~(run.tpot > run.tpot_slo)
    counted = np.arange(len(run.ttft)) >= round(warm_up * len(run.ttft))
    return Measured(several.pool.astype(np.float64), run.ttft, run.tpot, met, promised, counted)


def summed(setting: Setting, runs: Sequence[Measured]) -> list[Seen]:
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


def _seen(model: str, pool: str, runs: Sequence[Measured], own: Flags, number: int | None) -> Seen:
    rows: list[list[float]] = []
    for run in runs:
        kept = own & run.counted & (True if number is None else run.of == number)
        promised = kept & run.promised
        rows.append([
            float(kept.sum()), float(run.met[promised].mean()) if promised.any() else np.nan,
            float((run.of[kept] < 0.0).mean()) if kept.any() else np.nan,
            *_quantiles(run.ttft[kept]), *_quantiles(run.tpot[kept]),
        ])  # fmt: skip
    found = [mean(list(column)) for column in zip(*rows, strict=True)]
    columns = [Figure(one.value, one.low, one.high) for one in found]
    ends = 3 + len(QUANTILES)
    return Seen(model, pool, columns[0].value, columns[1], columns[2], tuple(columns[3:ends]), tuple(columns[ends:]))


def _quantiles(values: Floats) -> list[float]:
    there = values[~np.isnan(values)]
    return np.percentile(there, QUANTILES).tolist() if len(there) else [np.nan] * len(QUANTILES)


def reached(setting: Setting, runs: Sequence[Measured]) -> list[Reached]:
    """For each model, arm and first pool, how many of its calls were answered there, elsewhere, and not at all."""
    number = {plan.name: float(at) for at, plan in enumerate(setting.pools)}
    groups: dict[tuple[str, str, str], list[int]] = {}
    for place, call in enumerate(setting.calls):
        groups.setdefault((call.model, call.arm, call.pools[0] if call.pools else ""), []).append(place)
    found = []
    for (model, arm, pool), places in groups.items():
        of = np.stack([run.of[places] for run in runs])
        there, refused = float((of == number.get(pool, np.nan)).mean()), float((of < 0.0).mean())
        found.append(Reached(model, arm, pool, len(places), there, max(0.0, 1.0 - there - refused), refused))
    return found
