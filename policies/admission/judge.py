"""Whether a request's promises can be kept where it would be sent now, and what becomes of it if not.

The rule is that of admission at the edge: a request goes when the endpoint chosen for it is predicted to keep its SLO
and its deadline; it waits while it may still make it, and no longer. What cannot make it is refused early, because
beyond what a fleet can carry every late answer costs one that would have been in time (Breakwater, OSDI'20; DAGOR,
SoCC'18; under overload no policy without refusals keeps its goodput).

What is compared. TTFT: seconds waited so far, and the upper end of the predicted interval. TPOT: the predicted mean
against a share of what is promised (`Margin`): what a stream gets in the end spreads around what is predicted when it
begins, and who fills a fleet to the promise itself has half of its streams above it. A tenant that had much more than
its share lately is held to less (`GUARD`): it gets what others leave, but not to the point where they would feel it.

A promise that even an idle endpoint could not keep is no ground for a refusal: it is stretched to what an idle one
gives with some room, and the request is served as well as can be. It says something about the promise, not about the
load; refusing it would refuse it for ever. A deadline is different: it is the client's own word that a later answer is
of no use, so one that an idle endpoint would miss is refused, and not worth trying again.

How long a whole answer takes is known badly, since nobody knows how much a model will write. So the bound for deadlines
is learnt from all answers (`Finish`), on the logarithm of real over predicted time, by the online conformal method of
`gateway.core.intervals`.
"""

from __future__ import annotations

import math
from math import inf
from typing import NamedTuple

from gateway.core.grounds import PROMISE
from gateway.core.predictor import Predictor
from gateway.core.types import Decision, Forecast, Outcome, Request

GUARD = 0.75  # of what others are held to, for a tenant that had several times its share
UNPROMISED = 2.5  # times the pace of a stream alone: what such a tenant is held to where nothing is promised
WIDEST = 2.0  # times what is expected: no interval that is wider is believed, or nobody would be let in to narrow it
PROBES = 4.0  # requests at an endpoint up to which it is never too full: what it does with few must go on being seen
STRETCH = 1.5  # a promise is at least so many times what an idle endpoint takes
SURE = 1.1  # times the first token of an idle endpoint: it will not come sooner


class Verdict(NamedTuple):
    """`goes`, or else: until when a turn is of use, and the contract's word for a refusal then.

    `holds_until`: it could go, but its policy would rather choose later, at most until then. `hopeless`: waiting and
    trying again cannot help. `lacks`: what was missing (words of `gateway.core.grounds`); `forecast`: what was
    predicted where it would have gone.
    """

    goes: bool
    until: float = inf
    why: str = "queue_timeout"
    holds_until: float = inf
    hopeless: bool = False
    lacks: str = PROMISE
    forecast: Forecast | None = None


GO = Verdict(True)


class Bound:
    """An upper bound that a share `miss` of what is learnt exceeds, online; on a logarithm."""

    __slots__ = ("_miss", "samples", "value")

    def __init__(self, miss: float, start: float):
        self._miss = miss
        self.value = start
        self.samples = 0

    def learn(self, error: float) -> None:
        """One more logarithm of real over predicted."""
        self.samples += 1
        step = 0.05 + 1.0 / (4.0 + self.samples)
        self.value += step * ((1.0 if error > self.value else 0.0) - self._miss)
        self.value = min(4.0, max(0.02, self.value))


class Finish:
    """By how much answers take longer than predicted, dispatch to end; apart for short and long expected answers."""

    MISSES = 0.03, 0.01

    def __init__(self) -> None:
        self._bounds = [(Bound(self.MISSES[0], 1.1), Bound(self.MISSES[1], 1.8)) for _ in range(5)]

    def factor(self, request: Request) -> float:
        """What to multiply the predicted time with to have a bound that is hardly ever exceeded."""
        return math.exp(self._of(request)[0].value)

    def stated(self, request: Request) -> float:
        """The same for the bound that one in a hundred exceeds."""
        return math.exp(max(bound.value for bound in self._of(request)))

    def learn(self, request: Request, predicted: float, seconds: float) -> None:
        """An answer that was predicted to take so long took `seconds`."""
        if predicted > 0.0 and seconds > 0.0:
            error = math.log(seconds / predicted)
            for bound in self._of(request):
                bound.learn(error)

    def _of(self, request: Request) -> tuple[Bound, Bound]:
        return self._bounds[min(4, max(0, int(request.output_tokens).bit_length() // 2 - 1))]


class Margin:
    """The share of a promised TPOT that an endpoint is filled up to, so that few of the streams miss it.

    It is what the streams' real pace over the predicted one makes necessary, learnt only from those that were predicted
    to come near their promise: what an idle fleet's streams are off by says nothing about a full one's.
    """

    MISSED, NEAR, LEAST, MOST = 0.03, 0.6, 0.85, 1.0

    def __init__(self) -> None:
        self._bound = Bound(self.MISSED, 0.1)
        self.share = 0.9

    def learn(self, promised: float, predicted: float, gap: float) -> None:
        """One more stream has ended, with `gap` seconds between its tokens."""
        if predicted > self.NEAR * promised:
            self._bound.learn(math.log(gap / predicted))
            self.share = min(self.MOST, max(self.LEAST, math.exp(-self._bound.value)))


class Judge:
    """Of one pool."""

    def __init__(self) -> None:
        self.finish = Finish()
        self.margin = Margin()

    def judge(self, request: Request, decision: Decision, predictor: Predictor | None, inflight: float, now: float,
              gives_way: bool = False) -> Verdict:  # fmt: skip
        """Of a request for which an endpoint was chosen that has so many in flight.

        `gives_way`: its tenant had more than its share.
        """
        forecast = decision.forecast
        if forecast is None or predictor is None or not predictor.calibrated:
            return GO
        if request.deadline == request.deadline and self._is_too_long(request, forecast, now):
            return self._misses_deadline(request, predictor, now, forecast)
        ttft_slo, tpot_slo = request.ttft_slo, request.tpot_slo
        pace = self.margin.share * (GUARD if gives_way else 1.0)
        if gives_way and tpot_slo != tpot_slo:
            tpot_slo = UNPROMISED * predictor.idle_tpot()
        waited = now - request.arrived
        first = waited + min(forecast.ttft_high, WIDEST * forecast.ttft)
        # Written so that what is not promised (NaN) is never broken.
        if not (first > ttft_slo or forecast.tpot_base > pace * tpot_slo):
            return GO
        ttft_slo = max(ttft_slo, STRETCH * predictor.idle_ttft(request.prompt_tokens))
        tpot_slo = max(tpot_slo, STRETCH * predictor.idle_tpot())
        if not (first > ttft_slo or forecast.tpot_base > pace * tpot_slo):
            return GO
        if inflight < PROBES and waited < ttft_slo:
            return GO
        return self.patience(request, predictor, now)._replace(forecast=forecast)

    def without_first(self, request: Request, decision: Decision, predictor: Predictor | None, now: float) -> Verdict:
        """Of one that is late already and is served all the same: its pace, and so that of others, and its deadline."""
        forecast = decision.forecast
        if forecast is None or predictor is None or not predictor.calibrated:
            return GO
        if request.deadline == request.deadline and self._is_too_long(request, forecast, now):
            return self._misses_deadline(request, predictor, now, forecast)
        tpot_slo = max(request.tpot_slo, STRETCH * predictor.idle_tpot())
        return Verdict(False, forecast=forecast) if forecast.tpot_base > self.margin.share * tpot_slo else GO

    def patience(self, request: Request, predictor: Predictor | None, now: float) -> Verdict:
        """Until when waiting is of use to this request, whatever it waits for."""
        until, why = inf, "queue_timeout"
        if request.ttft_slo == request.ttft_slo:
            is_told = predictor is not None and predictor.calibrated
            first = predictor.idle_ttft(request.prompt_tokens) if predictor is not None and is_told else 0.0
            until, why = request.arrived + max(request.ttft_slo, STRETCH * first) - SURE * first, "slo"
        last = self.last_start(request, predictor)
        if last < until:  # (not where there is no deadline)
            until, why = last, "deadline"
        return Verdict(False, until, why, hopeless=why == "deadline" and until < now)

    def last_start(self, request: Request, predictor: Predictor | None) -> float:
        """When an idle fleet must have begun with it so that its deadline is kept; NaN: it has none."""
        if predictor is None or not predictor.calibrated:
            return request.deadline
        whole = predictor.idle_ttft(request.prompt_tokens) + predictor.idle_tpot() * request.output_tokens
        return request.deadline - whole * self.finish.factor(request)

    def _is_too_long(self, request: Request, forecast: Forecast, now: float) -> bool:
        left = (request.deadline - now) / self.finish.factor(request)
        return forecast.ttft + forecast.tpot * request.output_tokens > left

    def _misses_deadline(self, request: Request, predictor: Predictor, now: float, forecast: Forecast) -> Verdict:
        """What makes it late is the pace of the fleet, and that changes more slowly than the time runs out."""
        idle = predictor.idle_ttft(request.prompt_tokens) + predictor.idle_tpot() * request.output_tokens
        late = now + idle > request.deadline
        return Verdict(False, now, "deadline", hopeless=late, forecast=forecast)

    def observe(self, request: Request, outcome: Outcome, forecast: Forecast, gap: float) -> None:
        """A complete answer; `gap` is what its TPOT was (NaN: not known)."""
        self.finish.learn(request, forecast.ttft + forecast.tpot * request.output_tokens, outcome.duration)
        if gap > 0.0 and request.tpot_slo > 0.0:
            self.margin.learn(request.tpot_slo, forecast.tpot_base, gap)
