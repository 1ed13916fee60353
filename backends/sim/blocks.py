"""What the generations of an engine hold of its KV cache: finding, taking, naming and giving back their blocks.

The idea: a block is offered to the others as soon as it is full, under the key its request came with. What no key was
given for is the generation's own: nobody but itself can ask for it, and it does so only when it starts again after a
preemption. So its own blocks stay numbers until it is preempted, when each gets a key, and what a request leaves behind
of them at its end is one entry in the order of eviction. That keeps the cost of a request to its shared blocks.
Whose blocks go when there are too few is the scheduler's business.
"""

from collections.abc import Hashable, Iterable, Sequence

from backends.sim.generation import Generation
from backends.sim.kv import BlockPool


class Blocks:
    """The books of one engine's pool, in blocks of `size` tokens. Without `caching` nothing is ever found again."""

    __slots__ = ("caching", "pool", "size")

    def __init__(self, pool: BlockPool, size: int, caching: bool) -> None:
        self.pool = pool
        self.size = size
        self.caching = caching

    def count(self, tokens: int) -> int:
        """Blocks that hold `tokens`."""
        return -(-tokens // self.size)

    def find(self, g: Generation) -> tuple[int, int]:
        """How many leading blocks of what `g` has to compute are cached, and how many of those are free now."""
        if not self.caching or not (g.keys or g.preemptions):
            return 0, 0
        limit = (g.goal - 1) // self.size  # the last token must be computed to get the next one
        return self.pool.match(self._keys(g, 0, limit), limit)

    def adopt(self, g: Generation, hits: int) -> None:
        """Start `g` on its leading `hits` blocks, found in the cache."""
        if hits:
            g.names = list(self._keys(g, 0, hits))
            self.pool.hold(g.names)
        g.named = hits
        g.alone = self.caching and not (g.keys or g.preemptions)
        g.computed = g.room = hits * self.size

    def grow(self, g: Generation, tokens: int) -> None:
        """Blocks for a prompt up to `tokens`; full ones can be found as soon as its chunk is scheduled."""
        need = self.count(tokens - g.room)
        if need > 0:
            self.pool.take(need)
            g.blank += need
            g.room += need * self.size
        self.offer(g, tokens)

    def grow_decodes(self, full: Iterable[Generation]) -> None:
        """The next block for decodes whose blocks are full; the last one can be found from now on."""
        size, taken = self.size, 0
        for g in full:
            room = g.room
            g.room = room + size
            g.blank += 1
            taken += 1
            if g.alone:
                g.named = room // size
                continue
            self.pool.take(taken)  # in order, because what is evicted decides which contents get a name
            taken = 0
            self.offer(g, room)
        self.pool.take(taken)

    def offer(self, g: Generation, tokens: int) -> None:
        """The content of all blocks full with the first `tokens` is known."""
        full = tokens // self.size
        if not self.caching or g.named >= full:
            return
        keys = self._keys(g, g.named, full)
        g.named = full
        g.alone = full >= len(g.keys) and not g.preemptions
        if keys:
            given = self.pool.name(keys)
            g.names += given
            g.blank -= len(given)

    def release(self, g: Generation) -> None:
        """Give everything back, for good."""
        own = 0 if g.preemptions else max(0, g.named - len(g.keys))
        self.pool.release(g.names, g.blank - own, own)
        g.names, g.blank, g.room, g.named = [], 0, 0, 0

    def lend(self, g: Generation) -> None:
        """Give everything back, but so that `g` finds again what nobody needed in between."""
        if not g.preemptions:
            g.preemptions = 1
            given = self.pool.name(self._keys(g, len(g.keys), g.named))
            g.names += given
            g.blank -= len(given)
        else:
            g.preemptions += 1
        self.release(g)

    def _keys(self, g: Generation, start: int, end: int) -> Sequence[Hashable]:
        """Keys of the blocks from `start` to `end`, without its own ones as long as it was never preempted."""
        keys = g.keys[start:end]
        if not g.preemptions or len(g.keys) >= end:
            return keys
        return [*keys, *((g.serial, block) for block in range(max(start, len(g.keys)), end))]
