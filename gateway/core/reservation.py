"""A place taken at an endpoint, from dispatch to settlement.

It moves the fleet's columns along: prompt tokens stop waiting when the first token comes, output tokens shrink as they
come, and whatever is left goes when it is settled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.core.types import UNKNOWN, Forecast, Outcome, Request

if TYPE_CHECKING:
    from gateway.core.books import Books
    from gateway.core.fleet import Fleet

# A reservation never claims less than this share of its expected output while it runs: long answers stay long.
FLOOR = 0.1


class Reservation:
    """A place taken: one request and its expected tokens. Settled exactly once; later calls do nothing."""

    __slots__ = (
        "ahead", "at", "beside", "books", "endpoint", "expected", "fleet", "forecast", "held", "left", "mark",
        "prompt", "read_slowly", "remaining", "row", "settled", "started", "stream", "stretch", "uncached", "written",
    )  # fmt: skip

    def __init__(self, fleet: Fleet, row: int, request: Request, uncached: float, now: float,
                 forecast: Forecast | None = None):  # fmt: skip
        self.fleet = fleet
        self.row = row
        self.endpoint = fleet.endpoint(row)
        self.at = now
        # What of ours was there before it: requests, and prompt tokens that had not been worked off.
        self.beside, self.ahead = fleet.ours.item(row), fleet.prefill.item(row)
        self.uncached = uncached
        self.prompt = request.prompt_tokens
        self.written = 0.0
        self.remaining: Callable[[float], float] | None = None  # tokens still to come of an answer that has so many
        self.books: Books | None = None  # the predictor's that count it, since its first token
        self.held = 0.0  # tokens of its context that they count
        self.mark: tuple[float, ...] | None = None  # where they stood at the first token
        # And what it learnt from the tokens after that: see `gateway.records.Stretch`.
        self.stretch: tuple[float, ...] | None = None
        self.forecast = forecast
        # Whole tokens: sums of them do not drift.
        self.expected = self.left = float(int(request.output_tokens)) or 1.0
        self.stream = request.stream
        self.read_slowly = False  # its client was waited for: how long it took says nothing of the server
        self.started = False
        self.settled = False

    def first_token(self, now: float) -> None:
        """The prompt has been prefilled: its tokens are no longer waiting, its sequence is decoding."""
        if self.settled:
            return
        self.fleet.progress_at[self.row] = self.fleet.answered_at[self.row] = now
        self.assume_started(now)

    def assume_started(self, now: float) -> None:
        """The prompt should have been prefilled by now: a plain answer does not show its first token."""
        if self.started or self.settled:
            return
        self.started = True
        fleet, row = self.fleet, self.row
        fleet.prefill[row] -= self.uncached
        fleet.tokens[row] -= self.uncached
        fleet.decoding[row] += 1.0
        if fleet.predictor is not None:
            fleet.predictor.started(self, now)

    def progress(self, written: float, now: float) -> None:
        """`written` tokens have come in all.

        What is left to come is asked of `remaining` (an answer that has become long will be longer than was thought);
        without it, it shrinks, down to a floor.
        """
        if self.settled:
            return
        if self.fleet.predictor is not None:
            self.fleet.predictor.progressed(self, written, now)
        self.written = written
        if self.remaining is not None:
            left = float(round(self.remaining(written)))
        else:
            left = min(self.left, float(round(max(self.expected - written, self.expected * FLOOR, 1.0))))
        delta = self.left - left
        if delta:
            self.left = left
            self.fleet.output[self.row] -= delta
            self.fleet.tokens[self.row] -= delta

    def settle(self, now: float = UNKNOWN, outcome: Outcome | None = None) -> None:
        """Give the place back. Idempotent: every path may call it, the first one counts.

        With a predictor, `now` is needed, and from `outcome` it learns.
        """
        if self.settled:
            return
        self.settled = True
        self.fleet.release(self)
        if self.fleet.predictor is not None:
            self.fleet.predictor.ended(self, now, outcome)
