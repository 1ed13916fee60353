"""Where the request is best for everyone: its own risk of missing what was promised, plus the harm it does to others.

The idea: in an engine with chunked prefill the damage of a long prompt falls on the streams beside it, so the endpoint
with the soonest first token is often the wrong one. For each candidate, from predictions (all shares, lower is better):

    score = 2.5 tt / S_t  +  0.5 t1 / S_p  +  L((tt / S_t - 1) / s_t)  +  L((t0 / S_p - 1) / s_p)  +  weight * harm
    harm  = B * work / (O * S_p) * L((t1 / S_p - 1.05) / s_p)

tt: seconds to its first token, t0 and t1: seconds per token there without and with it, B: sequences there, work:
seconds of prefill it brings, O: the mean length of an answer, S_t and S_p: what is promised (SLO), L: a smooth step
from 0 to 1. The harm is (how many are delayed) x (how long, as a share of what they may take in all) x (how much it
matters there now). With its last factor constant it is the rule of LMETRIC (arXiv 2603.15202); without it, the
soonest first token. The step saturates, because a weight that falls again beyond the promise makes lost endpoints
free and spreads the loss.

The spreads s_t and s_p are how far predictions have lately been off, so a risk is the chance of a miss as far as we
know: with the 0.25 and 0.15 of the note this rule comes from, a full fleet was judged on differences that nobody
could predict. The plain shares keep the order where every step is near 0 or 1. What was tried: docs/notes/0014.

Scores are shares of what was promised, not seconds: they add up risks of two promises, which seconds cannot.

Warm caches count through tokens that need no prefill, as far as this endpoint's cache has kept such promises before.
Away from the warmest cache a part of the work is done a second time, and all who come before that endpoint is idle
again wait for it (the externality of a customer in a queue; Haviv and Ritov, 1998). That is a term of its own:

    again = weight * 2.5 w / S_t * A * tt / (1 - rho)

w: seconds of the prefill that the warmest would not need, A: requests per second for each endpoint, rho: the share of
time that prefill takes there. Nothing where nobody holds a part of the prompt; under load it is what keeps the hit
ratio up, which is capacity then. Without it, cold starts with conversations of coding agents ended in a full fleet.

In a burst, when every endpoint has prompts to work off, the request waits here and the choice is made late: measured,
that gains a point or two of attainment where arrivals come in bursts and nothing where they do not.

Near-equal scores are decided by a warmer cache, then by the fewer requests of two drawn at random. A predictor that has
lost its calibration is not asked: power of two choices decides then, or the warmest cache, at a like price in tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from gateway.core.formula import LONGEST_RHO
from gateway.core.prediction import Prediction
from gateway.core.predictor import Predictor
from gateway.core.snapshot import Snapshot
from gateway.core.types import Decision, Floats, Outcome, Request, nothing
from policies.picking.base import Policy
from policies.picking.options import number, whole
from policies.picking.power_of_two import PowerOfTwo
from policies.picking.warmth import Caches, Warmth
from policies.picking.weighing import TTFT_SHARE, Promise, Weighing

# Where nothing is promised: so many times the first token of an idle endpoint, and the pace of one alone.
TTFT_TIMES, TPOT_TIMES = 4.0, 2.5
FEASIBLE = 0.25  # of what an idle endpoint would take: the fastest of a mixed pool takes so much less, at most
LEAST_TTFT = 0.1  # seconds; nobody notices less
NARROWEST, WIDEST = 0.1, 0.5  # spreads
TIE = 0.001  # of the best score
WARMER = 0.05
_ONE, _MOST_RHO = np.ones(1), np.full(1, LONGEST_RHO)
BINDINGS = ("auto", "always", "never")
BURSTY = 1.5  # coefficient of variation of arrivals from which a late choice gained more than it cost
GAPS_MEMORY, GAPS_ENOUGH = 10.0, 20.0  # seconds, arrivals
LEAST_SPAN = 0.1  # seconds; less says nothing of a rate
SHORTEST_WAIT, LONGEST_WAIT = 0.002, 0.5  # seconds


class Gaps:
    """The coefficient of variation of the gaps between arrivals, over about the last ten seconds. Poisson: 1."""

    def __init__(self) -> None:
        self.variation = 1.0
        self._last = -math.inf
        self._sums = [0.0, 0.0, 0.0]

    def see(self, arrived: float) -> None:
        """A request arrived; one that is looked at again does not count again."""
        gap = arrived - self._last
        if gap <= 0.0:
            return
        self._last = arrived
        if gap == math.inf:  # the first one
            return
        sums, kept = self._sums, math.exp(-gap / GAPS_MEMORY)
        sums[0] = sums[0] * kept + 1.0
        sums[1] = sums[1] * kept + gap
        sums[2] = sums[2] * kept + gap * gap
        if sums[0] > GAPS_ENOUGH:
            mean = sums[1] / sums[0]
            self.variation = max(0.0, sums[2] / sums[0] / (mean * mean) - 1.0) ** 0.5

    @property
    def rate(self) -> float:
        """Arrivals per second."""
        return self._sums[0] / max(self._sums[1], LEAST_SPAN)


class PredictedLatency(Policy):
    """`harm`: the weight of what the request does to others; 0 makes it selfish.

    `ttft`, `tpot`: seconds promised where neither the request nor its model says; 0 derives them from idle endpoints.
    `late_binding`: whether a request waits at the gateway while every endpoint has prompts to work off: `auto` (while
    arrivals come in bursts), `always` or `never`. It waits at most half of what its promise leaves.
    `max_blocks`: the size of the prefix index (150 bytes each; a prompt of 16 KB has 57).
    """

    predicts = True
    TERMS: ClassVar[tuple[str, ...]] = ("ttft", "tpot", "ttft_risk", "tpot_risk", "harm", "cached", "again")

    def __init__(self, harm: float = 1.0, ttft: float = 0.0, tpot: float = 0.0, late_binding: str = "auto",
                 max_blocks: int = 65_536):  # fmt: skip
        self.harm = number("harm", harm, 0.0, 100.0)
        self.ttft = number("ttft", ttft, 0.0)
        self.tpot = number("tpot", tpot, 0.0)
        self._caches = Caches(whole("max_blocks", max_blocks, 1_000, 100_000_000))
        self._fallback = PowerOfTwo()
        if late_binding not in BINDINGS:
            raise ValueError(f"late_binding must be {', '.join(BINDINGS)}, not {late_binding!r}")
        self._may_wait = late_binding != "never"
        self._always_waits = late_binding == "always"
        self._gaps = Gaps()
        self._weighing = Weighing()

    def pick(self, request: Request, snapshot: Snapshot) -> Decision:
        predictor = snapshot.fleet.predictor
        assert predictor is not None, "predicted_latency needs a predictor"
        self._gaps.see(request.arrived)
        warmth = self._caches.look(request, snapshot) if request.prompt else None
        cached = warmth.cached if warmth is not None and warmth.chains else None
        prediction = predictor.predict(request, snapshot, cached)
        if not predictor.calibrated:
            return self._guess(request, snapshot, predictor, prediction, warmth)
        again = None
        if cached is not None and cached.any():
            again = self._again(request, predictor, prediction, cached)
        scores, terms = self._weighing.weigh(prediction, self._promise(request, predictor), cached, again)
        position, why = self._lowest(scores, snapshot, cached)
        row = snapshot.rows.item(position)
        wait = self._wait(request, snapshot, predictor, terms.item(0, position))
        forecast = predictor.forecast(prediction, position)
        held = 0.0 if cached is None else cached.item(position)
        each = forecast.tpot * 1e3
        reason = f"first token in {forecast.ttft:.3f} s, then {each:.1f} ms each; {why}, of {len(scores)}"
        return Decision(row, reason, scores, held, forecast, terms, wait, self._sender(request, warmth, position, row))

    def _wait(self, request: Request, snapshot: Snapshot, predictor: Predictor, ttft: float) -> float:
        """Seconds for which a later choice is worth waiting for; 0: choose now."""
        if not (self._may_wait and request.may_wait):
            return 0.0
        if not self._always_waits and self._gaps.variation < BURSTY:
            return 0.0
        books = predictor.books
        busy = snapshot.column(books.queue) + snapshot.column(books.running)
        if not busy.all():
            return 0.0
        slack = self._promised(request, predictor)[0] - (snapshot.now - request.arrived) - ttft
        wait = min(LONGEST_WAIT, slack / 2.0)
        return wait if wait > SHORTEST_WAIT else 0.0

    def _promise(self, request: Request, predictor: Predictor) -> Promise:
        """What it is weighed by."""
        ttft, tpot = self._promised(request, predictor)
        learnt = predictor.learnt
        ttft_spread = min(WIDEST, max(NARROWEST, learnt.ttft.spread))
        tpot_spread = min(WIDEST, max(NARROWEST, learnt.tpot.spread))
        return Promise(ttft, tpot, ttft_spread, tpot_spread, self.harm / (learnt.mean_output * tpot))

    def _again(self, request: Request, predictor: Predictor, p: Prediction, cached: Floats) -> Floats:
        """What it costs others that a part of this prompt is prefilled a second time: a share of their promises."""
        lost: Floats = cached.max() - cached
        lost *= p.work / np.maximum(p.prompt - cached, _ONE)
        behind = p.ttft / (_ONE - np.minimum(p.rho, _MOST_RHO))
        behind *= self.harm * TTFT_SHARE / self._promised(request, predictor)[0] * self._gaps.rate / len(cached)
        lost *= behind
        return lost

    def _promised(self, request: Request, predictor: Predictor) -> tuple[float, float]:
        ttft, tpot = request.ttft_slo, request.tpot_slo
        idle = predictor.idle_ttft(request.prompt_tokens)
        if ttft != ttft:
            ttft = self.ttft or max(LEAST_TTFT, TTFT_TIMES * idle)
        if tpot != tpot:
            tpot = self.tpot or TPOT_TIMES * predictor.idle_tpot()
        # Who asks for what no endpoint can give is not sent before others for it.
        ttft, tpot = max(ttft, FEASIBLE * idle), max(tpot, FEASIBLE * predictor.idle_tpot())
        return ttft, tpot

    def _lowest(self, scores: Floats, snapshot: Snapshot, cached: Floats | None) -> tuple[int, str]:
        """Position of the best score; among the nearly best the warmer one, else the less busy of two at random.

        And in words how it was chosen.
        """
        position = int(scores.argmin())
        best = scores.item(position)
        if cached is not None and cached.item(cached.argmax()) > cached.item(position):
            near = (scores <= best * (1.0 + WARMER)).nonzero()[0]
            warmest = int(near[cached[near].argmax()])
            if cached.item(warmest) > cached.item(position):
                return warmest, "warmest of those nearly at the least cost"
        near = (scores <= best * (1.0 + TIE)).nonzero()[0]
        if len(near) <= 1:
            return position, "least cost"
        random, requests = snapshot.random.random, snapshot.requests
        one, other = (int(near[int(random() * len(near))]) for _ in range(2))
        return one if requests.item(one) <= requests.item(other) else other, "one of the least cost"

    def _guess(self, request: Request, snapshot: Snapshot, predictor: Predictor, prediction: Prediction,
               warmth: Warmth | None) -> Decision:  # fmt: skip
        """What is done when predictions cannot be trusted; they go on being made, to be learnt from."""
        choice = self._fallback.pick(request, snapshot)
        position = int((snapshot.rows == choice.row).nonzero()[0][0])
        if warmth is not None:
            choice, position = self._or_warmest(choice, position, warmth, snapshot)
        held = float(warmth.cached[position]) if warmth is not None else 0.0
        taken = self._sender(request, warmth, position, choice.row)
        reason = f"predictions are not calibrated; {choice.reason}"
        forecast = predictor.forecast(prediction, position)
        return Decision(choice.row, reason, choice.scores, held, forecast, taken=taken)

    def _sender(self, request: Request, warmth: Warmth | None, position: int, row: int) -> Callable[[], None]:
        return self._caches.sender(request, warmth, position, row) if warmth is not None else nothing

    def _or_warmest(self, choice: Decision, position: int, warmth: Warmth,
                    snapshot: Snapshot) -> tuple[Decision, int]:  # fmt: skip
        """The warmest endpoint instead, unless more tokens are to be worked off there, those of this prompt included.

        What the warmest need not do counts once more for each that waits there: about so many will come while it is
        done. Spreading conversations over all endpoints is what a full fleet cannot afford: every cache holds them
        then, and none for long. Without it, a predictor that lost its calibration in a cold start never found it again.
        """
        cached = warmth.cached
        warmest = int(cached.argmax())
        if cached.item(warmest) <= cached.item(position):
            return choice, position
        fleet = snapshot.fleet
        left = snapshot.tokens - cached
        left += (cached.item(warmest) - cached) * snapshot.column(fleet.ours - fleet.decoding)
        if left.item(warmest) > left.item(position):
            return choice, position
        reason = f"{left.item(warmest):.0f} tokens to do at the warmest, with this prompt"
        return Decision(int(snapshot.rows[warmest]), reason, left), warmest

    def observe(self, outcome: Outcome) -> None:
        self._caches.observe(outcome)

    def leave(self, row: int) -> None:
        self._caches.leave(row)
        self._fallback.leave(row)
