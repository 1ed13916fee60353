"""The life of one request: choose, relay, settle, and perhaps try again.

`route` is a plain function on purpose: nothing else can run between looking at the fleet and taking a place in it. A
further try goes to another endpoint, only before the answer has started, within the pool's budget; the same endpoint is
used again only once, when a reused connection closed before any byte (the keep-alive race: nothing was read of us).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from backends.base import Backend
from gateway.config.types import Model
from gateway.core.errors import NoEndpoint, Refused, UpstreamError
from gateway.core.fleet import Reservation, Snapshot
from gateway.core.types import UNKNOWN, Decision, Outcome, Request
from gateway.decisions import DecisionRing
from gateway.edit import Editor
from gateway.estimate import Lengths
from gateway.lane import Lane
from gateway.metrics import Metrics
from gateway.records import Candidates
from gateway.relay import Relay, Terms
from gateway.wire.reply import Reply

QUEUE_WAIT = 10.0  # seconds a request waits for room when there is nowhere else to go


@dataclass(slots=True)
class Ask:
    """One checked request on its way, as the front made it; ready bytes where bytes are needed."""

    request: Request
    model: Model
    client_model: str
    target: bytes  # path and query as they go upstream
    fields: bytes  # forwardable request header lines
    body: bytes
    wants_usage: bool
    error_event: Callable[[UpstreamError], bytes]
    received: float  # monotonic, when the last byte of the request had come
    inject_usage: Callable[[bytes], bytes] | None = None


@dataclass(slots=True)
class Story:
    """What happened to a request, told while it happens; its record is made from this."""

    tries: int = 0
    pool: str = ""
    endpoint: str = ""
    policy: str = ""
    reason: str = ""
    ended: str = "rejected"
    queued: float = 0.0
    overhead: float = UNKNOWN
    ttft: float = UNKNOWN
    tpot: float = UNKNOWN
    relay: Relay | None = None
    candidates: Candidates | None = None
    tried: list[str] = field(default_factory=list)


class Proxy:
    """Sends requests to lanes (pools at run time, by name). One per gateway."""

    def __init__(self, lanes: Mapping[str, Lane], metrics: Metrics, decisions: DecisionRing, expose: str):
        self.lanes = lanes
        self.metrics = metrics
        self.decisions = decisions
        self.expose = expose
        self.lengths: dict[str, Lengths] = {}

    async def serve(self, ask: Ask, reply: Reply, story: Story) -> None:
        """Answer one request, or raise why it cannot be answered (then nothing has been written)."""
        while True:
            try:
                lane, reservation, queued_tokens = await self._place(ask, story)
            except NoEndpoint:
                if story.relay is not None and story.relay.error is not None:
                    raise story.relay.error from None  # nobody else is left: the last failure is the answer
                raise
            relay = await self._try(ask, reply, story, lane, reservation, queued_tokens)
            error = relay.error
            if error is None or reply.started:
                return
            if not self._may_try_again(lane, relay, error, story):
                raise error
            self.metrics.retried(lane.config.name, error.cause)

    # --- choosing ------------------------------------------------------------------------------------------------

    async def _place(self, ask: Ask, story: Story) -> tuple[Lane, Reservation, float]:
        """A place in the first of the model's pools that has one; waits where all are at their limit."""
        model = ask.model
        pools = (model.to, *model.fallback)
        began = time.monotonic()
        while True:
            full: Refused | None = None
            for name in pools:
                lane = self.lanes[name]
                try:
                    return self.route(lane, ask.request, story)
                except NoEndpoint:
                    continue
                except Refused as refused:
                    full = refused
                    if name is not pools[-1] and time.monotonic() - began < model.fallback_after:
                        break  # the fallback is not asked yet
            if full is None:
                raise NoEndpoint("no model server is available for this model right now")
            wait = model.fallback_after if len(pools) > 1 else QUEUE_WAIT
            left = wait - (time.monotonic() - began)
            await self.lanes[pools[0]].turnstile.wait_for_room(max(left, QUEUE_WAIT if left <= 0 else left))
            story.queued = time.monotonic() - began

    def route(self, lane: Lane, request: Request, story: Story) -> tuple[Lane, Reservation, float]:
        """Look, pick and take. Not a coroutine: no lock is needed and no herd can form."""
        now = time.monotonic()
        snapshot: Snapshot = lane.fleet.snapshot(now, story.tried)
        decision: Decision = lane.policy.pick(request, snapshot)
        story.candidates = self.decisions.capture(snapshot, decision)
        reservation = lane.fleet.reserve(decision, request, now)
        story.tries += 1
        story.pool, story.policy, story.reason = lane.config.name, lane.config.pick.policy, decision.reason
        story.endpoint = reservation.endpoint.id
        story.tried.append(reservation.endpoint.id)
        return lane, reservation, float(lane.fleet.prefill[reservation.row])

    def _may_try_again(self, lane: Lane, relay: Relay, error: UpstreamError, story: Story) -> bool:
        row, endpoint_id = relay.reservation.row, relay.reservation.endpoint.id
        out_of_service = lane.see_failure(row, endpoint_id, error, time.monotonic())
        self.metrics.upstream_failed(lane.config.name, endpoint_id)
        if error.cause == "total" or story.tries >= lane.config.retry.tries:
            return False
        # Leaving an endpoint that is out of service moves load, it does not add any: that needs no budget.
        return out_of_service or lane.budget.spend()

    # --- one try -------------------------------------------------------------------------------------------------

    async def _try(self, ask: Ask, reply: Reply, story: Story, lane: Lane, reservation: Reservation,
                   queued_tokens: float) -> Relay:  # fmt: skip
        """Dispatch and wait for the end. On every path the reservation is settled once."""
        endpoint = reservation.endpoint
        backend = lane.backend_for(endpoint.id)
        if story.tries == 1:
            lane.budget.earn()
        relay = story.relay = self._relay(ask, reply, story, lane, reservation, backend)
        lane.relays.add(relay)
        try:
            await self._dispatch(ask, story, lane, relay, backend)
            if relay.error is not None and _is_race(relay):
                lane.relays.discard(relay)
                relay = story.relay = self._relay(ask, reply, story, lane, reservation, backend)
                lane.relays.add(relay)
                await self._dispatch(ask, story, lane, relay, backend, fresh=True)
        except asyncio.CancelledError:
            relay.abandon()
            raise
        finally:
            lane.relays.discard(relay)
            self._settle(ask, story, lane, relay, queued_tokens)
        if relay.error is not None and reply.started:
            lane.see_failure(reservation.row, endpoint.id, relay.error, time.monotonic())
            self.metrics.upstream_failed(lane.config.name, endpoint.id)
        return relay

    async def _dispatch(self, ask: Ask, story: Story, lane: Lane, relay: Relay, backend: Backend,
                        fresh: bool = False) -> None:  # fmt: skip
        endpoint = relay.reservation.endpoint
        connections = lane.connections(endpoint.id, endpoint.url)
        connection = None if fresh else connections.take()
        if connection is None:
            try:
                connection = await connections.connect()
            except UpstreamError as error:
                relay.fail(error, "upstream_failed")
                return
        if relay.ended:  # given up while connecting
            connection.transport.close()
            return
        body, usage = self._body(ask, lane, backend)
        head = b"POST %b%b HTTP/1.1\r\nhost: %b\r\n%b%b%bcontent-length: %d\r\n\r\n" % (
            connections.prefix, ask.target, connections.netloc, ask.fields, lane.authorization, usage, len(body),
        )  # fmt: skip
        relay.connection = connection
        relay.was_reused = connection.reused
        reply = relay.reply
        reply.on_pause, reply.on_resume = connection.pause, connection.resume
        if story.tries == 1:
            story.overhead = time.monotonic() - ask.received - story.queued
        connection.request(head, body, relay)
        await relay.done

    def _body(self, ask: Ask, lane: Lane, backend: Backend) -> tuple[bytes, bytes]:
        """The body for this engine, and the header line that asks for a load report."""
        body = ask.body
        if ask.inject_usage is not None and lane.config.usage == "inject" and backend.injects_usage:
            body = ask.inject_usage(body)
        if backend.orca_header is not None and not ask.request.stream:
            return body, b"endpoint-load-metrics-format: %b\r\n" % backend.orca_header.encode()
        return body, b""

    def _relay(self, ask: Ask, reply: Reply, story: Story, lane: Lane, reservation: Reservation,
               backend: Backend) -> Relay:  # fmt: skip
        timeouts, endpoint = lane.config.timeouts, reservation.endpoint
        shown = endpoint.url if self.expose == "url" else endpoint.id
        if self.expose != "url":
            shown = f"{lane.config.name}-{reservation.row}"
        fields = b"x-request-id: %b\r\nx-headway-endpoint: %b\r\nx-headway-pool: %b\r\nx-headway-queued-ms: %d\r\n" % (
            ask.request.id.encode(), shown.encode(), lane.config.name.encode(), story.queued * 1000.0,
        )  # fmt: skip
        terms = Terms(timeouts.first_token, timeouts.between_tokens, timeouts.total, fields, ask.error_event)
        return Relay(reply, backend, reservation, terms, stream=ask.request.stream,
                     editor=self._editor(ask, lane, backend), on_orca=_orca(lane, reservation, backend))  # fmt: skip

    def _editor(self, ask: Ask, lane: Lane, backend: Backend) -> Editor | None:
        upstream = ask.model.upstream_name(ask.client_model)
        drop = ask.request.stream and not ask.wants_usage and lane.config.usage == "inject" and backend.injects_usage
        if upstream == ask.client_model and not drop:
            return None
        return Editor(upstream, ask.client_model, drop)

    # --- settling ------------------------------------------------------------------------------------------------

    def _settle(self, ask: Ask, story: Story, lane: Lane, relay: Relay, queued_tokens: float) -> None:
        """Give the place back, learn, and note in the story how this try went."""
        meter, request = relay.meter, ask.request
        now = time.monotonic()
        prompt, output = _count(meter.prompt), float(meter.tokens) if meter.tokens else UNKNOWN
        ttft = relay.first_at - relay.began_at if relay.first_at else UNKNOWN
        outcome = Outcome(request, relay.reservation.endpoint, relay.reservation.row, relay.status, relay.ended,
                          now - relay.began_at, ttft, prompt, _count(meter.cached), output)  # fmt: skip
        lane.settle(relay.reservation, outcome, queued_tokens)
        story.ended = relay.ended or "client_gone"
        if relay.first_at:
            story.ttft = relay.first_at - ask.received
            if relay.stream and output > 1.0:
                story.tpot = (relay.last_at - relay.first_at) / (output - 1.0)
        if relay.ended == "complete":
            lengths = self.lengths.get(ask.model.name)
            if lengths is not None:
                lengths.learn(len(request.prompt), prompt, output)

    def lengths_of(self, model: str) -> Lengths:
        found = self.lengths.get(model)
        if found is None:
            found = self.lengths[model] = Lengths()
        return found


def _count(tokens: int) -> float:
    return float(tokens) if tokens >= 0 else UNKNOWN


def _is_race(relay: Relay) -> bool:
    """A reused connection that closed before any byte: the server had given it up before it read our request."""
    return relay.was_reused and relay.error is not None and relay.error.cause == "closed" and not relay.heard


def _orca(lane: Lane, reservation: Reservation, backend: Backend) -> Callable[[bytes], None] | None:
    if backend.orca_header is None:
        return None

    def take(value: bytes) -> None:
        load = backend.orca(value.decode("latin-1"), time.monotonic())
        if load is not None and not math.isnan(load.kv_used):
            lane.fleet.kv_used[reservation.row] = load.kv_used

    return take
