"""What a pool's engines cost and how they differ, learnt from the answers: the half of the predictor that remembers.

Every first token and every finished stream is compared with what was predicted (`intervals`), moves its endpoint's
pace (`paces`) and goes into the window; about once a second prices and paces are fitted anew to all that is in it
(`prices`).

The chunk budget of an engine is told by no server: the size that explains the first tokens best is taken. And a pace
seen now says only in part what it will be while the answer lasts, because the pool evens it out: how much is learnt,
too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from gateway.core.intervals import Track
from gateway.core.paces import Paces
from gateway.core.prediction import Prior
from gateway.core.prices import LEAST_ROOM, Prices
from gateway.core.types import Forecast
from gateway.core.window import Window

CHUNKS = (512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0)
# Regimes of a first token: nothing before it, room in the next iteration, several iterations.
IDLE, QUEUED, SATURATED = 0, 1, 2
PACE_REGIMES = 4  # by rho
TOKENS_TO_LEARN = 16.0  # a shorter stretch of a stream says little of its pace
FIRST_FIT = 6  # answers
EARLY = 300  # answers up to which fits are made by count; then at most one in FIT_EVERY seconds
FIT_EVERY = 1.0
CHUNK_TRIALS, CHUNK_BETTER = 4, 0.97  # every so many fits; another budget must bring the error down to this share
FOLLOW = 0.02
# How much of a difference in pace lasts: where it begins, how sure of that, and how long it is remembered.
LASTING, LASTING_SURE, LASTING_MEMORY = 0.7, 0.5, 0.998
HIDDEN_NOISE = 6.0  # what is learnt from is so many times noisier where nearly all requests are other gateways'
VERSION = 1
MOST, FAR = 1e9, 1e4  # of any figure that is kept, and of a price over its prior


class Learning:
    """What is known of one pool. Not thread-safe."""

    def __init__(self, prior: Prior):
        self.prior = p = prior
        self.prices = Prices(
            np.array([p.overhead, p.base, p.decode, p.context, p.slope1, p.slope2, p.slope3, p.pair]),
            (p.knee1, p.knee2), sure=p.sure,
        )  # fmt: skip
        self.paces = Paces()
        self.window = Window()
        self.ttft = Track(3)
        self.tpot = Track(PACE_REGIMES, slow=True)
        self.chunk = p.chunk or 2048.0
        self.per_event = 1.0  # tokens that come with one event of a stream
        self.mean_output = 200.0
        self.lasting = LASTING  # the share of a difference in pace that is still there over an answer's life
        self._lasting_sums = [LASTING * LASTING_SURE, LASTING_SURE, 0.0]
        self._fit_at = FIRST_FIT  # answers in the window at which the next fit is due
        self._fitted_at = -math.inf

    def see_others(self, share: float) -> None:
        """So much of what runs there is other gateways': what it does to an answer is not seen, and lasts for seconds.

        Several answers then tell no more than one, and equal endpoints must not be told apart by it.
        """
        self.prices.doubt = self.paces.doubt = 1.0 + HIDDEN_NOISE * share

    # --- prices for one row --------------------------------------------------------------------------------------

    def added(self, decoding: float, chunk: float) -> tuple[float, float, float]:
        """What a chunk adds to an iteration with so many decodes: tokens up to the first knee, between and beyond."""
        before, after = self.pieces(decoding), self.pieces(decoding + chunk)
        return after[0] - before[0], after[1] - before[1], after[2] - before[2]

    def pieces(self, tokens: float) -> tuple[float, float, float]:
        """Of so many tokens in an iteration those up to the first knee, between the knees and beyond."""
        knee1, knee2 = self.prices.knees
        if tokens <= knee1:
            return tokens, 0.0, 0.0
        if tokens <= knee2:
            return knee1, tokens - knee1, 0.0
        return knee1, knee2 - knee1, tokens - knee2

    def price(self, decoding: float, chunk: float) -> float:
        """Seconds that a chunk adds to an iteration with so many decodes, its attention apart, at a pace of 1."""
        one, two, three = self.added(decoding, chunk)
        prices = self.prices.each
        return prices[4] * one + prices[5] * two + prices[6] * three

    def room(self, decoding: float) -> float:
        """Prompt tokens that one iteration takes beside so many decodes."""
        return max(LEAST_ROOM, self.chunk - decoding)

    # --- answers -------------------------------------------------------------------------------------------------

    def first_token(self, row: int, forecast: Forecast, seconds: float, now: float) -> None:
        """A stream's first token came after so many seconds."""
        f = forecast
        self.ttft.learn(f.regime, seconds, f.ttft, f.ttft_base)
        if f.waits:
            return  # a full cache says how long others take to finish, not what an iteration costs
        self._move_pace(row, f.features, f.rest, seconds, now)
        self.window.add_first(row, seconds, f.rest, f.tokens, f.decoding, f.context, f.pairs)
        self._fit_if_due(now)

    def whole(self, tokens: float, events: float) -> None:
        """An answer of so many tokens; a stream of at least so many events (0: not a stream)."""
        self.mean_output += FOLLOW * (tokens - self.mean_output)
        if events:
            self.per_event += FOLLOW * (max(1.0, tokens / events) - self.per_event)

    def pace(self, forecast: Forecast, seconds: float) -> None:
        """The mean gap between the tokens of a stream was so many seconds."""
        f = forecast
        self.tpot.learn(f.pace_regime, seconds, f.tpot, f.tpot_base)
        # How much of this endpoint's difference from the pool was still there in the end?
        sums = self._lasting_sums
        was, came = f.pace_now / f.pace_level - 1.0, max(-1.0, min(2.0, seconds / f.pace_level - 1.0))
        sums[2] += FOLLOW * (came - sums[2])
        sums[0] += LASTING_MEMORY * sums[0] - sums[0] + was * (came - sums[2])
        sums[1] += LASTING_MEMORY * sums[1] - sums[1] + was * was
        self.lasting = max(0.2, min(1.0, (sums[0] + LASTING * LASTING_SURE) / (sums[1] + LASTING_SURE)))

    def stretch(self, row: int, seconds: float, steps: float, decoding: float, context: float, worked: list[float],
                now: float) -> None:  # fmt: skip
        """So many steps of a stream took `seconds`, with so much beside it on average and so much prefill done."""
        if steps < TOKENS_TO_LEARN:
            return
        self._move_pace(row, [0.0, steps, steps * decoding, steps * context, *worked], 0.0, seconds, now)
        self.window.add_rest(row, seconds, steps, decoding, context, worked)
        self._fit_if_due(now)

    def _move_pace(self, row: int, x: Sequence[float], rest: float, seconds: float, now: float) -> None:
        parts = [price * quantity for price, quantity in zip(self.prices.each, x, strict=True)]
        changed = self.paces.learn(row, parts[1] + parts[2] + parts[3], sum(parts[4:]), parts[0] + rest, seconds, now)
        if changed:
            self.window.forget(row)
            self.paces.pool()

    def forget(self, row: int) -> None:
        """The endpoint in this row is gone."""
        self.paces.forget(row)
        self.window.forget(row)

    # --- fitting -------------------------------------------------------------------------------------------------

    def _fit_if_due(self, now: float) -> None:
        count = self.window.count
        if count < self._fit_at or (count > EARLY and now - self._fitted_at < FIT_EVERY):
            return
        self._fitted_at = now
        self._fit_at = count + max(FIRST_FIT, min(count // 4, 50))
        try:
            self._fit()
        except np.linalg.LinAlgError:  # answers that no prices explain: the ones in use stay
            return

    def _fit(self) -> None:
        """Fit prices and paces to the window; now and then try whether another chunk budget explains it better."""
        prices, window = self.prices, self.window
        factors, news = self.paces.estimates(len(self.paces.decode))
        prices.unrest = self.paces.unrest
        found = prices.fit(window, self.chunk, factors, news)
        if not self.prior.chunk and prices.fits % CHUNK_TRIALS == CHUNK_TRIALS - 1:
            place, best = CHUNKS.index(self.chunk), prices.fitted
            for chunk in CHUNKS[max(0, place - 1) : place + 2]:
                trial = prices.fit(window, chunk, factors, news) if chunk != self.chunk else found
                if trial[2] < CHUNK_BETTER * found[2]:
                    self.chunk, found, best = chunk, trial, prices.fitted
            prices.fitted = best
        if prices.accept():
            self.paces.accept(found[0], found[1])

    # --- keeping -------------------------------------------------------------------------------------------------

    def to_state(self) -> dict[str, object]:
        """What is worth keeping over a restart, as JSON values. Paces are the predictor's: they go by endpoint."""
        return {
            "version": VERSION,
            "prior": self.prices.prior.tolist(),
            "beta": self.prices.beta.tolist(),
            "chunk": self.chunk,
            "per_event": self.per_event,
            "mean_output": self.mean_output,
            "lasting": self.lasting,
            "ttft": self.ttft.to_state(),
            "tpot": self.tpot.to_state(),
        }

    def restore(self, state: Mapping[str, object]) -> None:
        """Go on from what `to_state` gave. Raises ValueError, and changes nothing, if it is not that."""
        try:
            prior, beta = (np.array(state[name], float) for name in ("prior", "beta"))
            chunk, per_event, mean_output, lasting = (
                float(state[name])  # type: ignore[arg-type]
                for name in ("chunk", "per_event", "mean_output", "lasting")
            )
            tracks = [Track.from_state(state["ttft"], len(self.ttft.regimes)),
                      Track.from_state(state["tpot"], len(self.tpot.regimes), slow=True)]  # fmt: skip
            figures = np.array([*beta, *prior, chunk, per_event, mean_output, lasting])
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"not what a predictor learnt: {error}") from error
        if state.get("version") != VERSION or beta.shape != self.prices.prior.shape or beta.shape != prior.shape:
            raise ValueError("what was learnt belongs to another version")
        if not ((figures > 0.0) & (figures < MOST)).all() or lasting > 1.0 or chunk not in (*CHUNKS, self.prior.chunk):
            raise ValueError("what was learnt holds figures that cannot be")
        beta = beta * prior / self.prices.prior
        if not ((beta > 1.0 / FAR) & (beta < FAR)).all():
            raise ValueError("what was learnt is of quite another engine")
        self.prices.restore(beta)
        if not self.prior.chunk:
            self.chunk = chunk
        self.per_event, self.mean_output, self.lasting = per_event, mean_output, lasting
        self._lasting_sums = [lasting * LASTING_SURE, LASTING_SURE, 0.0]
        self.ttft, self.tpot = tracks
