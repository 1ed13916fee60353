"""The arrays in which one prediction is worked out: one value per candidate, one row per quantity.

The idea: with 64 endpoints a numpy call costs half a microsecond whatever it does, and half as much again to make the
array for its result or to cut a row out of a table. So the rows are laid out once, next to each other where one call
works on several, and every prediction is written over the last one. What is worked out is `formula`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gateway.core.books import CACHED, DECODING, DUE, QUEUE, SQUARE, SUMMED
from gateway.core.types import Floats, Rows

if TYPE_CHECKING:
    from gateway.core.books import Books
    from gateway.core.paces import Paces

# Rows that are sums of the books' table, then rows that are made of them: three each above the first and the second
# knee, two that are added to an iteration, two counts of iterations, three of what is predicted, two to spare.
(PACE_NOW, PACE_AFTER, ITERATION, ROOM, ELAPSED, TOKENS, OVER, FREE_NOW, FREE_AFTER, PAIRS_ALL, PAIRS_OWN, BATCH,
 BEFORE, BESIDE, ALONE) = range(15)  # fmt: skip
SUMS = ABOVE1 = 15
ABOVE2, ADDED, LEFT, ROUNDS, TTFT, SPARE, HEIGHT = 18, 21, 23, 24, 25, 28, 30


class Sheet:
    """For `count` candidates. What is said here of a row is true when the prediction is done; seconds and tokens."""

    rows: Floats  # all of them
    sums: Floats  # those that come out of one product
    levels: Floats  # four times an iteration with all that are there, without and with this request
    iteration: Floats  # that runs there now, without prompts
    slowed: Floats  # these three, which a slow endpoint makes longer
    room: Floats  # for prompt tokens in an iteration
    units: Floats  # `iteration` and `room`
    elapsed: Floats  # since the running iteration would have ended if it took no time but for its prompt
    tokens: Floats  # of prompts, before it and its own
    passing: Floats  # `elapsed` and `tokens`
    over: Floats  # KV tokens too many
    free: Floats  # of four seconds, how many prefill leaves: without and with this request
    free_now: Floats
    free_after: Floats
    pairs: Floats  # attention of all prompts and of this one, at a pace of 1
    batch: Floats  # sequences that decode or wait
    beside: Floats  # tokens in an iteration: decodes and a round's share of the prompts
    sizes: Floats  # tokens in an iteration: decodes; `beside`; decodes and this prompt alone
    above1: Floats  # the same, or the first knee where that is more
    above2: Floats
    pieces: Floats  # all nine
    added: Floats  # by prompts, to iterations:
    chunk: Floats  # by all of them to all rounds
    work: Floats  # by this one alone
    left: Floats  # iterations until the running one ends
    rounds: Floats  # iterations until the prompt is done
    whole: Floats  # both
    steps: Floats  # what comes of it all:
    ttft: Floats  # the first token
    paced: Floats  # the time of a token now, and with this request, shape (2, candidates)
    spare: Floats
    spares: Floats

    # Of the candidates: their part of the books' table, of that what is summed and what is there, and their paces, as
    # often as there are rows to multiply with them.
    table: Floats
    summed: Floats
    present: Floats
    cached: Floats
    square: Floats
    due: Floats
    slow_decode: Floats
    slow_prefill: Floats

    def __init__(self, count: int):
        self.count = count
        self.even: Floats = np.full(count, 1.0 / count)
        self.rows = rows = np.zeros((HEIGHT, count))
        self.sums = rows[:SUMS]
        self.levels, self.slowed, self.iteration = rows[:ITERATION], rows[:ROOM], rows[ITERATION]
        self.room, self.units = rows[ROOM], rows[ITERATION:ELAPSED]
        self.elapsed, self.tokens, self.over = rows[ELAPSED:FREE_NOW]
        self.passing = rows[ELAPSED:OVER]
        self.free = rows[FREE_NOW:PAIRS_ALL]
        self.free_now, self.free_after = self.free
        self.pairs, self.batch, self.beside = rows[PAIRS_ALL:BATCH], rows[BATCH], rows[BESIDE]
        self.sizes, self.above1, self.above2 = rows[BEFORE:ABOVE1], rows[ABOVE1:ABOVE2], rows[ABOVE2:ADDED]
        self.pieces, self.added, self.whole = rows[BEFORE:ADDED], rows[ADDED:LEFT], rows[LEFT:TTFT]
        self.chunk, self.work, self.left, self.rounds = rows[ADDED:TTFT]
        self.steps, self.ttft, self.paced = rows[TTFT:SPARE], rows[TTFT], rows[TTFT + 1 : SPARE]
        self.spare, self.spares = rows[SPARE], rows[SPARE:HEIGHT]
        factors = np.ones((5, count))
        self.slow_decode, self.slow_prefill = factors[:3], factors[3:]
        self._views_of: tuple[Floats | None, int] = None, 0

    def look_at(self, books: Books, paces: Paces) -> None:
        """The candidates are the first ones: nothing is copied that is the same as before."""
        table, changes = self._views_of
        if table is not books.table:
            self._cut(books.table[:, : self.count])
        if table is not books.table or changes != paces.changes:
            self.slow_decode[:], self.slow_prefill[:] = paces.decode[: self.count], paces.prefill[: self.count]
            self._views_of = books.table, paces.changes

    def copy(self, books: Books, paces: Paces, rows: Rows) -> None:
        """The candidates are these: a copy of their part, which is good for one prediction."""
        self._cut(books.table.take(rows, 1))
        self.slow_decode[:], self.slow_prefill[:] = paces.decode.take(rows), paces.prefill.take(rows)

    def _cut(self, table: Floats) -> None:
        self.table, self.summed, self.present = table, table[:SUMMED], table[DECODING:QUEUE]
        self.cached, self.square, self.due = table[CACHED], table[SQUARE], table[DUE]
