"""What one pool's engines are doing right now, kept from what the gateway itself sends and hears.

The idea: an engine does iterations; each token of a stream that we relay marks the end of one. So for every endpoint
the books hold the moment of the last boundary, the prompt tokens that are in the running iteration and those that
wait for the next one, the context its decodes read, and the prefill work that was lately sent to it. Prompts are
taken in the order of dispatch, as the engines do (first come, first served), a chunk budget at a time.

For learning they also keep sums over time (decodes x seconds, context x seconds, prefill worked off): what lies between
two moments of a stream is then known without having looked at every token.

A plain answer gives no sign of its first token: it is taken to have started when it was predicted to.

An iteration that ought to have brought a first token by now is known to be late (DUE): the longer it is, the longer it
will still take. What is heard may mean other things than it seems: see `iterations`, which decides when one begins.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from gateway.core.types import Floats

if TYPE_CHECKING:
    from gateway.core.fleet import Fleet
    from gateway.core.reservation import Reservation

RECENT = 4.0  # seconds over which the prefill work sent to an endpoint is averaged
# Sounds of one boundary come spread over some time: a pause of this share of an iteration starts a new one.
PAUSE = 0.35
NEVER = 1e9  # seconds ago, of what has not happened
# Where no iteration runs, it ended so long ago: as a float, any number of iterations of it is a whole number, so that
# nothing is left of the last one (`Formula` needs no other sign).
ENDED = -1e30

Pieces = tuple[float, float, float]


def attention(one: Reservation) -> float:
    """Pairs of tokens in the attention of what is to be worked off of its prompt."""
    return one.uncached * (max(0.0, one.prompt - one.uncached) + one.uncached / 2.0)


class Line:
    """One endpoint: what no vector operation needs."""

    __slots__ = ("arrived", "at", "batch_seconds", "beat", "busy", "context_seconds", "pause", "running",
                 "running_pairs", "waiting", "worked")  # fmt: skip

    def __init__(self, now: float):
        self.at = now  # the sums below are up to this moment
        self.batch_seconds = 0.0
        self.context_seconds = 0.0
        self.worked = [0.0, 0.0, 0.0, 0.0]  # prefill of prompts that have started: tokens by piece, pairs
        self.beat = -NEVER  # when the running iteration began
        self.arrived = -NEVER  # prompts sent until then may be in it
        self.pause = 0.001
        self.busy = False  # a prompt is in the running iteration or waits
        self.running = 0.0  # prompt tokens in the running iteration
        self.running_pairs = 0.0
        self.waiting: deque[Reservation] = deque()  # dispatched, not started, in that order


# Rows of the table. The first twelve are what a prediction is a sum of.
(ONE, DECODING, WAITING, CONTEXT, OTHERS, QUEUE, PAIRS, RECENT_WORK, ENDS, CAPACITY, CACHED, SQUARE, EXTRA,
 RUNNING, DUE) = range(15)  # fmt: skip
SUMMED, ROWS = SQUARE + 1, DUE + 1
UNLIMITED = 1e15  # tokens, where nobody said how many the KV cache holds
RENEW = 100.0  # seconds after which fading sums get a new zero


class Books:
    """One table, a column per row of the fleet, and a `Line` for each in use.

    DECODING and WAITING count our requests (first token come or not), CONTEXT the KV tokens that our decodes read in
    each iteration, QUEUE the prompt tokens that are in no iteration yet and PAIRS their attention, RECENT_WORK the
    prefill seconds sent lately (fading with RECENT; see `fade`), OTHERS the requests of other gateways, ENDS when the
    running iteration would end if it took no time but for its prompt (ENDED where none runs), CAPACITY the KV tokens
    that fit; EXTRA the seconds and RUNNING the tokens of the prompt in the running iteration, DUE whether some prompt's
    first token is to come at its end (1 or 0). CACHED, and its SQUARE,
    are what is cached there of the prompt that was last asked about (`formula`).
    """

    def __init__(self, size: int = 8):
        self.lines: dict[int, Line] = {}
        self.capacity = UNLIMITED
        self.table: Floats = np.zeros((ROWS, 0))
        self.has_others = False  # perhaps: somewhere requests of other gateways are
        self._zero = 0.0  # the moment that fading sums are kept relative to
        self.reach(size)

    def reach(self, size: int) -> None:
        """Make room for rows below `size`."""
        before = self.table
        if size <= before.shape[1]:
            return
        self.table = np.zeros((ROWS, size))
        for row in range(before.shape[1], size):
            self._clear(row)
        self.table[:, : before.shape[1]] = before
        self.decoding, self.waiting, self.context = self.table[DECODING], self.table[WAITING], self.table[CONTEXT]
        self.queue, self.pairs, self.recent = self.table[QUEUE], self.table[PAIRS], self.table[RECENT_WORK]
        self.others, self.ends = self.table[OTHERS], self.table[ENDS]
        self.extra, self.running, self.due = self.table[EXTRA], self.table[RUNNING], self.table[DUE]

    def _clear(self, row: int) -> None:
        self.table[:, row] = 0.0
        self.table[ONE, row] = 1.0
        self.table[CAPACITY, row] = self.capacity
        self.table[ENDS, row] = ENDED

    def fade(self, now: float) -> float:
        """What to multiply RECENT_WORK with to have it as of `now`."""
        passed = now - self._zero
        if passed > RENEW:
            self.recent *= math.exp(-min(passed, 100.0 * RECENT) / RECENT)
            self._zero, passed = now, 0.0
        return math.exp(-passed / RECENT)

    def count(self, row: int, fleet: Fleet) -> None:
        """Take over the fleet's counts, after they have moved."""
        decoding = fleet.decoding.item(row)
        self.decoding[row] = decoding
        self.waiting[row] = fleet.ours.item(row) - decoding
        if decoding > 0.0 or self.running.item(row) > 0.0:
            line = self.lines.get(row)
            self.ends[row] = self.extra.item(row) + (line.beat if line is not None else -NEVER)
        else:
            self.ends[row] = ENDED

    def line(self, row: int, now: float) -> Line:
        line = self.lines.get(row)
        if line is None:
            line = self.lines[row] = Line(now)
        return line

    def forget(self, row: int) -> None:
        self.lines.pop(row, None)
        if row < self.table.shape[1]:
            self._clear(row)

    # --- sums over time ------------------------------------------------------------------------------------------

    def pass_time(self, line: Line, row: int, fleet: Fleet, now: float) -> None:
        """Bring the sums up to `now`; called before a count changes."""
        passed = now - line.at
        if passed > 0.0:
            line.batch_seconds += passed * fleet.decoding.item(row)
            line.context_seconds += passed * self.context.item(row)
            line.at = now

    def mark(self, line: Line) -> tuple[float, ...]:
        """Where the sums stand."""
        return (line.at, line.batch_seconds, line.context_seconds, *line.worked)

    # --- prompts -------------------------------------------------------------------------------------------------

    def send(self, reservation: Reservation, pairs: float, seconds: float, now: float) -> None:
        """A prompt goes there: `pairs` of attention, `seconds` of prefill."""
        row = reservation.row
        line = self.line(row, now)
        line.waiting.append(reservation)
        line.busy = True
        self.queue[row] += reservation.uncached
        self.pairs[row] += pairs
        fade = self.fade(now)  # first, since it may move the zero that the sum is relative to
        self.recent[row] += seconds / fade

    def turn(self, line: Line, row: int, room: float, arrived: float) -> float:
        """A boundary: the chunk that ran is done, the next one is taken from what had arrived. Returns its tokens."""
        waiting = self.queue.item(row)
        late = 0.0
        for reservation in reversed(line.waiting):
            if reservation.at <= arrived:
                break
            late += reservation.uncached
        chunk = max(0.0, min(waiting - late, room))
        share = chunk / waiting if waiting > 0.0 else 0.0
        pairs = self.pairs.item(row) * share
        self.queue[row] = waiting - chunk
        self.pairs[row] -= pairs
        line.running, line.running_pairs, line.arrived = chunk, pairs, arrived
        self.running[row] = chunk
        line.busy = chunk > 0.0 or waiting > 0.0
        self.due[row] = 1.0 if chunk > 0.0 and (chunk >= line.waiting[0].uncached or chunk == waiting) else 0.0
        if not line.busy:
            self.extra[row] = 0.0
        return float(chunk)

    def left_behind(self, line: Line, row: int, unstarted: float) -> bool:
        """Prompts that were to start with the last boundary and did not wait again; whether there are any.

        `unstarted`: uncached tokens of all that have not started there, by exact count.
        """
        done = unstarted - self.queue.item(row) - line.running + 0.5
        back = pairs = 0.0
        for one in line.waiting:  # a long one may be done in part
            if back + one.uncached > done:
                break
            back += one.uncached
            pairs += attention(one)
        self.queue[row] += back
        self.pairs[row] += pairs
        return back > 0.0

    def take_back(self, line: Line, row: int) -> None:
        """What was taken into the running iteration waits again."""
        self.queue[row] += line.running
        self.pairs[row] += line.running_pairs
        line.running = line.running_pairs = 0.0

    def take_out(self, reservation: Reservation, unstarted: float) -> None:
        """It has started or gone; `unstarted`: uncached tokens of all that have not started there, it not included."""
        row = reservation.row
        line = self.lines[row]
        waiting = line.waiting
        if waiting and waiting[0] is reservation:
            waiting.popleft()
        else:
            try:
                waiting.remove(reservation)
            except ValueError:
                return
        if unstarted <= 0.0 or not waiting:
            self.queue[row] = self.pairs[row] = self.extra[row] = self.running[row] = self.due[row] = 0.0
            line.running = line.running_pairs = 0.0
            line.busy = False
            return
        # What is in flight there by exact count bounds what the books think is left.
        queue = self.queue.item(row)
        surplus = queue + line.running - unstarted
        if surplus > 0.0:
            cut = min(line.running, surplus)
            if cut > 0.0:
                self.extra[row] *= 1.0 - cut / line.running
                line.running -= cut
                self.running[row] = line.running
                self.due[row] *= line.running > 0.0
            if surplus > cut and queue > 0.0:
                self.pairs[row] *= (queue - surplus + cut) / queue
                self.queue[row] = queue - surplus + cut
