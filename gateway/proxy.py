"""The life of one request: a place, relay, settle, and perhaps try again.

A place (`placing`) is given by the desk of a pool (`policies.admission.desk`): its `route` looks, picks, judges and
takes in one plain function, since nothing else may run between looking at the fleet and taking a place in it. A
further try goes to another endpoint, only before the answer has started, within the pool's budget; the same endpoint
is used again only once, when a reused connection closed before any byte (the keep-alive race: nothing was read of us).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from math import isfinite

from backends.base import Backend
from gateway.adapters import NOT_LOADED, Adapters
from gateway.ask import Ask, Facts
from gateway.core.errors import HeadwayError, NoEndpoint, Refused, UpstreamError
from gateway.core.lengths import Lengths
from gateway.core.reservation import Reservation
from gateway.decisions import DecisionRing
from gateway.edit import Editor
from gateway.lane import Lane
from gateway.metrics import Metrics
from gateway.outlet import Outlet
from gateway.placing import Placing
from gateway.relay import Relay
from gateway.rollouts.canaries import Canaries
from gateway.rollouts.witness import Witness
from gateway.wire.pool import EndpointPool
from gateway.wire.upstream import UpstreamConnection
from policies.routing import Way


class Proxy:
    """Sends requests to lanes (pools at run time, by name). One per gateway."""

    def __init__(self, lanes: Mapping[str, Lane], metrics: Metrics, decisions: DecisionRing, expose: str,
                 canaries: Canaries | None = None, adapters: Adapters | None = None):  # fmt: skip
        self.lanes = lanes
        self.metrics = metrics
        self.decisions = decisions
        self.expose = expose
        self.adapters = adapters
        self._witness = Witness(canaries)
        self._placing = Placing(lambda: self.lanes, decisions, adapters, self._witness)
        self.reroute: Callable[[Ask], Way | None] = lambda ask: None  # by the rules of now
        self.lengths: dict[str, Lengths] = {}

    async def serve(self, ask: Ask, reply: Outlet, facts: Facts) -> None:
        """Answer one request, or raise why it cannot be answered (then nothing has been written)."""
        adapters, name = self.adapters, ask.upstream_model
        if adapters is None or not adapters.is_ours(name):
            return await self._serve(ask, reply, facts)
        adapters.wants(name)
        try:
            await adapters.wait_for(ask.way.pools, name)
            await self._serve(ask, reply, facts)
        except HeadwayError as error:
            if error.code == NOT_LOADED:
                self._witness.missed(ask, facts, NOT_LOADED, time.monotonic())
            raise
        finally:
            adapters.leaves(name)

    async def _serve(self, ask: Ask, reply: Outlet, facts: Facts) -> None:
        while True:
            try:
                lane, place = self._placing.offer(ask, facts, 0)
                if not isinstance(place, Reservation):
                    lane, place = await self._placing.wait(ask, facts, lane, place)
            except NoEndpoint:
                if self._has_moved(ask, facts):
                    continue
                if facts.relay is not None and facts.relay.error is not None:
                    raise facts.relay.error from None  # nobody else is left: the last failure is the answer
                self._witness.missed(ask, facts, NoEndpoint.code, time.monotonic())
                raise
            except Refused as refusal:
                if not facts.tries:  # else that try has told of it already
                    self._witness.missed(ask, facts, refusal.code, time.monotonic())
                raise
            if facts.on_turn is not None:
                await self._take_turn(facts.on_turn, ask, facts, lane, place)
            relay = await self._try(ask, reply, facts, lane, place)
            error = relay.error
            if error is None:
                return
            if error.cause == "displaced":
                self._displaced(facts, reply, error)
                continue
            if error.cause == "forgotten" and self.adapters is not None:
                self._not_tried(facts)
                await self.adapters.wait_for(ask.way.pools, ask.upstream_model)
                continue
            may_try_again = self._see_failure(lane, relay, error, facts)
            if reply.started:
                return
            if not may_try_again:
                raise error
            self.metrics.retried(lane.config.name, error.cause)

    async def serve_at_once(self, ask: Ask, reply: Outlet, facts: Facts, pool: str) -> None:
        """One try, without waiting, in this pool alone. Raises NoEndpoint where there is no place at once."""
        lane = self.lanes.get(pool)
        found = None
        if lane is not None and not len(lane.desk) and self._placing.may_go(ask, pool):
            found = lane.desk.route(lane.visit(facts, self.decisions), ask.request, time.monotonic(), may_hold=False)
        if lane is None or not isinstance(found, Reservation):
            raise NoEndpoint("no place is free at once")
        relay = await self._try(ask, reply, facts, lane, found)
        if relay.error is not None:
            if relay.error.cause not in ("displaced", "forgotten"):
                self._see_failure(lane, relay, relay.error, facts)
            raise relay.error

    def _has_moved(self, ask: Ask, facts: Facts) -> bool:
        """Whether a reload took away a pool that it waited for, and there is another way for it now."""
        if facts.tries or all(pool in self.lanes for pool in ask.way.pools):
            return False
        way = self.reroute(ask)
        if way is None or way.pools == ask.way.pools:
            return False
        ask.way = way
        return True

    async def _take_turn(self, on_turn: Callable[[], Awaitable[None]], ask: Ask, facts: Facts, lane: Lane,
                         place: Reservation) -> None:  # fmt: skip
        """A job has a place. Where its tenant's limits do not let it go now, the place goes to somebody else."""
        try:
            await on_turn()
        except BaseException:
            lane.give_back(place, ask.request, time.monotonic())
            facts.tries -= 1
            facts.tried = facts.tried[:-1]
            facts.pool, facts.endpoint, facts.forecast, facts.candidates = "", "", None, None
            raise

    def _displaced(self, facts: Facts, reply: Outlet, error: UpstreamError) -> None:
        """Filler that gave way waits again, unless its answer has begun; a job's goes back to where it is kept."""
        if reply.started or facts.on_turn is not None:
            raise error
        facts.aborted += 1
        self._not_tried(facts)

    def _not_tried(self, facts: Facts) -> None:
        """The last try says nothing of its server, which may be asked again."""
        facts.relay = None
        facts.tries -= 1
        facts.tried = facts.tried[:-1]

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
        if self.adapters is not None:
            self.adapters.begins(lane.name, endpoint.id, ask.upstream_model)
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
        except Exception:  # a bug of ours: what it had begun to use must not stay open
            relay.fail(UpstreamError("an internal error", cause="internal"), "cancelled")
            raise
        finally:
            lane.relays.discard(relay)
            if self.adapters is not None:
                self.adapters.ends(lane.name, endpoint.id, ask.upstream_model)
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
        relay.connection = connection
        body, report = ask.body, b""
        if ask.inject_usage is not None and lane.config.usage == "inject" and backend.injects_usage:
            body = ask.inject_usage(body)
        if lane.config.priority and body[:1] == b"{":  # (a form has no room for it)
            body = lane.with_priority(body, ask.request.klass, backend)
        if backend.orca_header is not None and not ask.request.stream:
            report = b"endpoint-load-metrics-format: %b\r\n" % backend.orca_header.encode()
        head = b"POST %b%b HTTP/1.1\r\nhost: %b\r\n%b%b%bcontent-length: %d\r\n\r\n" % (
            connections.prefix, ask.target, connections.netloc, ask.fields, lane.authorization, report, len(body),
        )  # fmt: skip
        relay.was_reused = connection.reused
        reply = relay.reply
        reply.on_pause, reply.on_resume = relay.pause, connection.resume
        if facts.tries == 1:
            facts.overhead = time.monotonic() - ask.received - facts.queued
        connection.request(head, body, relay)
        if facts.copy is not None:
            facts.copy.sent()

    def _relay(self, ask: Ask, reply: Outlet, facts: Facts, lane: Lane, reservation: Reservation,
               backend: Backend) -> Relay:  # fmt: skip
        fields = b"x-request-id: %b\r\n%bx-headway-queued-ms: %d\r\n" % (
            ask.request.id.encode(), lane.reply_fields(reservation, self.expose), facts.queued * 1000.0,
        )  # fmt: skip
        if ask.way.arm:
            fields += b"x-headway-arm: %b\r\n" % ask.way.arm.encode()
        fields += ask.reply_fields
        forecast = reservation.forecast
        if forecast is not None and isfinite(forecast.ttft):
            fields += b"x-headway-predicted-ttft-ms: %d\r\n" % round(forecast.ttft * 1000.0)
        relay = facts.relay = Relay(reply, backend, reservation, lane.config.timeouts, fields, ask.error_event,
                                    ask.request.stream, self._editor(ask, lane, backend))  # fmt: skip
        relay.on_first = lane.admission.changed
        adapters = self.adapters
        if adapters is not None and adapters.is_ours(ask.upstream_model):
            place = lane.name, reservation.endpoint.id, ask.upstream_model
            relay.is_forgotten = lambda: adapters.is_forgotten(*place)
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
        now = time.monotonic()
        outcome = lane.settle(reservation, relay, ask.request, ask.answers, queued_tokens, now)
        self._witness.ended(ask, facts, reservation, outcome, meter.finish, now)
        if relay.ended == "complete" and not facts.is_copy:
            request = ask.request
            self.lengths_of(request.model).learn(
                ask.route, request.tenant, len(request.prompt), meter.prompt, meter.tokens / ask.answers
            )

    def longest(self, pool: str, name: str) -> int | None:
        """The most tokens of prompt and answer that a pool's servers take for a model; None: they have not said."""
        lane = self.lanes.get(pool)
        return lane.fleet.longest(name) if lane is not None else None

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
