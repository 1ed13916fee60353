"""The KV cache of a simulated engine: fixed blocks, shared by content, evicted least recently used first.

The idea is vLLM's: a block of 16 tokens is known by a hash of itself and everything before it; blocks in use are
counted; a block nobody uses any more keeps its content, and looks free, until its place is needed (PagedAttention,
arXiv:2309.06180). Only *how many* blocks there are matters here, not which, so a block without a known content is
just a number and one with content is its key. A second copy of the same content counts as a block without content.
What the keys mean, and when to look one up, is the engine's business.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence

Key = Hashable


class BlockPool:
    """`capacity` blocks; every one is blank and free, blank and held, cached and held, or cached and free."""

    __slots__ = ("_free_cached", "_held", "blank", "capacity")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.blank = capacity  # free blocks without content
        self._held: dict[Key, int] = {}  # cached and in use: how many hold it
        self._free_cached: OrderedDict[Key, None] = OrderedDict()  # cached and unused, oldest first

    @property
    def free(self) -> int:
        """Blocks that could be taken now: blank ones and cached ones nobody uses."""
        return self.blank + len(self._free_cached)

    @property
    def usage(self) -> float:
        """Share of the blocks in use, 0 to 1. Cached but unused blocks count as free, as in vLLM."""
        return 1.0 - self.free / self.capacity

    @property
    def cached(self) -> int:
        """Blocks with known content, in use or not."""
        return len(self._held) + len(self._free_cached)

    def match(self, keys: Sequence[Key], limit: int) -> tuple[int, int]:
        """How many leading `keys` (at most `limit`) are cached, and how many of those are free now."""
        held, unused = self._held, self._free_cached
        free = 0
        for n, key in enumerate(keys[:limit]):
            if key in unused:
                free += 1
            elif key not in held:
                return n, free
        return min(limit, len(keys)), free

    def hold(self, keys: Iterable[Key]) -> None:
        """Hold cached blocks once more; each must be cached."""
        for key in keys:
            count = self._held.get(key, 0)
            if not count:
                del self._free_cached[key]
            self._held[key] = count + 1

    def take(self, count: int) -> None:
        """Take `count` blank blocks, evicting the oldest unused content if needed. Needs `free >= count`."""
        evict = count - self.blank
        if evict <= 0:
            self.blank -= count
            return
        if evict > len(self._free_cached):
            raise ValueError(f"{count} blocks wanted, {self.free} free")
        self.blank = 0
        for _ in range(evict):
            self._free_cached.popitem(last=False)

    def name(self, key: Key) -> bool:
        """Give a blank block that is held the content `key`. False, and still blank, if that content is cached."""
        if key in self._held or key in self._free_cached:
            return False
        self._held[key] = 1
        return True

    def release(self, keys: Sequence[Key], blank: int) -> None:
        """Give back held blocks: `keys` in prompt order, and `blank` ones. The end of a prompt is evicted first."""
        self.blank += blank
        held = self._held
        for key in reversed(keys):
            count = held[key] - 1
            if count:
                held[key] = count
            else:
                del held[key]
                self._free_cached[key] = None

    def forget(self) -> None:
        """Drop the content of all unused blocks (a cache reset)."""
        self.blank += len(self._free_cached)
        self._free_cached.clear()
