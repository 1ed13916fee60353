"""The life of one request: choose, relay, settle, and perhaps try again.

`route` is a plain function on purpose: nothing else can run between looking at the fleet and taking a place in it. A
further try goes to another endpoint, only before the answer has started, within the pool's budget; the same endpoint is
used again only once, when a reused connection closed before any byte (the keep-alive race: nothing was read of us).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from math import isfinite

from backends.base import Backend
from gateway.admit import Turnstile
from gateway.ask import Ask, Facts
from gateway.core.errors import NoEndpoint, Refused, UpstreamError
from gateway.core.lengths import Lengths
from gateway.core.reservation import Reservation
from gateway.core.snapshot import Snapshot
from gateway.core.types import Decision, Request
from gateway.decisions import DecisionRing
from gateway.edit import Editor
from gateway.hold import Hold
from gateway.lane import Lane
from gateway.metrics import Metrics
from gateway.outlet import Outlet
from gateway.relay import Relay
from gateway.wire.pool import EndpointPool
from gateway.wire.upstream import UpstreamConnection

QUEUE_WAIT = 10.0  # seconds a request waits for room when there is nowhere else to go
HOLD = 10.0  # ... and at most for a better choice, whatever the policy says

Place = Reservation | Turnstile | Hold  # a place taken, or where to wait for one


class Proxy:
    """Sends requests to lanes (pools at run time, by name). One per gateway."""

    def __init__(self, lanes: Mapping[str, Lane], metrics: Metrics, decisions: DecisionRing, expose: str):
        self.lanes = lanes
        self.metrics = metrics
        self.decisions = decisions
        self.expose = expose
        self.lengths: dict[str, Lengths] = {}

    async def serve(self, ask: Ask, reply: Outlet, facts: Facts) -> None:
        """Answer one request, or raise why it cannot be answered (then nothing has been written)."""
        while True:
            try:
                lane, place = self._queue(ask, facts) or self._place(ask, facts, 0.0)
                while not isinstance(place, Reservation):
                    if place is lane.hold:
                        lane, place = await self._wait_for_choice(ask, facts, lane)
                    else:
                        lane, place = await self._wait_for_place(ask, facts, lane)
            except NoEndpoint:
                if facts.relay is not None and facts.relay.error is not None:
                    raise facts.relay.error from None  # nobody else is left: the last failure is the answer
                raise
            relay = await self._try(ask, reply, facts, lane, place)
            error = relay.error
            if error is None:
                return
            may_try_again = self._see_failure(lane, relay, error, facts)
            if reply.started:
                return
            if not may_try_again:
                raise error
            self.metrics.retried(lane.config.name, error.cause)

    # --- choosing ------------------------------------------------------------------------------------------------

    def _queue(self, ask: Ask, facts: Facts) -> tuple[Lane, Place] | None:
        """Where to wait at once: others wait for this model's pool, and who comes later goes behind them."""
        lane = self.lanes.get(ask.model.to)
        return (lane, lane.turnstile) if lane is not None and len(lane.turnstile) and not facts.tries else None

    def _place(self, ask: Ask, facts: Facts, waited: float) -> tuple[Lane, Place]:
        """A place in the first of the model's pools that has one; without one, where to wait. Raises NoEndpoint."""
        model = ask.model
        full: Lane | None = None
        for name in (model.to, *model.fallback):
            lane = self.lanes.get(name)
            if lane is None:  # gone with a reload
                continue
            try:
                return lane, self.route(lane, ask.request, facts) or lane.hold
            except NoEndpoint:
                continue
            except Refused:
                full = full or lane
                if waited < model.fallback_after:
                    break  # a full pool is waited for a little before its fallback is used
        if full is None:
            raise NoEndpoint("no model server is available for this model right now")
        return full, full.turnstile

    async def _wait_for_choice(self, ask: Ask, facts: Facts, lane: Lane) -> tuple[Lane, Place]:
        """Wait at `lane`, whose policy would rather choose later, and choose again."""
        began = time.monotonic()
        try:
            await lane.hold.wait(ask.request, facts.held_until)
        finally:
            facts.queued += time.monotonic() - began
        return self._place(ask, facts, 0.0)

    async def _wait_for_place(self, ask: Ask, facts: Facts, lane: Lane) -> tuple[Lane, Place]:
        """Wait at `lane`, which is full. Raises Refused when the turn does not come in time."""
        began, before = time.monotonic(), facts.queued
        model = ask.model
        falls_back = not model.fallback or lane.name != model.to  # whether all of its pools have been asked
        again: Lane | None = None  # where its turn has come already
        while True:
            patience = (QUEUE_WAIT if falls_back else model.fallback_after) - (time.monotonic() - began)
            waiting = lane.turnstile.wait_for_room(max(0.0, patience), lane is again)
            turn = asyncio.get_running_loop().create_task(waiting)
            try:
                await turn
                # One that is tried again may not go where others can: at the head it would keep their room from them.
                again = None if facts.tried else lane
            except Refused:
                if falls_back:
                    raise
                falls_back, again = True, None
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled() and turn.exception() is None:
                    lane.turnstile.release()  # its turn had come: the next one has it
                raise
            facts.queued = before + time.monotonic() - began
            lane, place = self._place(ask, facts, model.fallback_after if falls_back else 0.0)
            if place is not lane.turnstile:
                if place is lane.hold:
                    lane.turnstile.release()  # it leaves the room that it was called for
                return lane, place
            if facts.queued >= QUEUE_WAIT:
                raise Refused("no model server had room in time", reason="queue_timeout", retry_after=2.0)

    def route(self, lane: Lane, request: Request, facts: Facts) -> Reservation | None:
        """Look, pick and take; None where the policy would rather choose later, and may.

        Not a coroutine: no lock is needed and no herd can form.
        """
        now = time.monotonic()
        fleet = lane.fleet
        snapshot: Snapshot = fleet.snapshot(now, facts.tried)
        may_wait = now < facts.held_until and not facts.tried
        if not may_wait:
            request = request._replace(may_wait=False)
        decision: Decision = lane.policy.pick(request, snapshot)
        if may_wait and decision.wait > 0.0:
            facts.held_until = min(facts.held_until, now + min(decision.wait, HOLD))
            return None
        facts.candidates = self.decisions.capture(snapshot, decision, lane.policy.TERMS)
        reservation = fleet.reserve(decision, request, now)
        facts.tries += 1
        if facts.on_sent is not None:
            facts.on_sent()
        facts.pool, facts.policy, facts.reason = lane.name, lane.policy_name, decision.reason
        facts.endpoint, facts.forecast = reservation.endpoint.id, decision.forecast
        facts.tried = (*facts.tried, reservation.endpoint.id)
        return reservation

    def _see_failure(self, lane: Lane, relay: Relay, error: UpstreamError, facts: Facts) -> bool:
        """Note a failed try. True when there may be another one."""
        row, endpoint_id = relay.reservation.row, relay.reservation.endpoint.id
        out_of_service = lane.see_failure(row, endpoint_id, error, time.monotonic())
        self.metrics.upstream_failed(lane.name, endpoint_id)
        if relay.reply.started or error.cause in ("total", "stopping") or facts.tries >= lane.config.retry.tries:
            return False
        # Leaving an endpoint that is out of service moves load, it does not add any: that needs no budget.
        return out_of_service or lane.budget.spend()

    # --- one try -------------------------------------------------------------------------------------------------

    async def _try(self, ask: Ask, reply: Outlet, facts: Facts, lane: Lane, reservation: Reservation) -> Relay:
        """Dispatch and wait for the end. On every path the reservation is settled once."""
        endpoint = reservation.endpoint
        backend = lane.backend_for(endpoint.id)
        queued_tokens = float(lane.fleet.prefill[reservation.row])
        if facts.tries == 1:
            lane.budget.earn()
        if ask.answers == 1 and ask.request.stream:
            lengths, tenant = self.lengths_of(ask.model.name), ask.request.tenant
            reservation.remaining = lambda written: lengths.remaining(ask.route, tenant, written, ask.limit)
        if ask.answers > 1:
            reservation.stream = False  # several sequences' tokens in one stream tell nothing of the pace of one
        connections = lane.connections(endpoint.id, endpoint.url)
        relay = self._relay(ask, reply, facts, lane, reservation, backend)
        try:
            connection = connections.take()
            if connection is None:
                await self._dispatch_fresh(ask, facts, lane, relay, backend, connections)
            else:
                self._send(ask, facts, lane, relay, backend, connections, connection)
            await relay.done
            if relay.error is not None and not facts.raced and _is_race(relay):
                facts.raced = True
                lane.relays.discard(relay)
                relay = self._relay(ask, reply, facts, lane, reservation, backend)
                await self._dispatch_fresh(ask, facts, lane, relay, backend, connections)
                await relay.done
        except asyncio.CancelledError:
            relay.abandon()
            raise
        finally:
            lane.relays.discard(relay)
            self._settle(ask, facts, lane, relay, queued_tokens)
        return relay

    async def _dispatch_fresh(self, ask: Ask, facts: Facts, lane: Lane, relay: Relay, backend: Backend,
                              connections: EndpointPool) -> None:  # fmt: skip
        """Open a connection and send on it. A failure becomes the relay's."""
        connecting = asyncio.get_running_loop().create_task(connections.connect())
        try:
            connection = await connecting
        except UpstreamError as error:
            relay.fail(error, "upstream_failed")
            return
        except asyncio.CancelledError:
            connecting.add_done_callback(_close_unused)  # it may have been made in this very moment
            raise
        if relay.ended:  # given up while connecting
            connection.transport.close()
        else:
            self._send(ask, facts, lane, relay, backend, connections, connection)

    def _send(self, ask: Ask, facts: Facts, lane: Lane, relay: Relay, backend: Backend, connections: EndpointPool,
              connection: UpstreamConnection) -> None:  # fmt: skip
        """Write the request afresh, with the endpoint's own host and key."""
        body, report = ask.body, b""
        if ask.inject_usage is not None and lane.config.usage == "inject" and backend.injects_usage:
            body = ask.inject_usage(body)
        if backend.orca_header is not None and not ask.request.stream:
            report = b"endpoint-load-metrics-format: %b\r\n" % backend.orca_header.encode()
        head = b"POST %b%b HTTP/1.1\r\nhost: %b\r\n%b%b%bcontent-length: %d\r\n\r\n" % (
            connections.prefix, ask.target, connections.netloc, ask.fields, lane.authorization, report, len(body),
        )  # fmt: skip
        relay.connection = connection
        relay.was_reused = connection.reused
        reply = relay.reply
        reply.on_pause, reply.on_resume = relay.pause, connection.resume
        if facts.tries == 1:
            facts.overhead = time.monotonic() - ask.received - facts.queued
        connection.request(head, body, relay)

    def _relay(self, ask: Ask, reply: Outlet, facts: Facts, lane: Lane, reservation: Reservation,
               backend: Backend) -> Relay:  # fmt: skip
        fields = b"x-request-id: %b\r\n%bx-headway-queued-ms: %d\r\n" % (
            ask.request.id.encode(), lane.reply_fields(reservation, self.expose), facts.queued * 1000.0,
        )  # fmt: skip
        fields += ask.reply_fields
        forecast = reservation.forecast
        if forecast is not None and isfinite(forecast.ttft):
            fields += b"x-headway-predicted-ttft-ms: %d\r\n" % round(forecast.ttft * 1000.0)
        relay = facts.relay = Relay(reply, backend, reservation, lane.config.timeouts, fields, ask.error_event,
                                    ask.request.stream, self._editor(ask, lane, backend))  # fmt: skip
        relay.on_first = lane.hold.changed
        lane.relays.add(relay)
        return relay

    def _editor(self, ask: Ask, lane: Lane, backend: Backend) -> Editor | None:
        drop = ask.inject_usage is not None and lane.config.usage == "inject" and backend.injects_usage
        if ask.upstream_model == ask.client_model and not drop:
            return None
        return Editor(ask.upstream_model, ask.client_model, drop)

    # --- settling ------------------------------------------------------------------------------------------------

    def _settle(self, ask: Ask, facts: Facts, lane: Lane, relay: Relay, queued_tokens: float) -> None:
        """Give the place back, learn, and note how this try went."""
        meter, reservation = relay.meter, relay.reservation
        facts.ended = relay.ended or "client_gone"
        if relay.first_at:
            facts.ttft, facts.ttft_there = relay.first_at - ask.received, relay.ttft
            tokens = meter.tokens / ask.answers
            if relay.stream and relay.ttft == relay.ttft and tokens > 1.0:  # (it may have been answered whole)
                facts.tpot = (relay.last_at - relay.first_at) / (tokens - 1.0)
        lane.settle(reservation, relay, ask.request, ask.answers, queued_tokens, time.monotonic())
        if relay.ended == "complete":
            request = ask.request
            self.lengths_of(request.model).learn(
                ask.route, request.tenant, len(request.prompt), meter.prompt, meter.tokens / ask.answers
            )

    def lengths_of(self, model: str) -> Lengths:
        found = self.lengths.get(model)
        if found is None:
            found = self.lengths[model] = Lengths()
        return found


def _close_unused(connecting: asyncio.Task[UpstreamConnection]) -> None:
    """Nobody waits for this connection any more."""
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().transport.close()


def _is_race(relay: Relay) -> bool:
    """A reused connection that closed before any byte: the server had given it up before it read our request."""
    return relay.was_reused and relay.error is not None and relay.error.cause == "closed" and not relay.heard
