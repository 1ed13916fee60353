"""What one pool's engines are doing right now, kept from what the gateway itself sends and hears.

The idea: an engine does iterations; each token of a stream that we relay marks the end of one. So for every endpoint
the books hold the moment of the last boundary, the prompt tokens that are in the running iteration and those that
wait for the next one, the context its decodes read, and the prefill work that was lately sent to it. Prompts are
taken in the order of dispatch, as the engines do (first come, first served), a chunk budget at a time.

For learning they also keep sums over time (decodes x seconds, context x seconds, prefill worked off): what lies between
two moments of a stream is then known without having looked at every token.

A plain answer gives no sign of its first token: it is taken to have started when it was predicted to.
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

Pieces = tuple[float, float, float]


class Line:
    """One endpoint: what no vector operation needs."""

    __slots__ = ("at", "batch_seconds", "beat", "busy", "context_seconds", "pause", "running", "running_pairs",
                 "waiting", "worked")  # fmt: skip

    def __init__(self, now: float):
        self.at = now  # the sums below are up to this moment
        self.batch_seconds = 0.0
        self.context_seconds = 0.0
        self.worked = [0.0, 0.0, 0.0, 0.0]  # prefill of prompts that have started: tokens by piece, pairs
        self.beat = -NEVER  # when the running iteration began
        self.pause = 0.001
        self.busy = False  # a prompt is in the running iteration or waits
        self.running = 0.0  # prompt tokens in the running iteration
        self.running_pairs = 0.0
        self.waiting: deque[Reservation] = deque()  # dispatched, not started, in that order


class Books:
    """Columns by row, as in the fleet, and a `Line` for each row in use."""

    NAMES = ("queue", "pairs", "context", "extra", "beat", "recent", "recent_at", "running")

    queue: Floats  # prompt tokens that are in no iteration yet
    pairs: Floats  # attention work of those, pairs of tokens
    context: Floats  # KV tokens that our decodes read in each iteration
    extra: Floats  # seconds that the prompt in the running iteration adds to it
    beat: Floats  # when the running iteration began
    recent: Floats  # seconds of prefill sent lately, fading with RECENT, as of recent_at
    recent_at: Floats
    running: Floats  # prompt tokens in the running iteration

    def __init__(self, size: int = 8):
        self.lines: dict[int, Line] = {}
        self.table = np.zeros((len(self.NAMES), 0))
        self.reach(size)

    def reach(self, size: int) -> None:
        """Make room for rows below `size`."""
        before = self.table
        if size <= before.shape[1]:
            return
        self.table = np.zeros((len(self.NAMES), size))
        self.table[self.NAMES.index("beat")] = -NEVER
        self.table[:, : before.shape[1]] = before
        for row, name in enumerate(self.NAMES):
            setattr(self, name, self.table[row])

    def line(self, row: int, now: float) -> Line:
        line = self.lines.get(row)
        if line is None:
            line = self.lines[row] = Line(now)
        return line

    def forget(self, row: int) -> None:
        if self.lines.pop(row, None) is not None:
            self.table[:, row] = 0.0
            self.beat[row] = -NEVER

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
        kept = self.recent.item(row) * math.exp((self.recent_at.item(row) - now) / RECENT)
        self.recent[row] = kept + seconds
        self.recent_at[row] = now

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
        line.running, line.running_pairs = chunk, pairs
        self.running[row] = chunk
        line.busy = chunk > 0.0 or waiting > 0.0
        if not line.busy:
            self.extra[row] = 0.0
        return chunk

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
            self.queue[row] = self.pairs[row] = self.extra[row] = self.running[row] = 0.0
            line.running = line.running_pairs = 0.0
            line.busy = False
            return
        # What is in flight there by exact count bounds what the books think is left.
        queue = self.queue.item(row)
        surplus = queue + line.running - unstarted
        if surplus > 0.0:
            cut = min(line.running, surplus)
            line.running -= cut
            self.running[row] = line.running
            if surplus > cut and queue > 0.0:
                self.pairs[row] *= (queue - surplus + cut) / queue
                self.queue[row] = queue - surplus + cut
