"""The KV cache of a simulated engine: fixed blocks, shared by content, evicted least recently used first.

The idea is vLLM's: a block of 16 tokens is known by a hash of itself and everything before it; blocks in use are
counted; a block nobody uses any more keeps its content, and looks free, until its place is needed (PagedAttention,
arXiv:2309.06180). Only *how many* blocks there are matters here, not which, so a block without a known content is
just a number and one with content is its key. A second copy of the same content counts as a block without content.
Content that nobody can ever look up again takes its place in the order of eviction as one entry, however long it is.
What the keys mean, and when to look one up, is the engine's business.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from itertools import takewhile

Key = Hashable


class BlockPool:
    """`capacity` blocks; every one is blank and free, blank and held, cached and held, or cached and free.

    `free` are the blocks that could be taken now, blank ones and cached ones nobody uses; `blank` the former alone.
    Both are written here only.
    """

    __slots__ = ("_held", "_unused", "blank", "capacity", "free")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.blank = capacity
        self.free = capacity
        self._held: dict[Key, int] = {}  # cached and in use: how many hold it
        self._unused: OrderedDict[Key, int] = OrderedDict()  # cached and free: blocks of each entry, oldest first

    @property
    def usage(self) -> float:
        """Share of the blocks in use, 0 to 1. Cached but unused blocks count as free, as in vLLM."""
        return 1.0 - self.free / self.capacity

    @property
    def cached(self) -> int:
        """Blocks in use that have a key, and unused ones with content."""
        return len(self._held) + self.free - self.blank

    def match(self, keys: Sequence[Key], limit: int) -> tuple[int, int]:
        """How many leading `keys` (at most `limit`) are cached, and how many of those are free now."""
        held, unused = self._held, self._unused
        found = list(takewhile(lambda key: key in held or key in unused, keys[:limit]))
        return len(found), sum(map(unused.__contains__, found))

    def hold(self, keys: Iterable[Key]) -> None:
        """Hold cached blocks once more; each must be cached."""
        held, unused = self._held, self._unused
        for key in keys:
            count = held.get(key, 0)
            if not count:
                del unused[key]
                self.free -= 1
            held[key] = count + 1

    def take(self, count: int) -> None:
        """Take `count` blank blocks, evicting the oldest unused content if needed. Needs `free >= count`."""
        if count > self.free:
            raise ValueError(f"{count} blocks wanted, {self.free} free")
        self.free -= count
        if count <= self.blank:
            self.blank -= count
            return
        evict, unused = count - self.blank, self._unused
        self.blank = 0
        while evict:
            oldest, there = unused.popitem(last=False)
            if there > evict:
                unused[oldest] = there - evict
                unused.move_to_end(oldest, last=False)
                return
            evict -= there

    def name(self, keys: Iterable[Key]) -> list[Key]:
        """Give blank blocks that are held the contents `keys`. Those whose content is cached already stay blank.

        Returns the keys given.
        """
        held, unused = self._held, self._unused
        given: list[Key] = []
        for key in keys:
            if key not in held and key not in unused:
                held[key] = 1
                given.append(key)
        return given

    def release(self, keys: Sequence[Key], blank: int, last: int = 0) -> None:
        """Give back held blocks: `keys` in prompt order, `last` ones behind them that were blank but got contents
        nobody else can look up, and `blank` ones. The end of a prompt is evicted first."""
        self.blank += blank
        self.free += blank + last
        held, unused = self._held, self._unused
        if last:
            unused[object()] = last
        before = len(held)
        for key in reversed(keys):
            holders = held.pop(key)
            if holders > 1:
                held[key] = holders - 1
            else:
                unused[key] = 1
        self.free += before - len(held)

    def forget(self) -> None:
        """Drop the content of all unused blocks (a cache reset)."""
        self.blank = self.free
        self._unused.clear()
