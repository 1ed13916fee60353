"""The decodes of an engine: they all put out one token per iteration, so nothing about them needs to be counted.

The idea: once its prompt is done a generation is in every iteration until it ends or is taken out. What it has put out
and what it has in the cache follow from the number of iterations; in which iteration it will end, need another block
or reach the next full sixteen tokens is known when it joins. So it is put down there once, and an iteration looks up
whom it concerns, which costs nothing for all others. All lists are in the order in which the decodes run: who joins
later runs later. What to do with those it finds is the scheduler's business.
"""

from backends.sim.generation import Clock, Generation

PACE = 16  # output tokens after the first


class Lockstep(Clock):
    """The decodes of one engine with blocks of `block_size` tokens."""

    __slots__ = ("_ending", "_full", "_lead", "_paced", "_size", "count")

    def __init__(self, block_size: int) -> None:
        super().__init__()
        self.count = 0
        self._size = block_size
        self._lead = 0  # sum of every decode's position less the number of iterations
        self._ending: dict[int, list[Generation]] = {}  # by iteration
        self._full: dict[int, list[Generation]] = {}  # by iteration modulo block size
        self._paced: list[list[Generation]] = [[] for _ in range(PACE)]  # by iteration modulo PACE

    @property
    def context(self) -> int:
        """Tokens the decodes have in the cache together."""
        return self._lead + self.count * self.iteration

    def ending(self) -> list[Generation]:
        """Who put out the last token in the iteration that just ended. To be asked once, and taken out then."""
        return self._ending.pop(self.iteration, [])

    def full(self) -> list[Generation]:
        """Whose blocks are full, so that the next token needs another one. The list follows who leaves."""
        return self._full.get(self.iteration % self._size, [])

    def paced(self) -> list[Generation]:
        """Whose output after the first token has just become a multiple of PACE."""
        return self._paced[self.iteration % PACE].copy()

    def join(self, g: Generation) -> None:
        """`g` put out a token at the end of this iteration, and will from now on in every one."""
        now, generated = self.iteration, g.generated
        lead = g.computed - now
        g.decode(self)
        self.count += 1
        self._lead += lead
        self._ending.setdefault(now + g.output_tokens - generated, []).append(g)
        self._full.setdefault(-lead % self._size, []).append(g)
        self._paced[(now - generated + 1) % PACE].append(g)

    def leave(self, g: Generation) -> None:
        """Take out a decode: its counts stay as they are now."""
        g.rest()
        now, generated = self.iteration, g.generated
        lead = g.computed - now
        self.count -= 1
        self._lead -= lead
        if generated < g.output_tokens:
            self._forget_end(g, now + g.output_tokens - generated)
        self._full[-lead % self._size].remove(g)
        self._paced[(now - generated + 1) % PACE].remove(g)

    def _forget_end(self, g: Generation, iteration: int) -> None:
        together = self._ending[iteration]
        together.remove(g)
        if not together:
            del self._ending[iteration]
