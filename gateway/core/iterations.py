"""When the iterations of each engine begin and end, as far as can be heard: what the books conclude from sounds.

The idea: every token that we relay was made at the end of an iteration, and at that moment the engine took the next
prompts, in their order, a chunk budget of them. But a sound may be a late one of the boundary before, and a prompt may
still be on its way when we think it is there. On a server whose processes wait for a core both happen all the time, and
a prompt of half a second was then forgotten right after its iteration began: the next one was sent behind it as if
there were nothing. So the end of a prompt is believed when its first token comes with it. If that does not come, the
prompt was not in that iteration, and is taken to be in the one that runs now.

The sums are `books`; what an iteration takes is `learning`'s.
"""

from __future__ import annotations

import heapq

from gateway.core.books import ENDED, PAUSE, Books, Line
from gateway.core.learning import Learning


class Iterations:
    """Of all endpoints of one pool. Changes `books`."""

    def __init__(self, learnt: Learning, books: Books):
        self._learnt, self._books = learnt, books
        # Ends of prompts: until when their first tokens may come, which row, when the boundary was.
        self._doubtful: list[tuple[float, int, float]] = []

    def beat(self, row: int, now: float) -> None:
        """A token of some stream came from there: perhaps an iteration has ended."""
        books = self._books
        line = books.lines.get(row)
        if line is None or now - line.beat <= line.pause:
            return
        line.beat = now
        if line.waiting:
            fleet = line.waiting[0].fleet
            books.left_behind(line, row, fleet.prefill.item(row))
            ended = books.due.item(row)
            self.begin(line, row, fleet.decoding.item(row), now, now - self._learnt.prices.each[0])
            if ended:
                heapq.heappush(self._doubtful, (now + line.pause, row, now))
        elif books.decoding.item(row) > 0.0:
            books.ends[row] = now

    def begin(self, line: Line, row: int, decoding: float, at: float, arrived: float) -> None:
        """An iteration begins at `at`; prompts sent until `arrived` may be in it."""
        books, learnt = self._books, self._learnt
        prices = learnt.prices.each
        line.beat = at
        chunk = books.turn(line, row, learnt.room(decoding), arrived)
        extra = 0.0
        if chunk > 0.0:
            factor = learnt.paces.prefill.item(row)
            extra = factor * (learnt.price(decoding, chunk) + prices[7] * line.running_pairs)
        books.extra[row] = extra
        books.ends[row] = at + extra if decoding > 0.0 or chunk > 0.0 else ENDED
        line.pause = PAUSE * learnt.paces.decode.item(row) * prices[1]

    def look_again(self, now: float) -> None:
        """Prompts whose first token did not come with the boundary that was taken for their end are running still."""
        doubtful, books = self._doubtful, self._books
        while doubtful and doubtful[0][0] <= now:
            _, row, boundary = heapq.heappop(doubtful)
            line = books.lines.get(row)
            if line is None or line.beat != boundary or not line.waiting:
                continue
            fleet = line.waiting[0].fleet
            if books.left_behind(line, row, fleet.prefill.item(row)):
                books.take_back(line, row)
                self.begin(line, row, fleet.decoding.item(row), boundary, line.arrived)
