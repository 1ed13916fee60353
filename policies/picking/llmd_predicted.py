"""Predicted latency as llm-d picks by it: warm endpoints first, then a blend of TTFT and TPOT, or the least headroom.

The rule of llm-d's predicted-latency scheduling (`slo_aware_router` of the Gateway API Inference Extension, now in
llm-d-router). In order: (1) if endpoints hold 80 % of the prompt, only those are considered, except for one request in
a hundred, and unless the best of them is predicted to be 5 s later than the best of all; (2) headroom is what the
request's SLO leaves, TTFT and TPOT each; (3) figures are scaled to 0..1 over the candidates and blended
0.8 TTFT + 0.2 TPOT. Mode `latency` takes the lowest blend of the predictions, as theirs does for requests without SLOs.
Mode `headroom` takes, among the endpoints with both headrooms positive, the *least* (their default: pack tightly, keep
others free for harder requests); one request in a hundred goes to the others all the same; if none has headroom, idle
endpoints first, then the smallest blend of what is missing. All constants are theirs.

Stronger here than published: the prediction is this gateway's (theirs: boosted trees in sidecars, 13 to 48 ms a
decision, counts of up to 50 ms ago), the best is taken where they draw with weights (`draw: true` is theirs), an SLO
that is not given is met instead of counted as zero. Left out: the first gate at 99 %, a TPOT SLO tightened to that of
the strictest request there, quantiles for the mean. The least headroom fills each endpoint to what it just bears on a
point prediction, so later arrivals break what earlier ones were promised; it is the rule, and a warning.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from gateway.core.snapshot import Snapshot
from gateway.core.types import Decision, Floats, Outcome, Request
from policies.picking.base import EQUAL, Policy, lowest
from policies.picking.options import number, switch, whole
from policies.picking.warmth import Caches

Mask = npt.NDArray[np.bool_]

TTFT_WEIGHT, TPOT_WEIGHT = 0.8, 0.2
# Of weights for the draw: the worst candidate still has one chance where the best has a hundred.
LEAST_WEIGHT, MOST_WEIGHT = 1.0, 100.0


class LlmdPredicted(Policy):
    """`mode`: `latency` or `headroom`. `affinity`: the share of the prompt that makes an endpoint warm.

    `explore`: the share of requests for which a gate is left open. `break_after`: seconds of predicted TTFT beyond the
    best that a warm endpoint may cost. `draw`: draw with weights instead of taking the best. `max_blocks`: the size of
    the index (150 bytes each; a prompt of 16 KB has 57).
    """

    predicts: ClassVar[bool] = True

    def __init__(self, mode: str = "latency", affinity: float = 0.8, explore: float = 0.01, break_after: float = 5.0,
                 draw: bool = False, max_blocks: int = 65_536):  # fmt: skip
        if mode not in ("latency", "headroom"):
            raise ValueError(f"mode must be latency or headroom, not {mode!r}")
        self.mode = mode
        self.affinity = number("affinity", affinity, 0.0, 1.0)
        self.explore = number("explore", explore, 0.0, 1.0)
        self.break_after = number("break_after", break_after, 0.0)
        self.draw = switch("draw", draw)
        self._caches = Caches(whole("max_blocks", max_blocks, 1_000, 100_000_000))

    def pick(self, request: Request, snapshot: Snapshot) -> Decision:
        predictor = snapshot.fleet.predictor
        assert predictor is not None, "a policy that predicts is given a predictor"
        warmth = self._caches.look(request, snapshot)
        cached = warmth.cached
        prediction = predictor.predict(request, snapshot, cached)
        ttft, tpot = prediction.ttft, prediction.tpot
        among, why = self._warm(warmth.share, ttft, snapshot)
        if self.mode == "latency":
            scores = blend(ttft, tpot, among)
            why += ", lowest blend of predictions"
        else:
            scores, tier = self._by_headroom(request, ttft, tpot, among, snapshot)
            why += tier
        position = self._best(scores, snapshot)
        row = int(snapshot.rows[position])
        taken = self._caches.sender(request, warmth, position, row)
        seen = f"TTFT {float(ttft[position]) * 1e3:.0f} ms, TPOT {float(tpot[position]) * 1e3:.1f} ms: "
        forecast = predictor.forecast(prediction, position)
        return Decision(row, seen + why, scores, float(cached[position]), forecast, taken=taken)

    def observe(self, outcome: Outcome) -> None:
        self._caches.observe(outcome)

    def leave(self, row: int) -> None:
        self._caches.leave(row)

    def _warm(self, share: Floats, ttft: Floats, snapshot: Snapshot) -> tuple[Mask, str]:
        """Who is considered at all, and why."""
        warm = share >= self.affinity
        if not warm.any():
            return np.ones(len(share), np.bool_), "none is warm"
        if snapshot.random.random() < self.explore:
            return np.ones(len(share), np.bool_), "exploring"
        late = float(np.where(warm, ttft, np.inf).min()) - float(np.fmin.reduce(ttft))
        if late > self.break_after:
            return np.ones(len(share), np.bool_), f"the warm ones are {late:.1f} s later"
        return warm, f"of {int(warm.sum())} warm"

    def _by_headroom(
        self, request: Request, ttft: Floats, tpot: Floats, among: Mask, snapshot: Snapshot
    ) -> tuple[Floats, str]:
        """Scores by what the SLOs leave, infinite for those not considered, and which tier that was."""
        first, each = headroom(request.ttft_slo, ttft), headroom(request.tpot_slo, tpot)
        met = among & (first > 0.0) & (each > 0.0)
        missed = among & ~met
        if met.any() and not (missed.any() and snapshot.random.random() < self.explore):
            return blend(first, each, met), f", least headroom of {int(met.sum())} that have some"
        idle = missed & (snapshot.requests < 1.0 - EQUAL)
        lacking = idle if idle.any() else missed
        return blend(np.maximum(-first, 0.0), np.maximum(-each, 0.0), lacking), ", none has headroom: least is missing"

    def _best(self, scores: Floats, snapshot: Snapshot) -> int:
        if not self.draw:
            return lowest(scores, snapshot.random)
        weights = np.where(scores <= 1.0, (1.0 - scores) * (MOST_WEIGHT - LEAST_WEIGHT) + LEAST_WEIGHT, 0.0).cumsum()
        if not weights[-1] > 0.0:
            return lowest(scores, snapshot.random)
        return min(int(weights.searchsorted(snapshot.random.random() * weights[-1], "right")), len(scores) - 1)


def headroom(slo: float, predicted: Floats) -> Floats:
    """Seconds that the SLO leaves, one value per candidate; without an SLO they all have the same."""
    return slo - predicted if slo == slo else np.ones(len(predicted))


def blend(ttft: Floats, tpot: Floats, among: Mask) -> Floats:
    """Of those in `among` 0 for the lowest to 1 for the highest, TTFT and TPOT each, weighted; the rest: infinite."""
    return np.where(among, TTFT_WEIGHT * _scaled(ttft, among) + TPOT_WEIGHT * _scaled(tpot, among), np.inf)


def _scaled(values: Floats, among: Mask) -> Floats:
    considered = values[among]
    low, high = float(np.fmin.reduce(considered)), float(np.fmax.reduce(considered))
    if not 0.0 < high - low < np.inf:
        return np.zeros(len(values))
    return (values - low) / (high - low)
