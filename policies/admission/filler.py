"""Filler: asynchronous work in what interactive traffic leaves free, measured in what it does to the others.

The idea: a gateway cannot stop an engine inside an iteration, so it bounds the harm before it sends. Four predicted
effects decide per endpoint, all in seconds, all multiplied with what the closed loop (`loop`) has found them to be:

* Pace. With this filler, tokens there come every T / (1 - rho) seconds; that must stay within the share `use` of the
  promised TPOT (without one: within `slowdown` of the pace that there would be without filler).
* Batch. Filler that decodes makes every iteration longer, and a first token waits for about one and a half. Where
  interactive requests may arrive before it could be taken away, that may cost `slowdown` of their first token, or
  12.5 ms.
* Prompt. While its prompt is worked off, an endpoint is no place for others. They go elsewhere, as long as there is an
  elsewhere: so many may come meanwhile (Poisson), so many endpoints work off no prompt. The share of arrivals that find
  none may be `slowdown`, which is kept as an account.
* Room. Its context must fit into the KV cache beside what is there and will be written.

Where nobody is expected nothing of that binds but room, and the engine runs as full as it can be: what makes that safe
is that running filler is aborted, least progress first, as soon as somebody comes and the effects are beyond their
bounds. Who will end within a moment by itself is let end: that halves what is lost at the onset of a burst. One
endpoint in sixteen stands by at the bound of the batch. An item is aborted at most `aborts` times; after that it goes
only where it need never be.

Pure: no clock, no I/O. Left to others: who of the filler goes next (the class's queue), sending and aborting; the
bounds themselves (`bounds`), what is in flight (`ledger`), the account of prompts (`prompts`).
Sources: HyGen (2501.14808), ConServe (2410.01228): a budget of latency, not of requests; Echo, Chiron: preemptible.
"""

from __future__ import annotations

import math
from copy import copy
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gateway.core.books import CAPACITY
from gateway.core.fleet import Fleet
from gateway.core.predictor import Predictor
from gateway.core.reservation import Reservation
from gateway.core.snapshot import Snapshot
from gateway.core.types import Decision, Forecast, Outcome, Request
from policies.admission.arrivals import chance_of_more
from policies.admission.bounds import Bounds
from policies.admission.closed import Look
from policies.admission.ledger import Ledger
from policies.admission.loop import Interference
from policies.admission.prompts import Prompts, blocked, occupied, work
from policies.admission.strain import LONGEST_RHO, Strain

Flags = npt.NDArray[np.bool_]

SOON, LATER = 0.25, 0.5  # seconds: within which filler that is in the way leaves; for which it is sent
AHEAD = 0.4  # seconds of prefill that may wait where nobody else is expected
QUEUED = 3.0  # requests that an engine may say wait there
FULL = 0.85  # of the KV cache
LEFT = 0.5  # of what is still to be written is there at once
GRACE = 1.5  # seconds: who ends within them is not aborted to shorten iterations
SLACK = 1.2  # times the bound: from where on filler is aborted, down to the bound
PAUSE, RECOUNT = 0.02, 1.0  # seconds between two looks at who must go; between two counts of what filler has written
MOST = 512.0  # filler requests per endpoint, whatever is known of it
SOMEBODY = 0.5  # requests: others are an average of what scrapes said, and what is left of one by then is nobody
FEW = 4.0  # per endpoint while nothing is known of it, where others are or are expected


class Rule(Protocol):
    """What the operator says: see `filler:` of a class."""

    @property
    def slowdown(self) -> float: ...

    @property
    def aborts(self) -> int: ...


class Filler:
    """One pool's. Tell it of every place `taken`, `admitted` and `ended`; ask `open_rows` and `victims`."""

    def __init__(self, rule: Rule):
        self.rule = rule
        self.aborted = 0
        self.look: Look | None = None  # at the last request that was asked for
        self._aborts = rule.aborts
        self._slowdown = rule.slowdown
        self._ledger = Ledger()
        self._bounds = Bounds(rule.slowdown)
        self._prompts = Prompts(rule.slowdown)
        self._alone: Flags = np.zeros(0, np.bool_)  # rows where the last one was let go because nobody is expected
        self._cost = self._seconds = 0.0  # of its prompt: arrivals, and how long it takes
        self._looked = self._recounted = -math.inf

    # --- what it is told -----------------------------------------------------------------------------------------

    def came(self, request: Request, now: float) -> None:
        """A protected request has come, and may have to wait: it is expected from now on."""
        self._bounds.came(request, now)

    def taken(self, reservation: Reservation, request: Request, now: float) -> None:
        """A protected request was sent."""
        self._bounds.taken(reservation, request, self._ledger, now)

    def admitted(self, reservation: Reservation, request: Request, now: float, aborted: int = 0) -> None:
        """Filler was sent; it has been `aborted` so often before."""
        predictor, row = reservation.fleet.predictor, reservation.row
        seconds = work(predictor, row, reservation.uncached) if predictor is not None else 0.0
        ahead = row < len(self._alone) and bool(self._alone[row])
        self._ledger.add(reservation, aborted, seconds, max(seconds, self._seconds), ahead, now)
        self._prompts.spend(self._cost)

    def ended(self, reservation: Reservation, outcome: Outcome | None, now: float) -> None:
        """A place was given back, of either kind."""
        if self._ledger.remove(reservation):
            self._ledger.learn(outcome)
        else:
            self._bounds.ended(reservation, outcome, now)

    # --- what it is asked ----------------------------------------------------------------------------------------

    def open_rows(self, request: Request, snapshot: Snapshot, now: float, aborted: int = 0) -> Snapshot | None:
        """The snapshot cut to endpoints where this filler does no more harm than is allowed; None: nowhere now."""
        fleet, predictor, rows = snapshot.fleet, snapshot.fleet.predictor, snapshot.rows
        if predictor is None:
            return self._guess(request, snapshot)
        # Asked first: it notices which plain answers should have started by now.
        prediction = predictor.predict(request, snapshot)
        strain = Strain(fleet, predictor, self._ledger, len(fleet.ours), now)
        expected = self._bounds.expected(strain, rows, now, LATER)
        if aborted >= self._aborts:
            expected[rows] = True  # it must go where nobody will want it to leave
        watched = expected | (strain.others > SOMEBODY)
        kept = {"room": self._has_room(fleet, predictor, request.prompt_tokens + request.output_tokens)[rows]}
        if predictor.calibrated:
            context = request.prompt_tokens + request.output_tokens / 2.0
            filled = strain.filler + strain.sequence + strain.context_each * context
            pace = strain.pace(1.0, context, float(prediction.work.max()))
            kept["batch"] = ((filled <= self._bounds.iteration(predictor)) | ~expected)[rows]
            kept["pace"] = ((pace <= self._bounds.pace(strain)) | ~watched)[rows]
        else:
            kept["few"] = ((self._ledger.requests[: len(watched)] < FEW) | ~watched)[rows]
        kept["first"] = self._bounds.keeps_first(prediction.ttft, predictor) | ~watched[rows]
        open_: Flags = np.logical_and.reduce(tuple(kept.values()))
        chosen = self._for_prompt(open_, watched, snapshot, strain, request.prompt_tokens)
        self.look = Look(request, snapshot, kept, chosen, "prompt")
        if not chosen.any():
            return None
        spare = chosen & ~expected[rows]  # those at first where nobody is expected
        self.look.found = Snapshot(fleet, now, rows[spare if spare.any() else chosen], False)
        return self.look.found

    def victims(self, fleet: Fleet, now: float) -> list[Reservation]:
        """Filler to abort now, because somebody is there or expected whom it would delay beyond the bounds."""
        predictor = fleet.predictor
        if predictor is None or not self._ledger.rows or now - self._looked < PAUSE:
            return []
        self._looked = now
        if now - self._recounted > RECOUNT:
            self._recounted = now
            self._ledger.recount()
        strain = Strain(fleet, predictor, self._ledger, len(fleet.ours), now)
        rows = np.array([row for row, _ in fleet.members()], np.intp)
        expected = self._bounds.expected(strain, rows, now, SOON, standby=False)
        bound, there = self._bounds.iteration(predictor), strain.others > SOMEBODY
        # What the filler's prefills did to the pace is over when nothing is sent any more.
        stretch = 1.0 - np.minimum(strain.rho - strain.rho_filler, LONGEST_RHO)
        late = np.where(there, strain.iteration - self._bounds.pace(strain) * stretch, -math.inf)
        spare = np.where(expected & (strain.filler > SLACK * bound), strain.filler - bound, -math.inf)
        found = self._waiting(expected | there)
        for row in ((late > 0.0) | (spare > 0.0)).nonzero()[0].tolist():
            shed = self._shed(row, late.item(row), spare.item(row), strain, now)
            found += [reservation for reservation in shed if reservation not in found]
        self.aborted += len(found)
        return found

    def cleared(self, decision: Decision, fleet: Fleet, now: float) -> Decision:
        """A decision of a protected request with what is predicted once the filler there has given way."""
        forecast, predictor, row = decision.forecast, fleet.predictor, decision.row
        if forecast is None or predictor is None or row not in self._ledger.rows:
            return decision
        strain = Strain(fleet, predictor, self._ledger, len(fleet.ours), now)
        pace = float(strain.alone().item(row) / strain.pace().item(row))
        unread = self._ledger.unread(row)
        waits = work(predictor, row, unread) if unread else 0.0
        first = max(predictor.idle_ttft(self._bounds.arrivals.prompt), pace * (forecast.ttft - waits))
        return decision._replace(forecast=_scaled(forecast, min(1.0, first / forecast.ttft), min(1.0, pace)))

    def there(self, row: int) -> float:
        """How many of it are on an endpoint."""
        return float(len(self._ledger.rows.get(row, ())))

    def report(self) -> Interference:
        """What filler does to the protected, as measured."""
        return self._bounds.loop.report()

    def counts(self) -> dict[int, int]:
        """Filler in flight by row."""
        return {row: len(running) for row, running in self._ledger.rows.items()}

    # --- how -----------------------------------------------------------------------------------------------------

    def _has_room(self, fleet: Fleet, predictor: Predictor, tokens: float) -> Flags:
        """Endpoints whose KV cache has room."""
        books, count = predictor.books, len(fleet.ours)
        held = books.context[:count] + fleet.prefill[:count] + LEFT * fleet.output[:count] + tokens
        room: Flags = held <= FULL * books.table[CAPACITY, :count]
        room &= self._ledger.requests[:count] < MOST
        return room

    def _for_prompt(self, open_: Flags, watched: Flags, snapshot: Snapshot, strain: Strain, prompt: float) -> Flags:
        """Of the candidates those where its prompt may be worked off now."""
        fleet, predictor, now = snapshot.fleet, snapshot.fleet.predictor, snapshot.now
        assert predictor is not None
        rate, unstarted = self._bounds.arrivals.rate(now), snapshot.column(fleet.prefill)
        self._prompts.earn(rate, now)
        row = int(snapshot.rows[open_.argmax()])
        self._seconds = seconds = occupied(predictor, row, prompt, strain.iteration.item(row))
        if chance_of_more(rate * seconds, 0) <= self._slowdown:
            self._cost, self._alone = 0.0, ~watched
            left = snapshot.column(self._ledger.backlog(fleet, now, seconds))
            able = np.where(left == left, left, unstarted * (seconds / prompt)) <= AHEAD
            return open_ & np.where(watched[snapshot.rows], unstarted <= 0.0, able)
        # Endpoints that work off no filler's prompt, this one not counted either.
        elsewhere = len(open_) - 1 - self._ledger.unstarted()
        theirs = occupied(predictor, row, self._bounds.arrivals.prompt, float(strain.iteration[snapshot.rows].mean()))
        self._cost, self._alone = rate * seconds * blocked(rate * theirs, elsewhere), np.zeros_like(watched)
        chosen = open_ & (unstarted <= 0.0) & ~(snapshot.column(fleet.waiting) > QUEUED)
        return chosen if self._prompts.may_spend(self._cost) else np.zeros_like(open_)

    def _waiting(self, watched: Flags) -> list[Reservation]:
        """Those that may still wait at engines where somebody comes, who would wait behind them."""
        found = []
        for row in self._ledger.rows_ahead():
            if watched[row]:
                found += [each for each, aborted in self._ledger.waiting(row) if aborted < self._aborts]
        return found

    def _shed(self, row: int, late: float, spare: float, strain: Strain, now: float) -> list[Reservation]:
        """Those of a row to abort, least progress first, until an iteration is shorter by `late` seconds.

        And by `spare`, to which those count who will be gone by themselves in a moment.
        """
        found = []
        each, per_token = strain.sequence.item(row), strain.context_each.item(row)
        iteration = strain.iteration.item(row)
        running = self._ledger.youngest(row, now)
        for reservation, written, _ in reversed(running):
            if (reservation.expected - written) * iteration > GRACE:
                break
            spare -= each + per_token * (reservation.prompt + written)
        for reservation, written, aborted in running:
            if late <= 0.0 and spare <= 0.0:
                break
            if aborted < self._aborts:
                found.append(reservation)
                seconds = each + per_token * (reservation.prompt + written)
                late, spare = late - seconds, spare - seconds
        return found

    def _guess(self, request: Request, snapshot: Snapshot) -> Snapshot | None:
        """Without a predictor: a few where nobody else is."""
        count = len(snapshot.fleet.ours)
        self._ledger.reach(count)
        there = snapshot.column(self._ledger.requests[:count])
        few = (there < FEW) & (snapshot.requests - there <= SOMEBODY)
        self.look = Look(request, snapshot, {}, few, "few")
        if few.any():
            self.look.found = Snapshot(snapshot.fleet, snapshot.now, snapshot.rows[few], False)
        return self.look.found


def _scaled(forecast: Forecast, first: float, pace: float) -> Forecast:
    """Another one with its first token and its pace multiplied."""
    found = copy(forecast)
    found.ttft, found.ttft_low, found.ttft_high, found.ttft_base = (
        first * seconds for seconds in (forecast.ttft, forecast.ttft_low, forecast.ttft_high, forecast.ttft_base)
    )
    found.tpot, found.tpot_low, found.tpot_high, found.tpot_base = (
        pace * seconds for seconds in (forecast.tpot, forecast.tpot_low, forecast.tpot_high, forecast.tpot_base)
    )
    return found
