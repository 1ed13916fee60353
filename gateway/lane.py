"""One pool at run time: its fleet, its policy, its connections, and what the gateway has learnt of it.

Also the watch for endpoints that fell silent. A hung engine looks idle to its metrics and healthy to its check (seen on
vLLM with its engine process stopped); what gives it away is that nothing comes back for much longer than this pool
takes. The time allowed grows with the prompt tokens queued there, so that a long prefill is not taken for a hang.
"""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Callable, Iterable

import numpy as np

from backends.base import Backend
from gateway.admit import Admission, Visit
from gateway.ask import Facts
from gateway.config.types import Pool
from gateway.core.errors import Displaced, UpstreamError
from gateway.core.fleet import Fleet
from gateway.core.health import Evidence, State
from gateway.core.prediction import Prior
from gateway.core.predictor import Predictor
from gateway.core.reservation import Reservation
from gateway.core.types import UNKNOWN, Outcome, Request
from gateway.decisions import DecisionRing
from gateway.peek import rewrite
from gateway.relay import Relay
from gateway.wire.pool import EndpointPool
from policies.admission.base import ClassRule
from policies.admission.desk import Desk, Filling
from policies.picking.base import Policy

SILENCE = 4.0  # seconds of silence that are never suspicious
_TIMES = 4.0  # ... nor is this many times the pool's TTFT p99
_QUEUED = 2.0  # ... nor this many times what the queued prompt tokens usually take
GONE = 30.0  # seconds out of reach after which a plain request is not waited for: a server that drains closes its port
_MANY = 500.0  # queued prompt tokens from which they, and not the rest of a request, make the time to its first token
_SAMPLES = 20  # first tokens seen before silence is judged at all
_BUDGET_START = 10.0  # tries that a quiet pool may make again


class Budget:
    """Further tries as a share of first ones: each request earns `share`, each further try costs 1."""

    __slots__ = ("_share", "_tokens", "_most")

    def __init__(self, share: float):
        self._share = share
        self._tokens = self._most = _BUDGET_START

    def earn(self) -> None:
        if self._tokens < self._most:
            self._tokens += self._share

    def spend(self) -> bool:
        """True when one more try is allowed."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class Lane:
    """Wiring of one pool; made by app, used by proxy. `backend_for` tells how to speak to an endpoint."""

    def __init__(self, config: Pool, fleet: Fleet, policy: Policy, backend_for: Callable[[str], Backend],
                 tls: ssl.SSLContext | None, prior: Prior | None):  # fmt: skip
        self.fleet = fleet
        self._rules: tuple[ClassRule, ...] = (ClassRule(),)
        self._filler: Filling | None = None
        self.desk: Desk[Visit] = Desk(fleet, policy.pick, self._rules)
        self.admission = Admission(self.desk)
        self.relays: set[Relay] = set()
        self._connections: dict[str, EndpointPool] = {}
        self._predicts_for: tuple[str, Prior | None] | None = None
        self.reconfigure(config, policy, backend_for, tls, prior)
        self._ttft: deque[float] = deque(maxlen=512)
        self._pace: deque[float] = deque(maxlen=512)
        self._allowed = (SILENCE, 0.0)

    def reconfigure(self, config: Pool, policy: Policy, backend_for: Callable[[str], Backend],
                    tls: ssl.SSLContext | None, prior: Prior | None) -> None:  # fmt: skip
        """A reload: what is in flight stays counted; new connections are made by the new rules.

        `prior` is what a predictor would start from, None for a neutral one. One that has learnt stays as long as the
        same kind of server is there.
        """
        predicts_for = (config.engine, prior) if type(policy).predicts else None
        if predicts_for != self._predicts_for:
            self.fleet.predictor = Predictor(prior) if predicts_for is not None else None
            if self.fleet.predictor is not None:
                self.fleet.predictor.take_over(self.fleet)
            self._predicts_for = predicts_for
        self.config = config
        self.name = config.name
        self.policy_name = config.pick.policy
        self.policy = policy
        self._learns = type(policy).observe is not Policy.observe
        self._reply_fields: dict[tuple[str, str], bytes] = {}
        self.backend_for = backend_for
        self.budget = Budget(config.retry.budget)
        self.authorization = b""
        if config.api_key is not None:
            self.authorization = b"authorization: Bearer %b\r\n" % config.api_key.reveal().encode()
        self._tls = tls
        for pool in self._connections.values():
            pool.close()
        self._connections = {}
        self.admit_by(self._rules, self._filler)

    def admit_by(self, rules: Iterable[ClassRule], filler: Filling | None) -> None:
        """How its classes wait, and what decides how much filler there may be (None: filler goes like the others)."""
        self._rules, self._filler = tuple(rules), filler
        self._priorities = {rule.name: rule.priority for rule in self._rules}
        self.desk.reconfigure(self.policy.pick, self._rules, self.config.max_concurrency, filler)
        self.admission.changed()

    @property
    def filler(self) -> Filling | None:
        """What decides how much filler there may be."""
        return self._filler

    def with_priority(self, body: bytes, klass: str, backend: Backend) -> bytes:
        """A JSON body that tells an engine which schedules by priority how urgent it is, whatever its client said."""
        known = self._priorities
        own = known[klass] if klass in known else min(known.values())  # a reload took its class away while it waited
        told = backend.priority(own, max(known.values()))
        if told is None or (told == backend.unsaid_priority and b'"priority"' not in body):
            return body
        return rewrite(body, {"priority": told})

    def visit(self, facts: Facts, decisions: DecisionRing) -> Visit:
        """A request comes to the desk."""
        return Visit(facts, decisions, self.name, self.policy_name, self.policy, self._filler)

    def connections(self, endpoint_id: str, url: str) -> EndpointPool:
        """The warm connections of one endpoint."""
        pool = self._connections.get(endpoint_id)
        if pool is None or pool.url != url:
            if pool is not None:
                pool.close()
            timeouts = self.config.timeouts
            pool = EndpointPool(url, connect_timeout=timeouts.connect, keepalive=self.config.keepalive, tls=self._tls)
            self._connections[endpoint_id] = pool
        return pool

    def reply_fields(self, reservation: Reservation, expose: str) -> bytes:
        """The reply header lines that say who answered; `expose: id` shows a number instead of an address."""
        endpoint = reservation.endpoint
        fields = self._reply_fields.get((endpoint.id, expose))
        if fields is None:
            shown = endpoint.url if expose == "url" else f"{self.name}-{reservation.row}"
            fields = b"x-headway-endpoint: %b\r\nx-headway-pool: %b\r\n" % (shown.encode(), self.name.encode())
            self._reply_fields[endpoint.id, expose] = fields
        return fields

    # --- learning ------------------------------------------------------------------------------------------------

    def settle(self, reservation: Reservation, relay: Relay, request: Request, answers: int, queued_tokens: float,
               now: float) -> Outcome:  # fmt: skip
        """Give the place back and learn. Returns what came of it.

        `answers`: how many were asked for; `queued_tokens`: prompt tokens waiting there when it was dispatched.
        """
        fleet, row = self.fleet, reservation.row
        if relay.first_at:
            fleet.progress_at[row] = max(relay.last_at, fleet.progress_at.item(row))
        ttft, meter = relay.ttft, relay.meter
        if request.stream and not reservation.stream:
            request = request._replace(stream=False)  # answered whole, whatever was asked for
        outcome = Outcome(
            request, reservation.endpoint, row, relay.status, relay.ended, relay.last_at - relay.began_at, ttft,
            _count(meter.prompt), _count(meter.cached), meter.tokens / answers if meter.tokens else UNKNOWN,
        )  # fmt: skip
        reservation.settle(now, outcome)
        self.desk.ended(reservation, request, outcome, now)
        if self._learns:
            self.policy.observe(outcome)
        self.admission.changed()
        if ttft > 0.0:
            self._ttft.append(ttft)
            if queued_tokens >= _MANY:
                self._pace.append(ttft / queued_tokens)
        if fleet.row_of(reservation.endpoint.id) is None:  # it had left, and this was its last request
            self.row_left(row)
        return outcome

    def give_back(self, reservation: Reservation, request: Request, now: float) -> None:
        """A place that nobody came for: its client left in the moment it was called, or its limits do not let it go."""
        reservation.settle(now)
        self.desk.ended(reservation, request, None, now)
        self.admission.changed()

    def row_left(self, row: int) -> None:
        """The endpoint in this row is gone; the row may be given to another one."""
        self.policy.leave(row)
        self.desk.row_left(row)

    def see_failure(self, row: int, endpoint_id: str, error: UpstreamError, now: float) -> bool:
        """Note a failed try. True when the endpoint is out of service now, so that moving on adds no load to it."""
        fleet = self.fleet
        if fleet.row_of(endpoint_id) != row:
            return True
        cause = error.cause
        if cause == "displaced":
            return False
        if cause == "saturated":
            fleet.saturated(row, now + 1.0)
            return False
        if cause in ("refused", "connect_timeout", "dns"):
            evidence = Evidence.REFUSED
        elif cause == "leaving":
            evidence = Evidence.LEAVING
        elif cause == "hung":
            return True  # the watch has told the fleet already
        else:
            evidence = Evidence.FAILURE
        state = fleet.see(row, evidence, now)
        return evidence is not Evidence.FAILURE or state in (State.EJECTED, State.DOWN)

    # --- time ----------------------------------------------------------------------------------------------------

    def sweep(self, now: float) -> None:
        """Time-outs of every try, and silence of whole endpoints. Called a few times a second."""
        for relay in tuple(self.relays):
            relay.check(now)
        self._watch_silence(now)
        victims = self.desk.victims(now)
        if victims:
            self._displace(victims)
        self.admission.sweep(now)

    def _displace(self, victims: list[Reservation]) -> None:
        """Take filler off its endpoints: a connection that closes ends the request there.

        A plain answer that has begun to come has been written: there is nothing left to stop.
        """
        by_place = {relay.reservation: relay for relay in self.relays}
        for reservation in victims:
            relay = by_place.get(reservation)
            if relay is not None and (relay.stream or not relay.reply.started):
                relay.fail(Displaced(), "cancelled")

    def learn_pace(self) -> None:
        """Refresh what silence is allowed. Called about once a second: percentiles are not for the hot path."""
        if len(self._ttft) >= _SAMPLES:
            ttft = np.array(self._ttft)
            pace = float(np.median(np.array(self._pace))) if self._pace else float(np.median(ttft)) / _MANY
            self._allowed = (max(SILENCE, _TIMES * float(np.percentile(ttft, 99))), _QUEUED * pace)

    def _watch_silence(self, now: float) -> None:
        oldest: dict[int, float] = {}
        newest: dict[int, float] = {}
        plain: set[int] = set()
        for relay in self.relays:
            row = relay.reservation.row
            if relay.first_at:  # a sign of life, also where the client is the one who is slow now
                newest[row] = max(newest.get(row, 0.0), relay.last_at)
            if relay.ended or relay.connection is None or relay.reply.paused:
                continue
            if relay.stream:
                oldest[row] = min(oldest.get(row, relay.last_at), relay.last_at)
            elif not relay.reply.started:
                plain.add(row)
        floor, per_token = self._allowed
        fleet = self.fleet
        for row, since in oldest.items():
            is_out = self._is_out(row)
            allowed = max(floor, per_token * float(fleet.prefill[row]))
            life = max(since, newest.get(row, 0.0), float(fleet.progress_at[row]))
            silent = now - life > allowed
            if not silent or (len(self._ttft) < _SAMPLES and not is_out):
                continue
            if is_out:  # for another reason: those that waited there long enough need not wait for their own time-out
                self._leave(row, now - allowed)
            elif fleet.see(row, Evidence.HUNG, now) is State.EJECTED:
                self._move_waiting(row, now)
        for row in plain:
            health = fleet.health(row)
            if health.state is State.DOWN and now - health.since > GONE:
                self._leave(row, now - GONE)

    def _is_out(self, row: int) -> bool:
        return self.fleet.health(row).state in (State.EJECTED, State.DOWN)

    def _leave(self, row: int, before: float) -> None:
        """Move what waits there, if anybody else is in service: a busy server that misses its checks may yet answer."""
        if any(other != row and not self._is_out(other) for other, _ in self.fleet.members()):
            self._move_waiting(row, before)

    def _move_waiting(self, row: int, before: float) -> None:
        """What was sent there `before` and has not started is tried elsewhere; what has started may still recover."""
        for relay in tuple(self.relays):
            if relay.reservation.row == row and relay.last_at <= before and not relay.reply.started:
                error = UpstreamError("the model server fell silent", cause="hung", status=504)
                relay.fail(error, "timeout")

    def reap(self, now: float) -> None:
        """Close connections idle too long, and those of endpoints that left."""
        present = {endpoint.id for _, endpoint in self.fleet.members()}
        for endpoint_id, pool in list(self._connections.items()):
            if endpoint_id not in present:
                pool.close()
                del self._connections[endpoint_id]
                self._reply_fields.clear()
            else:
                pool.reap(now)

    def close(self) -> None:
        self.admission.close()
        for pool in self._connections.values():
            pool.close()


def _count(tokens: int) -> float:
    return float(tokens) if tokens >= 0 else UNKNOWN
