"""The arrays in which one prediction is worked out: one value per candidate, one row per quantity.

The idea: with 64 endpoints a numpy call costs half a microsecond whatever it does, and half as much again to make the
array for its result or to cut a row out of a table. So the rows are laid out once, next to each other where one call
works on several, and every prediction is written over the last one. What is worked out is `formula`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gateway.core.books import CACHED, DECODING, QUEUE, SQUARE, SUMMED
from gateway.core.types import Floats, Rows

if TYPE_CHECKING:
    from gateway.core.books import Books
    from gateway.core.paces import Paces

# Rows that are sums of the books' table, then rows that are made of them: three each above the first and the second
# knee, two that are added to an iteration, three of what is predicted, two for what is on the way to something.
(ITERATION, PACE_NOW, PACE_AFTER, ROUNDS, TOKENS, LEFT, OVER, FREE_NOW, FREE_AFTER, PAIRS_ALL, PAIRS_OWN, BATCH, BEFORE,
 BESIDE, ALONE) = range(15)  # fmt: skip
SUMS = ABOVE1 = 15
ABOVE2, ADDED, TTFT, SPARE, HEIGHT = 18, 21, 23, 26, 28


class Sheet:
    """For `count` candidates. What is said here of a row is true when the prediction is done; seconds and tokens."""

    rows: Floats  # all of them
    sums: Floats  # those that come out of one product
    iteration: Floats  # that runs there now, without prompts
    pace_now: Floats  # four times an iteration with all that are there, of which `paced` is made
    pace_after: Floats  # the same with this request
    levels: Floats  # both
    rounds: Floats  # iterations until the prompt is done; before, the tokens that fit in one
    tokens: Floats  # of prompts, before it and its own
    left: Floats  # iterations until the running one ends; before, seconds since it would have
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
    added: Floats  # by prompts to iterations:
    chunk: Floats  # all rounds
    work: Floats  # this prompt alone
    steps: Floats  # what comes of it all:
    ttft: Floats  # the first token
    paced: Floats  # the time of a token now, and with this request, shape (2, candidates)
    spare: Floats
    spares: Floats

    # Of the candidates: their part of the books' table, of that what is summed and what is there, and their paces.
    table: Floats
    summed: Floats
    present: Floats
    cached: Floats
    square: Floats
    slow_decode: Floats
    slow_prefill: Floats

    def __init__(self, count: int):
        self.count = count
        self.even: Floats = np.full(count, 1.0 / count)
        self.rows = rows = np.zeros((HEIGHT, count))
        self.sums = rows[:SUMS]
        self.iteration, self.pace_now, self.pace_after = rows[:ROUNDS]
        self.levels = rows[PACE_NOW:ROUNDS]
        self.rounds, self.tokens, self.left, self.over = rows[ROUNDS:FREE_NOW]
        self.free = rows[FREE_NOW:PAIRS_ALL]
        self.free_now, self.free_after = self.free
        self.pairs, self.batch, self.beside = rows[PAIRS_ALL:BATCH], rows[BATCH], rows[BESIDE]
        self.sizes, self.above1, self.above2 = rows[BEFORE:ABOVE1], rows[ABOVE1:ABOVE2], rows[ABOVE2:ADDED]
        self.pieces, self.added = rows[BEFORE:ADDED], rows[ADDED:TTFT]
        self.chunk, self.work = self.added
        self.steps, self.ttft, self.paced = rows[TTFT:SPARE], rows[TTFT], rows[TTFT + 1 : SPARE]
        self.spare, self.spares = rows[SPARE], rows[SPARE:HEIGHT]
        self._views_of: tuple[Floats | None, Floats | None] = None, None

    def look_at(self, books: Books, paces: Paces) -> None:
        """The candidates are the first ones: views of the books and the paces, for as long as those are the same."""
        if self._views_of[0] is not books.table or self._views_of[1] is not paces.decode:
            self._cut(books.table[:, : self.count])
            self.slow_decode, self.slow_prefill = paces.decode[: self.count], paces.prefill[: self.count]
            self._views_of = books.table, paces.decode

    def copy(self, books: Books, paces: Paces, rows: Rows) -> None:
        """The candidates are these: a copy of their part, which is good for one prediction."""
        self._cut(books.table.take(rows, 1))
        self.slow_decode, self.slow_prefill = paces.decode.take(rows), paces.prefill.take(rows)

    def _cut(self, table: Floats) -> None:
        self.table, self.summed, self.present = table, table[:SUMMED], table[DECODING:QUEUE]
        self.cached, self.square = table[CACHED], table[SQUARE]
