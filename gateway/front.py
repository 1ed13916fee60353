"""The client side: HTTP to Request; error to status and JSON, here and only here.

Left to others: the checks themselves (`intake`), limits of tenants (`limits`), files, batches and jobs (`jobs`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec

from gateway.answers import TryFailed, forwardable
from gateway.ask import Ask, Facts
from gateway.captures.captures import Captures
from gateway.charge import reserve, settle, take_in
from gateway.config.types import Config, Key
from gateway.core.errors import BadRequest, HeadwayError, UpstreamError
from gateway.dialects import Dialect
from gateway.fields import own_request_id, request_ids
from gateway.grants import TenantLimit
from gateway.intake import Intake, may_use
from gateway.jobs.collected import Collected
from gateway.jobs.http import JobsApi
from gateway.jobs.wishes import CALLBACK, wants_async
from gateway.limits import Limiter
from gateway.mirrors.mirrors import Mirrors
from gateway.outlet import Outlet
from gateway.paths import MODELS, OWN, is_asynchronous
from gateway.proxy import Proxy
from gateway.recorded import recorded
from gateway.records import RequestRecord
from gateway.routers import Routers
from gateway.story import Story, in_a_task
from gateway.wire.above import Answering, Sink, Verdict
from gateway.wire.head import RequestHead, WireError
from gateway.wire.reply import Reply

_JSON = b"content-type: application/json\r\n"


class Front:
    """Answers requests. `proxy` does the work; `record` is told how each one went. Replaced whole by a reload."""

    def __init__(self, config: Config, proxy: Proxy, limiter: Limiter, record: Callable[[RequestRecord], None],
                 is_ready: Callable[[], bool], known_models: Callable[[str], list[str]],
                 jobs: Callable[[], JobsApi | None] = lambda: None, routers: Routers | None = None,
                 mirrors: Mirrors | None = None, captures: Captures | None = None):  # fmt: skip
        self._config = config
        self._proxy = proxy
        self._limiter = limiter
        self._record = record
        self._is_ready = is_ready
        self._known_models = known_models
        self._jobs = jobs
        self._mirrors = mirrors
        self._captures = captures
        self.intake = Intake(config, proxy.lengths_of, routers, proxy.longest)
        self._new_id = request_ids()
        self._started = int(time.time())

    # --- before the body -----------------------------------------------------------------------------------------

    def screen(self, head: RequestHead) -> Verdict | Sink | None:
        """None when the body is wanted whole, else what answers, or what takes the body in pieces."""
        try:
            head.found = self.intake.screen(head)
            if head.found is not None:
                self._is_for_later(head, head.found.key)
                return None
            if head.path in OWN or head.path.startswith(MODELS):
                if head.method not in (b"GET", b"HEAD"):
                    raise BadRequest("use GET here", status=405, code="method_not_allowed")
                if head.path.startswith(b"/v1/"):
                    self.intake.key(head)
                return self._own(head)
            if is_asynchronous(head.path):
                return self._jobs_api().screen(head, self.intake.key(head))
            raise BadRequest(_no_such_path(head), status=404, code="unknown_path")
        except HeadwayError as error:
            return self._answer_error(error, head)

    def _is_for_later(self, head: RequestHead, key: Key) -> bool:
        """Whether the client wants its answer later. Raises BadRequest where that, or what it says of it, cannot be."""
        if b"prefer" not in head.named and CALLBACK not in head.named:
            return False
        if wants_async(head):
            return self._jobs_api().wants(head, key)
        if CALLBACK in head.named:
            raise BadRequest("x-headway-callback goes with `Prefer: respond-async`", param=CALLBACK.decode())
        return False

    def _jobs_api(self) -> JobsApi:
        jobs = self._jobs()
        if jobs is None:
            raise BadRequest("files, batches and jobs are not configured here (`jobs:`)", status=404,
                             code="jobs_not_configured")  # fmt: skip
        return jobs

    def _answer_error(self, error: HeadwayError, head: RequestHead) -> Verdict:
        return lambda reply: self._fail(error, head, reply, time.time(), time.monotonic(), Facts())

    # --- what the gateway answers itself -------------------------------------------------------------------------

    def _own(self, head: RequestHead) -> Verdict:
        if head.path == b"/healthz":
            return lambda reply: self._say(head, reply, 200, {"status": "ok"})
        if head.path == b"/readyz":
            ready = self._is_ready()
            return lambda reply: self._say(head, reply, 200 if ready else 503, {"ready": ready})
        key = self.intake.key(head)
        listed = [self._describe(name) for name in self._names_for(key)]
        if head.path == b"/v1/models":
            return lambda reply: self._say(head, reply, 200, {"object": "list", "data": listed})
        asked = unquote_to_bytes(head.path[len(MODELS) :]).decode("utf-8", "replace")
        model = self.intake.names.find(asked)
        if model is None or not may_use(key, model):
            return self._answer_error(self.intake.unknown_model(asked), head)
        return lambda reply: self._say(head, reply, 200, self._describe(asked))

    def _names_for(self, key: Key) -> list[str]:
        names = []
        for model in self._config.models.values():
            if may_use(key, model):
                names += self._known_models(model.pools[0]) if model.name == "*" else [model.name, *model.aliases]
        return names

    def _describe(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._started, "owned_by": "headway"}

    def _say(self, head: RequestHead, reply: Reply, status: int, value: dict[str, Any]) -> None:
        request_id = own_request_id(head) or self._new_id()
        reply.send(status, _JSON + b"x-request-id: %b\r\n" % request_id.encode(), msgspec.json.encode(value))

    # --- requests that are routed --------------------------------------------------------------------------------

    def handle(self, head: RequestHead, body: bytes, reply: Reply, peer: str) -> Answering | None:
        """A whole request: check it, then begin its story."""
        received, at = time.monotonic(), time.time()
        request_id = own_request_id(head) or self._new_id()
        facts = Facts()
        try:
            ask = self.intake.of_request(head, body, peer, request_id, received)
            if self._is_for_later(head, ask.key):
                return self._jobs_api().submit(head, ask, body, reply, partial(take_in, self._limiter, ask))
        except HeadwayError as error:
            self._fail(error, head, reply, at, received, facts, request_id)
            return None
        except Exception as error:  # a bug of ours, as in `_serve`: it must not take the client's connection down
            self._fail(HeadwayError("an internal error"), head, reply, at, received, facts, request_id)
            _report_bug(error)
            return None
        story = Story(self._serve(ask, head, reply, at, facts), _report_bug)
        story.step(None)
        return story

    async def _serve(self, ask: Ask, head: RequestHead, reply: Reply, at: float, facts: Facts) -> None:
        if self._captures is not None:
            facts.taking = self._captures.take(ask.model.name)
        outlet: Outlet = reply if facts.taking is None else facts.taking.outlet(reply)
        try:
            facts.stays = ask.request.stream
            if ask.key.limits is not None:
                await reserve(self._limiter, ask)
            if ask.way.mirror is not None and self._mirrors is not None:
                rename = partial(self.intake.renamed, head, ask.body)
                facts.copy = self._mirrors.offer(ask, ask.way.rule, rename)
            await self._proxy.serve(ask, outlet, facts)
        except asyncio.CancelledError:
            facts.ended = "client_gone"
            self._note(head, outlet, at, ask.received, facts, ask, None)
            raise
        except HeadwayError as error:
            self._fail(error, head, outlet, at, ask.received, facts, ask.request.id, ask)
        except Exception as error:  # a bug of ours: the client gets a clear 500, the log the trace
            self._fail(HeadwayError("an internal error"), head, outlet, at, ask.received, facts, ask.request.id, ask)
            _report_bug(error)
        else:
            self._note(head, outlet, at, ask.received, facts, ask, None)

    # --- work that is done later ---------------------------------------------------------------------------------

    def key_of(self, made: bytes | None, tenant: str) -> Key | None:
        """The tenant's key with this digest, another of its keys where that was taken away; None: it has none left."""
        key = self.intake.key_of(made)
        return key if key is not None and key.tenant == tenant else self.intake.standing_in(tenant)

    async def perform(self, path: str, body: bytes, fields: tuple[tuple[bytes, bytes], ...], key: Key, klass: str,
                      request_id: str, deadline: float, reply: Collected, sent: Callable[[], None],
                      aborted: int) -> None:  # fmt: skip
        """Send a job's request on its way and collect its answer. Raises a HeadwayError where there is none.

        It was `aborted` so often before, to make room.
        """
        head = RequestHead.made(path.encode("latin-1"), fields)
        at, received, facts = time.time(), time.monotonic(), Facts()
        facts.aborted = aborted
        ask: Ask | None = None
        error: HeadwayError | None = None

        async def on_turn() -> None:
            # Not before: what waits for its turn, perhaps for a day, must not use up its tenant's limits meanwhile.
            if ask is not None and ask.grant is None and key.limits is not None:
                await reserve(self._limiter, ask)
            sent()

        facts.on_turn = on_turn
        try:
            ask = self.intake.of_job(head, body, key, klass, request_id, deadline)
            await in_a_task(self._proxy.serve(ask, reply, facts))
        except asyncio.CancelledError:
            facts.ended = "cancelled"
            raise
        except HeadwayError as raised:
            error = raised
            raise
        finally:
            self._note(head, reply, at, received, facts, ask, error, request_id)

    # --- errors and the record -----------------------------------------------------------------------------------

    def refuse(self, error: WireError, reply: Reply, path: bytes) -> None:
        """Framing, size, slowness: answered and closed."""
        own = HeadwayError(error.message, status=error.status, code=error.code)
        request_id = self._new_id()
        fields = _JSON + b"x-request-id: %b\r\n" % request_id.encode()
        if error.status == 503:
            fields += b"retry-after: 1\r\nx-headway-reason: memory\r\n"
        reply.send(error.status, fields, self.intake.paths.dialect(path).body(own))
        self._record(RequestRecord(
            request_id=request_id, at=time.time(), status=error.status, ended="rejected", method="",
            path=path.decode("latin-1"), code=error.code, bytes_out=reply.bytes_out,
        ))  # fmt: skip

    def _fail(self, error: HeadwayError, head: RequestHead, reply: Outlet, at: float, received: float, facts: Facts,
              request_id: str | None = None, ask: Ask | None = None) -> None:  # fmt: skip
        request_id = request_id or own_request_id(head) or self._new_id()
        if not reply.started:
            limits = ask.reply_fields if ask is not None else b""
            self._write_error(error, self.intake.paths.dialect(head.path), reply, request_id, limits)
        elif not reply.ended:
            reply.cut()
        self._note(head, reply, at, received, facts, ask, error, request_id)

    def _write_error(self, error: HeadwayError, dialect: Dialect, reply: Outlet, request_id: str,
                     limits: bytes) -> None:  # fmt: skip
        fields = b"x-request-id: %b\r\n%b" % (request_id.encode(), limits)
        if isinstance(error, TryFailed) and error.answer is not None:
            # The engine's own words, when no other try is left.
            status, own_fields, body = error.answer
            reply.send(status, fields + forwardable(own_fields), body)
            return
        if error.retry_after is not None:
            fields += b"retry-after: %d\r\n" % max(1, round(error.retry_after))
        elif not error.should_retry and error.status in (429, 503):
            fields += b"x-should-retry: false\r\n"
        if isinstance(error, TenantLimit):
            fields += error.fields
        if error.status in (429, 503) and not isinstance(error, UpstreamError):
            fields += b"x-headway-reason: %b\r\n" % error.code.encode()
        reply.send(error.status, fields + _JSON, dialect.body(error))

    def _note(self, head: RequestHead, reply: Outlet, at: float, received: float, facts: Facts, ask: Ask | None,
              error: HeadwayError | None, request_id: str = "") -> None:  # fmt: skip
        if ask is not None and ask.grant is not None:
            settle(ask.grant, facts, reply)
        record = recorded(head, reply, at, received, facts, ask, error, request_id)
        if facts.copy is not None:
            facts.copy.ended(record, record.finish)
        if facts.taking is not None and ask is not None:
            facts.taking.ended(record, record.finish, head.named.get(b"content-type", b""), ask.body)
        self._record(record)


def _report_bug(error: BaseException) -> None:
    asyncio.get_running_loop().call_exception_handler({"message": "a request failed", "exception": error})


def _no_such_path(head: RequestHead) -> str:
    asked = head.path.decode("latin-1")[:200]
    near = get_close_matches(asked, ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models"], 1)
    return f"there is no {asked!r} here" + (f"; did you mean {near[0]}?" if near else "")
