"""The endpoints of one pool as columns: what they said, how old it is, and what we have in flight there.

The idea: our own dispatches are the freshest news about a server. A scrape only adds what we cannot know, the
requests of *others*: `others = max(0, waiting + running - ours when the scrape was sent)`, so nothing is counted
twice however often it is scraped. Where a server says nothing, or said it too long ago, its others are taken as
the mean of those that do speak: unknown is neither zero nor a reason to avoid it.

Tokens are counted whole: sums of whole numbers are exact in float64, so an idle row is exactly empty and no column ever
drifts below zero. Looking (`snapshot`) and taking (`reserve`) happen in one plain function of the caller, so there is
no lock. A row number stays an endpoint's own until its last request has been settled.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from random import Random
from typing import ClassVar

import numpy as np

from gateway.core.errors import NoEndpoint, Refused
from gateway.core.health import Evidence, Health, Rule, State
from gateway.core.offers import NOBODY, Offers
from gateway.core.predictor import Predictor
from gateway.core.reservation import Reservation
from gateway.core.snapshot import Snapshot
from gateway.core.types import UNKNOWN, Decision, Endpoint, Floats, Load, Request, Rows

# A request of others is taken to have this share of a whole one left to do: on average it is half way.
OTHERS_LEFT = 0.5
# Seconds over which others' requests are averaged. What differs for a moment is gone when it is acted upon, and every
# gateway that sees the same dip fills it: four gateways that believed each scrape did worse than four that saw none.
OTHERS_MEMORY = 5.0
# Below so many there are none: an average never comes to nothing by itself, and filler keeps off where somebody is.
NO_OTHERS = 0.05
# How fast the mean size of a request follows what we see (weight of one request).
SIZE_WEIGHT = 0.02


class Fleet:
    """One pool's endpoints as float64 columns, one row each. Not thread-safe; one event loop owns it."""

    def __init__(self, pool: str, rule: Rule, random: Random, *, stale_after: float = 3.0, size: int = 8):
        self.pool = pool
        self.rule = rule
        self.random = random
        self.stale_after = stale_after
        self.predictor: Predictor | None = None  # for policies that predict; told of every place taken
        self.offers = Offers()  # who serves what
        self.mean_tokens = 500.0  # of one request, prompt and output; learnt from what we dispatch
        self._endpoints: list[Endpoint | None] = []
        self._row_of: dict[str, int] = {}
        self._health: list[Health] = []
        self._leaving: set[int] = set()
        self._saturated: dict[int, float] = {}
        self._dirty = True
        self._recheck_at = math.inf
        self._rows: Rows = np.empty(0, np.intp)
        self._whole = False
        self._spare: Rows = np.empty(0, np.intp)
        self._partial: list[int] = []
        self._limited = False
        self.table: Floats = np.zeros((len(self._NAMES), 0))
        self._allocate(size)

    # --- columns -----------------------------------------------------------------------------------------------

    # One table, a row for each of these; the first five are what a decision record shows.
    _NAMES = ("requests", "tokens", "prefill", "kv_used", "aged", "ours", "others", "decoding", "output",
              "progress_at", "answered_at", "waiting", "running", "kv_capacity", "at", "sent_at", "limit")  # fmt: skip
    _BLANK: ClassVar[Mapping[str, float]] = {
        "waiting": UNKNOWN, "running": UNKNOWN, "kv_used": UNKNOWN, "kv_capacity": UNKNOWN, "others": UNKNOWN,
        "at": -math.inf, "sent_at": -math.inf, "answered_at": -math.inf, "limit": math.inf, "aged": math.inf,
    }  # fmt: skip

    def _allocate(self, size: int) -> None:
        before = self.table
        self.table = np.zeros((len(self._NAMES), size))
        for row, name in enumerate(self._NAMES):
            self.table[row] = self._BLANK.get(name, 0.0)
            setattr(self, name, self.table[row])
        self.table[:, : before.shape[1]] = before
        self.aged_at = -math.inf

    aged: Floats  # `now - at`, as it was at most AGED seconds ago
    ours: Floats
    others: Floats
    requests: Floats
    tokens: Floats
    prefill: Floats
    decoding: Floats
    output: Floats
    progress_at: Floats
    answered_at: Floats  # when an answer last started there
    sent_at: Floats
    waiting: Floats
    running: Floats
    kv_used: Floats
    kv_capacity: Floats
    at: Floats
    limit: Floats

    # --- membership --------------------------------------------------------------------------------------------

    def update(self, endpoints: Collection[Endpoint], now: float, *, fresh: bool = False) -> list[int]:
        """Make the pool hold exactly these. Those that left drain; returns the rows freed at once.

        `fresh` says the whole gateway has just started: nobody then gets a slow start.
        """
        wanted = {endpoint.id: endpoint for endpoint in endpoints}
        for endpoint in wanted.values():
            row = self._row_of.get(endpoint.id)
            if row is None:
                self._join(endpoint, now, fresh)
            else:
                self._leaving.discard(row)
                self._endpoints[row] = endpoint
                self._set_limit(row, endpoint)
        freed = []
        for endpoint_id, row in list(self._row_of.items()):
            if endpoint_id not in wanted:
                self._leaving.add(row)
                if self.ours[row] == 0.0:
                    self._free(row)
                    freed.append(row)
        self._dirty = True
        self._spread_unknown()
        return freed

    def _join(self, endpoint: Endpoint, now: float, fresh: bool) -> None:
        health = Health(self.rule, now, ramp=not fresh)
        for row, taken in enumerate(self._endpoints):
            if taken is None:
                self._endpoints[row], self._health[row] = endpoint, health
                break
        else:
            row = len(self._endpoints)
            self._endpoints.append(endpoint)
            self._health.append(health)
            if row >= len(self.ours):
                self._allocate(2 * len(self.ours))
        self._row_of[endpoint.id] = row
        self._set_limit(row, endpoint)

    def _set_limit(self, row: int, endpoint: Endpoint) -> None:
        self.limit[row] = math.inf if endpoint.max_concurrency is None else endpoint.max_concurrency
        self._limited = bool(np.isfinite(self.limit[: len(self._endpoints)]).any())

    def _free(self, row: int) -> None:
        endpoint = self._endpoints[row]
        assert endpoint is not None
        del self._row_of[endpoint.id]
        self._endpoints[row] = None
        self._leaving.discard(row)
        self._saturated.pop(row, None)
        for name in ("ours", "requests", "tokens", "prefill", "decoding", "output", "progress_at"):
            getattr(self, name)[row] = 0.0
        for name in ("waiting", "running", "kv_used", "kv_capacity", "others"):
            getattr(self, name)[row] = UNKNOWN
        self.at[row] = self.sent_at[row] = self.answered_at[row] = -math.inf
        self.offers.forget(row)
        if self.predictor is not None:
            self.predictor.forget(row)
        self._dirty = True

    def endpoint(self, row: int) -> Endpoint:
        endpoint = self._endpoints[row]
        assert endpoint is not None, f"row {row} of pool {self.pool} is empty"
        return endpoint

    def row_of(self, endpoint_id: str) -> int | None:
        return self._row_of.get(endpoint_id)

    def members(self) -> Iterator[tuple[int, Endpoint]]:
        """Rows in use, those that drain included."""
        for row, endpoint in enumerate(self._endpoints):
            if endpoint is not None:
                yield row, endpoint

    def longest(self, name: str) -> int | None:
        """The most tokens of prompt and answer that an endpoint here takes for this model; None: not all have said."""
        return self.offers.longest(name, len(self._row_of))

    def is_leaving(self, row: int) -> bool:
        return row in self._leaving

    # --- health ------------------------------------------------------------------------------------------------

    def health(self, row: int) -> Health:
        return self._health[row]

    def set_rule(self, rule: Rule) -> None:
        """A reload may change when endpoints are ejected."""
        self.rule = rule
        for health in self._health:
            health.rule = rule

    def see(self, row: int, evidence: Evidence, now: float) -> State:
        """Evidence about one endpoint. Returns its state after it."""
        health = self._health[row]
        before = health.state
        if before is State.HEALTHY and (evidence is Evidence.SUCCESS or evidence is Evidence.PROBE_OK):
            return before  # the hot path: nothing to count, nobody to ask
        after = health.see(evidence, now, self._may_eject(row))
        if after is not before:
            self._dirty = True
        return after

    def saturated(self, row: int, until: float) -> None:
        """The engine said it is full: others are preferred until then, nobody is ejected for it."""
        self._saturated[row] = until
        self._dirty = True

    def _may_eject(self, row: int) -> bool:
        members = [r for r, _ in self.members() if r not in self._leaving]
        # One on trial is still out: were it counted as in, its failure would bring the pool below its share.
        absent = (State.EJECTED, State.DOWN, State.TRIAL)
        out = sum(1 for r in members if r != row and self._health[r].state in absent)
        alive = len(members) - out
        return alive > 1 and out + 1 <= math.floor(self.rule.at_most * len(members) + 1e-9)

    # --- what was scraped --------------------------------------------------------------------------------------

    def observe(self, row: int, load: Load, ours_then: float) -> None:
        """A scrape has come back. `ours_then` is our in-flight count there when it was sent."""
        self.waiting[row], self.running[row] = load.waiting, load.running
        self.kv_used[row], self.kv_capacity[row] = load.kv_used, load.kv_capacity
        passed = max(0.0, load.at - self.at.item(row))
        self.at[row] = load.at
        # Who tells only its queue (Triton, JetStream) still tells the least that is there.
        said = load.waiting + (0.0 if math.isnan(load.running) else load.running)
        if not math.isfinite(said):
            self.others[row] = UNKNOWN
        else:
            there, before = max(0.0, said - max(ours_then, self.ours[row])), self.others.item(row)
            weight = 1.0 if before != before else passed / (passed + OTHERS_MEMORY)
            mean = there if weight >= 1.0 else before + weight * (there - before)
            self.others[row] = mean if mean >= NO_OTHERS else 0.0
        if self.predictor is not None:
            self.predictor.told(row, load.kv_capacity)
        self._spread_unknown()

    def forget_stale(self, now: float) -> None:
        """What is older than `stale_after` is no longer believed. Called on a timer."""
        count = len(self._endpoints)
        old = (now - self.at[:count] > self.stale_after) & ~np.isnan(self.others[:count])
        if old.any():
            self.others[:count][old] = UNKNOWN
            self._spread_unknown()

    def _spread_unknown(self) -> None:
        """Recompute `requests` and `tokens` from ours and others; the unknown get the mean of the known."""
        count = len(self._endpoints)
        others = self.others[:count]
        known = others == others
        told = int(np.count_nonzero(known))
        # Once per scrape, so the usual case, that all have told, is the short one.
        filled = others if told == count else np.where(known, others, others[known].sum() / max(told, 1))
        self.requests[:count] = self.ours[:count] + filled
        share = filled * (self.mean_tokens * OTHERS_LEFT)
        self.tokens[:count] = self.prefill[:count] + self.output[:count] + share
        if self.predictor is not None:
            self.predictor.see_others(filled)

    # --- looking and taking ------------------------------------------------------------------------------------

    def snapshot(self, now: float, avoid: Collection[str] = (), needs: str = "") -> Snapshot:
        """Who may be chosen now, without the endpoints (ids) in `avoid` and those known not to serve the model `needs`.

        Raises NoEndpoint when all are down or left out, Refused (`queue_full`) when all are at their limit.
        """
        if self._dirty or now >= self._recheck_at:
            self._refresh(now)
        rows, whole = self._rows, self._whole
        if self._partial:
            rows, whole = self._with_partial(rows, now), False
        lacking = self.offers.lacking(needs) if needs else NOBODY
        if avoid or self._limited or len(lacking):
            # A returning or saturated endpoint that was not among them is better than none at all.
            allowed = self._without(rows, avoid, lacking)
            with_room = self._with_room(allowed)
            if not len(with_room):
                spare = self._without(self._spare, avoid, lacking)
                allowed = np.concatenate((allowed, spare))
                with_room = self._with_room(spare)
            if not len(with_room) and len(allowed):
                raise Refused("every model server is at its concurrency limit", reason="queue_full", retry_after=1.0)
            if with_room is not rows:
                rows, whole = with_room, False
        if not len(rows):
            raise NoEndpoint("no model server is available for this model right now")
        return Snapshot(self, now, rows, whole)

    def _without(self, rows: Rows, avoid: Collection[str], lacking: Rows) -> Rows:
        avoided = [self._row_of[i] for i in avoid if i in self._row_of]
        avoided += lacking.tolist()
        return rows[~np.isin(rows, avoided)] if avoided else rows

    def _with_room(self, rows: Rows) -> Rows:
        if not self._limited:
            return rows
        room = self.ours[rows] < self.limit[rows]
        return rows if room.all() else rows[room]

    def _refresh(self, now: float) -> None:
        """Sort the members by state. Cached until evidence comes or a moment that changes it has passed."""
        self._saturated = {row: until for row, until in self._saturated.items() if until > now}
        sure, ramping, trial, ejected = [], [], [], []
        recheck = min(self._saturated.values(), default=math.inf)
        for row, _ in self.members():
            if row in self._leaving:
                continue
            health = self._health[row]
            state = health.tick(now)
            recheck = min(recheck, health.next_at)
            if state is State.EJECTED:
                ejected.append(row)
            elif state is State.TRIAL:
                trial.append(row)
            elif state is not State.DOWN and health.weight(now) < 1.0:
                ramping.append(row)
            elif state is not State.DOWN:
                sure.append(row)
        spare = list(ramping)
        free = [row for row in sure if row not in self._saturated]
        if free:
            spare += [row for row in sure if row in self._saturated]
            sure = free
        elif not sure and ramping:
            # Nobody but those that come back: they carry it all, not those that are known to fail.
            sure, ramping = ramping, []
        elif not sure:
            # Nobody is trusted: spread over all that are not known to be down.
            sure, trial = sorted(trial + ejected), []
        self._rows = np.array(sure, np.intp)
        self._spare = np.array(spare, np.intp)
        self._partial = ramping + trial
        self._whole = sure == list(range(len(self._endpoints)))
        self._recheck_at = recheck
        self._dirty = False

    def _with_partial(self, rows: Rows, now: float) -> Rows:
        """Let each returning endpoint in with its weight as the probability; on trial, one request at a time."""
        extra = []
        for row in self._partial:
            health = self._health[row]
            if health.state is State.TRIAL:
                # Streams from before the ejection may go on for long; they do not put the trial off.
                if self.ours[row] == 0.0 or self.sent_at[row] < health.since:
                    extra.append(row)
            elif self.random.random() < health.weight(now):
                extra.append(row)
        return np.concatenate((rows, np.array(extra, np.intp))) if extra else rows

    def reserve(self, decision: Decision, request: Request, now: float) -> Reservation:
        """Take the place that was decided on. Call it in the same step as `snapshot` and `pick`."""
        row = decision.row
        uncached = float(int(request.prompt_tokens - decision.cached_tokens))
        if uncached < 1.0:
            uncached = 1.0
        reservation = Reservation(self, row, request, uncached, now, decision.forecast)
        work = uncached + reservation.left
        if self.ours[row] == 0.0:
            self.progress_at[row] = now
        self.sent_at[row] = now
        self.ours[row] += 1.0
        self.requests[row] += 1.0
        self.prefill[row] += uncached
        self.output[row] += reservation.left
        self.tokens[row] += work
        self.mean_tokens += SIZE_WEIGHT * (work - self.mean_tokens)
        if self.predictor is not None:
            self.predictor.dispatched(reservation, request, now)
        return reservation

    def release(self, reservation: Reservation) -> None:
        row = reservation.row
        rest = reservation.left
        self.output[row] -= reservation.left
        if reservation.started:
            self.decoding[row] -= 1.0
        else:
            self.prefill[row] -= reservation.uncached
            rest += reservation.uncached
        self.ours[row] -= 1.0
        self.requests[row] -= 1.0
        self.tokens[row] -= rest
        if self.ours[row] == 0.0 and row in self._leaving:
            self._free(row)

    def inflight(self) -> Mapping[str, int]:
        """Our requests in flight by endpoint id, those that drain included."""
        return {endpoint.id: int(self.ours[row]) for row, endpoint in self.members()}
