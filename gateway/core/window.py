"""The answers that the predictor learns from: the last ones of every kind, so that none crowds out another.

Two kinds are kept: first tokens, and stretches of streams after them. Each kind is divided into strata by size (of the
prompt work, of the batch) and each stratum is a ring: a night without long prompts does not make the engine's price for
them forgotten. What is stored are raw quantities, so that the same answers can be asked what another chunk budget or
other prices would have explained.
"""

from __future__ import annotations

import numpy as np

from gateway.core.types import Floats

RING = 64  # answers in a stratum
STRATA = 8
SIZE = RING * STRATA

# Columns of a first token: the row it came from, the pool's count of answers then, seconds, seconds that it had to wait
# for the running iteration, prompt tokens to do, sequences decoding, KV tokens they read, pairs of tokens in attention.
ROW, COUNT, SECONDS, REST, TOKENS, DECODING, CONTEXT, PAIRS = range(8)
# Columns of a stretch: the same, but `REST` counts its iterations, and the last three are prompt tokens worked off
# meanwhile by piece of the price list.
STEPS, WORKED = 3, 8
WIDTH = 11


class Window:
    """`first` and `rest`: arrays of shape (SIZE, WIDTH); a row of weight 0 is empty."""

    def __init__(self) -> None:
        self.first: Floats = np.zeros((SIZE, WIDTH))
        self.rest: Floats = np.zeros((SIZE, WIDTH))
        self.full_first: Floats = np.zeros(SIZE)
        self.full_rest: Floats = np.zeros(SIZE)
        self._next_first = [0] * STRATA
        self._next_rest = [0] * STRATA
        self.count = 0

    def add_first(self, row: int, seconds: float, rest: float, tokens: float, decoding: float, context: float,
                  pairs: float) -> None:  # fmt: skip
        stratum = min(STRATA - 1, max(0, int(tokens).bit_length() - 6))  # below 64, 128, … 4096, and the rest
        place = stratum * RING + self._next_first[stratum]
        self._next_first[stratum] = (self._next_first[stratum] + 1) % RING
        self.count += 1
        self.first[place] = (row, self.count, seconds, rest, tokens, decoding, context, pairs, 0.0, 0.0, 0.0)
        self.full_first[place] = 1.0

    def add_rest(self, row: int, seconds: float, steps: float, decoding: float, context: float,
                 worked: list[float]) -> None:  # fmt: skip
        """`worked`: prompt tokens by piece (three), then pairs."""
        stratum = min(STRATA - 1, int(decoding).bit_length())
        place = stratum * RING + self._next_rest[stratum]
        self._next_rest[stratum] = (self._next_rest[stratum] + 1) % RING
        self.count += 1
        self.rest[place] = (row, self.count, seconds, steps, 0.0, decoding, context, worked[3], *worked[:3])
        self.full_rest[place] = 1.0

    def forget(self, row: int) -> None:
        """Drop what came from this row: it is another server now, or behaves like one."""
        self.full_first[self.first[:, ROW] == row] = 0.0
        self.full_rest[self.rest[:, ROW] == row] = 0.0
