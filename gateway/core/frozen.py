"""How much longer an answer took than it should have: one set of prices, frozen, for both arms of a canary.

The idea: a canary and the fleet beside it differ in load, and prompts differ from minute to minute, so their latencies
say little. The predictor knows what an answer costs in iterations, tokens and context; so what is compared is
log(observed / predicted). Both arms' predictors go on learning, and would learn that a slow canary is slow, so the
prices are copied once, from the stable pool's, and both arms are held against the copy. Neither the factors of
endpoints nor the corrections of regimes are in it: what makes a server slower than the price list is what is judged.
That is the adjustment by a covariate of controlled experiments (CUPED: Deng, Xu, Kohavi and Walker, WSDM 2013).

- A first token is priced as `formula` does it, from what stood before it at its own endpoint when it was sent, with
  the prompt's length as the engine counted it. How much of the prompt was cached is as was thought beforehand: a cache
  that does not work is harm, and must show.
- The gap between tokens is priced from what went on beside the stream while it ran, as `learning` is told of it.
- Answers that are not streamed have one figure, how long they took, and pools without a predictor have no prices. Both
  get a regression on prompt, answer and neighbours, fitted to the stable arm alone as it goes along: coarser, since how
  busy an endpoint was is known at two moments only.

What is wrong with the prices is wrong for both arms, but not equally where their loads are not equal; how much that
is worth is the margin's business. Left to others: what follows from the figures (`policies.routing`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from gateway.core.predictor import Predictor
from gateway.core.prices import LEAST_ROOM, NAMES
from gateway.core.reservation import Reservation
from gateway.core.types import UNKNOWN, Floats, Forecast, Outcome

FEWEST_STEPS = 8.0  # a shorter stretch of a stream says little of its pace
MOST = 4.0  # of a residual, either way: fifty times as long; what is beyond says no more
FEWEST = 30  # answers of the stable arm before a regression says anything
EARLY, SOLVE_EVERY = 200, 16  # from so many on, prices are made anew after every so many
MEMORY = 2000.0  # answers after which one weighs 1/e
RIDGE = 1e-4  # relative; it keeps quantities that are the same apart
CUT = 3.0  # times as long as expected: what took longer is learnt from as if it had not
SHORTEST = 0.02  # of what was observed, that is the least to be expected
VERSION = 1
_MOST_SLOWER = 10.0
_HIGHEST = 1e12


class Residual(NamedTuple):
    """log(observed / predicted) of the first token and of the gap between tokens; NaN where there is none.

    For an answer that was not streamed, `tpot` is that of its whole duration.
    """

    ttft: float
    tpot: float


NONE = Residual(UNKNOWN, UNKNOWN)


@dataclass(frozen=True, slots=True)
class PriceList:
    """Prices in the order of `prices.NAMES` (seconds per unit); knees and chunk budget that they go with (tokens)."""

    each: tuple[float, ...]
    knees: tuple[float, float]
    chunk: float

    def first_token(self, rest: float, tokens: float, decoding: float, context: float, pairs: float) -> float:
        """Seconds to a first token: `tokens` to work off, its own last; `rest` until the running iteration ends."""
        overhead, base, decode, read, *slopes, pair = self.each
        rounds = math.ceil(tokens / max(LEAST_ROOM, self.chunk - decoding))
        before, after = self._pieces(decoding), self._pieces(decoding + tokens / rounds)
        added = sum(slope * (b - a) for slope, a, b in zip(slopes, before, after, strict=True))
        return overhead + rest + rounds * (base + decode * decoding + read * context + added) + pair * pairs

    def stretch(self, quantities: Sequence[float]) -> float:
        """Seconds of a stretch of a stream: see `Reservation.stretch`; without its seconds and its knees."""
        steps, decoding, context, *worked = quantities
        _, base, decode, read, *work = self.each
        return steps * (base + decode * decoding + read * context) + math.fsum(map(float.__mul__, work, worked))

    def _pieces(self, tokens: float) -> tuple[float, ...]:
        edges = (0.0, *self.knees, math.inf)
        return tuple(min(max(tokens - low, 0.0), high - low) for low, high in pairwise(edges))


class Trend:
    """Seconds as a sum of quantities (at least 0; the first is 1) times prices that are fitted as it goes along.

    Least squares on relative errors, large ones cut, the past fading. A straight line in seconds and not in logarithms:
    that is what engines do, so it holds for an endpoint that is idle where the stable arm's never are.
    """

    def __init__(self, width: int):
        self.count = 0
        self._squares: Floats = np.zeros((width, width))
        self._products: Floats = np.zeros(width)
        self._prices: Floats = np.zeros(width)

    def residual(self, seconds: float, quantities: Sequence[float], learn: bool) -> float:
        """log(observed / expected); NaN while too few are known."""
        x = np.array(quantities)
        expected = max(float(self._prices @ x), SHORTEST * seconds) if self.count else seconds
        left = math.log(seconds / expected) if self.count >= FEWEST else UNKNOWN
        if learn:
            self._learn(min(seconds, CUT * expected) / expected, x / expected)
        return left

    def _learn(self, share: float, x: Floats) -> None:
        self.count += 1
        fade = math.exp(-1.0 / MEMORY)
        self._squares *= fade
        self._squares += np.outer(x, x)
        self._products *= fade
        self._products += share * x
        if self.count < EARLY or self.count % SOLVE_EVERY == 0:
            self._solve()

    def _solve(self) -> None:
        scale = np.sqrt(np.maximum(self._squares.diagonal(), 1e-12))
        held = self._squares / np.outer(scale, scale) + RIDGE * np.eye(len(scale))
        self._prices = np.maximum(np.linalg.solve(held, self._products / scale) / scale, 0.0)

    def to_state(self) -> dict[str, object]:
        """JSON values."""
        return {"count": self.count, "squares": self._squares.tolist(), "products": self._products.tolist()}

    def restore(self, state: Mapping[str, object]) -> None:
        """Go on from what `to_state` gave. Raises ValueError, and changes nothing, if it is not that."""
        try:
            count = int(state["count"])  # type: ignore[call-overload]
            squares, products = (np.array(state[name], float) for name in ("squares", "products"))
            good = squares.shape == self._squares.shape and products.shape == self._products.shape and count >= 0
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"not a regression: {error}") from error
        if not good or not all((np.abs(figures) < _HIGHEST).all() for figures in (squares, products)):
            raise ValueError("not a regression of this width")
        if not np.allclose(squares, squares.T) or (squares.diagonal() < 0.0).any():
            raise ValueError("a regression on figures that cannot be")
        self.count, self._squares, self._products = count, squares, products
        self._solve()


class Frozen:
    """What both arms of one canary are held against. `prices` None: there are none, regressions do it all.

    Call `residual` once for each answer of either arm, when its place has been given back.
    """

    def __init__(self, prices: PriceList | None = None):
        self.prices = prices
        self._first, self._gap, self._whole = Trend(3), Trend(3), Trend(4)

    @classmethod
    def of(cls, stable: Predictor | None, *others: Predictor | None) -> Frozen:
        """A copy of what the `stable` pool's predictor knows now; `others`: those of the pools it is compared with.

        Without prices where one of them has no predictor, or counts tokens by other knees.
        """
        if stable is None or any(other is None or _knees(other) != _knees(stable) for other in others):
            return cls()
        learnt = stable.learnt
        return cls(PriceList(learnt.prices.each, learnt.prices.knees, learnt.chunk))

    def residual(self, reservation: Reservation, outcome: Outcome, *, stable: bool) -> Residual:
        """What came of a place taken, over what should have. Only from the `stable` arm is anything learnt."""
        complete = outcome.ended == "complete" and outcome.status < 400
        if not reservation.stream and not reservation.read_slowly:
            return Residual(UNKNOWN, self._of_whole(reservation, outcome, stable) if complete else UNKNOWN)
        if not outcome.ttft > 0.0 or outcome.status >= 400:
            return NONE
        ttft = self._of_first(reservation, outcome, stable)
        complete = complete and not reservation.read_slowly
        return Residual(_cut(ttft), _cut(self._of_gap(reservation, outcome, stable)) if complete else UNKNOWN)

    def _of_first(self, reservation: Reservation, outcome: Outcome, stable: bool) -> float:
        prompt, own = _lengths(reservation, outcome)
        if self.prices is None:
            return self._first.residual(outcome.ttft, [1.0, own + reservation.ahead, reservation.beside], stable)
        f = reservation.forecast
        if f is None or f.waits:  # a full cache says how long others take to finish
            return UNKNOWN
        left = f.rest * self._slower(f)
        pairs = f.pairs + _pairs(own, prompt) - _pairs(reservation.uncached, reservation.prompt)
        tokens = max(1.0, f.tokens + own - reservation.uncached)
        return math.log(outcome.ttft / self._priced(left, tokens, f, max(0.0, pairs)))

    def _slower(self, f: Forecast) -> float:
        """What the iteration under way would take by these prices, over what its own pool's predictor thought.

        Its rest was told in the seconds of its own endpoint: of one that is slow it is long, and that is to show.
        """
        own = f.ttft_base - f.rest
        return min(_MOST_SLOWER, self._priced(0.0, f.tokens, f, f.pairs) / own) if own > 0.0 else 1.0

    def _priced(self, rest: float, tokens: float, f: Forecast, pairs: float) -> float:
        assert self.prices is not None
        return self.prices.first_token(rest, tokens, f.decoding, f.context, pairs)

    def _of_gap(self, reservation: Reservation, outcome: Outcome, stable: bool) -> float:
        steps, seconds = outcome.output_tokens - 1.0, outcome.duration - outcome.ttft
        if not steps >= FEWEST_STEPS or not seconds > 0.0:
            return UNKNOWN
        if self.prices is None:
            return self._gap.residual(seconds / steps, [1.0, _beside(reservation), reservation.prompt], stable)
        stretch = reservation.stretch
        if stretch is None or stretch[-2:] != self.prices.knees:
            return UNKNOWN
        return math.log(stretch[0] / self.prices.stretch(stretch[1:-2]))

    def _of_whole(self, reservation: Reservation, outcome: Outcome, stable: bool) -> float:
        tokens = outcome.output_tokens
        if not tokens > 0.0 or not outcome.duration > 0.0:
            return UNKNOWN
        work = _lengths(reservation, outcome)[1] + reservation.ahead
        quantities = [1.0, work, tokens, tokens * _beside(reservation)]
        return _cut(self._whole.residual(outcome.duration, quantities, stable))

    # --- keeping -------------------------------------------------------------------------------------------------

    def to_state(self) -> dict[str, object]:
        """JSON values."""
        p = self.prices
        prices = None if p is None else {"each": list(p.each), "knees": list(p.knees), "chunk": p.chunk}
        trends = {name: trend.to_state() for name, trend in self._trends().items()}
        return {"version": VERSION, "prices": prices, **trends}

    @classmethod
    def restore(cls, state: Mapping[str, object]) -> Frozen:
        """What `to_state` was asked of. Raises ValueError if this is not what it gave."""
        if state.get("version") != VERSION:
            raise ValueError("frozen prices of another version")
        given = state.get("prices")
        frozen = cls(None if given is None else _read(given))
        for name, trend in frozen._trends().items():
            kept = state.get(name)
            if not isinstance(kept, Mapping):
                raise ValueError(f"frozen prices without {name!r}")
            trend.restore(kept)
        return frozen

    def _trends(self) -> dict[str, Trend]:
        return {"first": self._first, "gap": self._gap, "whole": self._whole}


def _knees(predictor: Predictor) -> tuple[float, float]:
    return predictor.learnt.prices.knees


def _cut(value: float) -> float:
    return value if value != value else max(-MOST, min(MOST, value))


def _lengths(reservation: Reservation, outcome: Outcome) -> tuple[float, float]:
    """Tokens of the prompt as the engine counted them, and of these those that were thought to be uncached."""
    prompt = outcome.prompt_tokens if outcome.prompt_tokens > 0.0 else max(1.0, reservation.prompt)
    return prompt, max(1.0, prompt - max(0.0, reservation.prompt - reservation.uncached))


def _beside(reservation: Reservation) -> float:
    """Requests of ours beside it while it ran: the mean of before and now."""
    return (reservation.beside + reservation.fleet.ours.item(reservation.row)) / 2.0


def _pairs(own: float, prompt: float) -> float:
    """Pairs of tokens in the attention of the last `own` tokens of a prompt."""
    return own * (max(0.0, prompt - own) + own / 2.0)


def _read(given: object) -> PriceList:
    try:
        each, knees = (tuple(map(float, given[name])) for name in ("each", "knees"))  # type: ignore[index]
        chunk = float(given["chunk"])  # type: ignore[index]
        knee1, knee2 = knees
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"not a price list: {error}") from error
    figures = (*each, *knees, chunk)
    if len(each) != len(NAMES) or not all(0.0 < figure < _HIGHEST for figure in figures) or knee1 >= knee2:
        raise ValueError("a price list with figures that cannot be")
    return PriceList(each, (knee1, knee2), chunk)
