"""Who probably holds which prompt prefix: an approximate index over the raw bytes of prompts.

The idea: an engine's prefix cache holds what was sent to it, so remembering where each prefix went predicts the cache
without a tokenizer and without the engine's help (SGLang's router does it with a radix tree on text, Preble and llm-d's
approximate scorer with hashed blocks). Here: chained hashes of blocks, as vLLM names its KV blocks, so that one hash
stands for everything up to its end, and one dictionary from hash to the set of rows, a bit mask.

Blocks grow with their offset: 128 bytes (about 32 tokens), then a sixteenth of what is before them. A match is known to
3 % of its length whatever the length, and a prompt of 16 KB has 57 blocks, one of 256 KB 104, which is what makes it
affordable in Python: about 10 µs to hash 16 KB and 6 to look it up. What lies beyond 256 KB is not looked at.

How far to believe it is learnt: `cached_tokens` in the engines' answers against what was predicted, per row. An engine
that evicts early, or has no prefix cache at all, soon gets no credit.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from gateway.core.types import Floats, Rows

SMALLEST = 128
GROWTH = 16
LONGEST = 256 * 1024

# Departures that are gathered before the index is swept for them, and the blocks that one insertion sweeps.
SWEEP_AT = 32
SWEEP_STEP = 256
MOST_UNPACKED = 512  # masks; 4 MB with 1,000 rows in each
# Tokens of a row's predictions after which an older one has lost about two thirds of its say, and the tokens of
# faith that it starts with.
MEMORY = 200_000.0
FAITH = 2_000.0


def _ends() -> tuple[int, ...]:
    ends = [SMALLEST]
    while ends[-1] < LONGEST:
        ends.append(ends[-1] + max(SMALLEST, ends[-1] // GROWTH // SMALLEST * SMALLEST))
    return tuple(ends)


ENDS = _ends()
"""Offsets in bytes at which blocks end."""
_MIDDLES = tuple((end + after) / 2.0 for end, after in zip(ENDS, (*ENDS[1:], ENDS[-1]), strict=True))


def hash_blocks(prompt: bytes, seed: str = "") -> list[int]:
    """One hash for each whole block of `prompt`; the i-th stands for `prompt[:ENDS[i]]` under `seed` (the model).

    Equal within one process only: bytes are hashed with Python's own SipHash and this process's key.
    """
    chain = hash(seed)
    chains = []
    start = 0
    for end in ENDS[: bisect_right(ENDS, len(prompt))]:
        chain = hash((chain, prompt[start:end]))
        chains.append(chain)
        start = end
    return chains


class PrefixIndex:
    """At most `max_blocks` blocks, the least recently used forgotten first. Not thread-safe.

    A block costs about 150 bytes of memory, so the default of 65,536 is some 10 MB and covers 1,100 different
    prompts of 16 KB.
    """

    def __init__(self, max_blocks: int = 65_536):
        self.max_blocks = max_blocks
        self._rows_of: OrderedDict[int, int] = OrderedDict()  # block hash to a mask of bits
        # A row has a bit only while its endpoint is there; a bit is used again only after a sweep.
        self._bit_of: dict[int, int] = {}
        self._row_of_bit = np.zeros(64, np.intp)
        self._rows_in: dict[int, Rows] = {}  # masks that were unpacked lately
        self._live = 0
        self._dead: list[int] = []
        self._free: list[int] = []
        self._bits = 0
        self._to_sweep: list[int] = []  # blocks that may still have bits of `_sweeping`
        self._sweeping: list[int] = []
        self._said = np.zeros(8)  # tokens that were predicted as cached, by row, fading
        self._true = np.zeros(8)  # how many of them were
        self._trust = np.ones(8)  # the share of what is predicted that may be believed

    def __len__(self) -> int:
        return len(self._rows_of)

    def match(self, chains: Sequence[int], size: int, whole: float = 0.0) -> Floats:
        """Bytes of the prompt that each row probably holds: `size` values, one per row, 0 where nothing is known.

        The match ends somewhere in the first block that differs: its middle is taken, which may be beyond the prompt.
        `size` is more than any row that was inserted (the length of a fleet column is). With `whole`, the length of the
        prompt, shares of it instead, at most 1.
        """
        matched = np.zeros(size)
        holders, length = self._live, 0.0
        before: int | None = holders
        for mask, middle in zip(map(self._rows_of.get, chains), _MIDDLES, strict=False):
            if mask is not before:  # mostly it is the very same object: see `insert`
                before, still = mask, holders & (mask or 0)
                if still != holders:
                    if length:
                        self._write(matched, holders & ~still, length, whole)
                    if not still:
                        return matched
                    holders = still
            length = middle
        if length:
            self._write(matched, holders, length, whole)
        return matched

    def _write(self, matched: Floats, mask: int, length: float, whole: float) -> None:
        rows = self._rows_in.get(mask)
        if rows is None:
            rows = self._unpack(mask)
        matched[rows] = min(1.0, length / whole) if whole else length

    def _unpack(self, mask: int) -> Rows:
        """The rows in a mask; remembered, since one conversation after the other asks for the same."""
        bits = np.unpackbits(np.frombuffer(mask.to_bytes(self._bits // 8 + 1, "little"), np.uint8), bitorder="little")
        if len(self._rows_in) >= MOST_UNPACKED:
            self._rows_in.clear()
        rows = self._rows_in[mask] = self._row_of_bit[bits.nonzero()[0]]
        return rows

    def insert(self, chains: Sequence[int], row: int) -> None:
        """These blocks were sent to this row."""
        bit = 1 << self._bit(row)
        blocks = self._rows_of
        find, touch, before, after = blocks.get, blocks.move_to_end, -1, -1
        # From the end to the beginning: what is forgotten first is then a chain's end, as in the engines.
        for chain in reversed(chains):
            mask = find(chain, 0)
            if mask is not before:  # blocks with the same rows get one mask between them
                before, after = mask, mask if mask & bit else mask | bit
            if after is not mask:
                blocks[chain] = after
            touch(chain)
        while len(blocks) > self.max_blocks:
            blocks.popitem(last=False)
        if self._sweeping:
            self._sweep()

    def withdraw(self, chains: Sequence[int], row: int) -> None:
        """They did not arrive, or the server that had them broke down."""
        bit = self._bit_of.get(row)
        if bit is None:
            return
        for chain in chains:
            mask = self._rows_of.get(chain)
            if mask is not None:
                self._rows_of[chain] = mask & ~(1 << bit)

    def forget(self, row: int) -> None:
        """The endpoint in this row is gone, and its cache with it."""
        if row < len(self._said):
            self._said[row] = self._true[row] = 0.0
            self._trust[row] = 1.0
        bit = self._bit_of.pop(row, None)
        if bit is not None:
            self._live &= ~(1 << bit)
            self._dead.append(bit)
            if len(self._dead) >= SWEEP_AT and not self._sweeping:
                self._sweeping, self._dead = self._dead, []
                self._to_sweep = list(self._rows_of)

    def learn(self, row: int, predicted: float, cached: float) -> None:
        """An answer came: `cached` tokens were in the cache, `predicted` were thought to be (before any discount)."""
        if not predicted > 0.0 or cached != cached:
            return
        self._reach(row + 1)
        fade = MEMORY / (MEMORY + predicted)
        said = (self._said.item(row) + predicted) * fade
        true = (self._true.item(row) + min(cached, predicted)) * fade
        self._said[row], self._true[row] = said, true
        self._trust[row] = (true + FAITH) / (said + FAITH)

    def reliability(self, size: int) -> Floats:
        """The share of a predicted match that was true lately: one value in 0..1 for each of `size` rows."""
        self._reach(size)
        return self._trust[:size]

    def _reach(self, size: int) -> None:
        missing = size - len(self._said)
        if missing > 0:
            blank = np.zeros(max(missing, len(self._said)))
            self._said = np.concatenate((self._said, blank))
            self._true = np.concatenate((self._true, blank))
            self._trust = np.concatenate((self._trust, np.ones(len(blank))))

    def _bit(self, row: int) -> int:
        bit = self._bit_of.get(row)
        if bit is None:
            bit = self._bit_of[row] = self._take_bit()
            self._live |= 1 << bit
            self._row_of_bit[bit] = row
        return bit

    def _take_bit(self) -> int:
        if self._free:
            self._rows_in.clear()  # some may be of that bit's last row
            return self._free.pop()
        bit = self._bits
        self._bits += 1
        if bit >= len(self._row_of_bit):
            self._row_of_bit = np.concatenate((self._row_of_bit, np.zeros_like(self._row_of_bit)))
        return bit

    def _sweep(self) -> None:
        """Take the bits of those that left out of some more blocks; after the last one they can be given out again.

        A little at each insertion: all at once would hold the event loop up for 30 ms. Blocks that are made meanwhile
        never had those bits.
        """
        blocks, live = self._rows_of, self._live
        for chain in self._to_sweep[-SWEEP_STEP:]:
            mask = blocks.get(chain)
            if mask is not None:
                blocks[chain] = mask & live
        del self._to_sweep[-SWEEP_STEP:]
        if not self._to_sweep:
            self._free += self._sweeping
            self._sweeping = []
