"""The client side: HTTP to Request; error to status and JSON, here and only here.

The order of checks is the contract's: framing and limits (the wire), path, key, JSON, model. What can be refused by
the head alone is refused before the body is read.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import msgspec

from gateway.answers import TryFailed, forwardable
from gateway.ask import Ask, Facts
from gateway.config.names import ModelNames
from gateway.config.types import Config, Key, Model
from gateway.core.errors import BadRequest, HeadwayError, NotYet, UpstreamError
from gateway.core.types import Request
from gateway.dialects import TRITON, Dialect
from gateway.fields import (
    Forwarder,
    Slos,
    asked_slos,
    digest,
    own_request_id,
    presented_key,
    request_ids,
    tighter,
)
from gateway.form import form_model, replace_form_model
from gateway.paths import MODELS, OWN, Path, Paths, is_for_later
from gateway.peek import Peek, peek, rewrite
from gateway.proxy import Proxy
from gateway.recorded import recorded
from gateway.records import RequestRecord
from gateway.story import Story
from gateway.wire.head import RequestHead, WireError
from gateway.wire.reply import Reply

_JSON = b"content-type: application/json\r\n"
_ANYONE = Key(b"", "anonymous", None)


# Request headers of the contract whose feature is not built yet.
ASKS_LATER = frozenset(
    (b"prefer", b"x-headway-class", b"x-headway-deadline", b"x-headway-callback", b"x-llm-d-inference-objective",
     b"x-gateway-inference-objective")
)  # fmt: skip


# The most answers (`n`, `best_of`) one request may ask for: engines have been brought down by a billion.
ANSWERS = 128


class Screened(NamedTuple):
    """What the head alone told: the path, the model it names if it does, whose request it is, how fast it shall be."""

    path: Path
    model: str | None
    key: Key
    slos: Slos


class Front:
    """Answers requests. `proxy` does the work; `record` is told how each one went. Replaced whole by a reload."""

    def __init__(self, config: Config, proxy: Proxy, record: Callable[[RequestRecord], None],
                 is_ready: Callable[[], bool], known_models: Callable[[str], list[str]]):  # fmt: skip
        self._config = config
        self._proxy = proxy
        self._record = record
        self._is_ready = is_ready
        self._known_models = known_models
        self._paths = Paths(config.paths)
        self._names = ModelNames(config.models)
        self._keys = {key.digest: key for key in config.keys}
        self._forwarder = Forwarder(config.trusted_proxies)
        self._new_id = request_ids()
        self._started = int(time.time())

    # --- before the body -----------------------------------------------------------------------------------------

    def screen(self, head: RequestHead) -> Callable[[Reply], None] | None:
        """None when the body is wanted, else what answers."""
        try:
            found = self._paths.find(head.path)
            if found is not None:
                if head.method != b"POST":
                    path = head.path.decode("latin-1")
                    raise BadRequest(f"use POST on {path}", status=405, code="method_not_allowed")
                head.found = Screened(*found, self._key(head), asked_slos(head))
                if not ASKS_LATER.isdisjoint(head.named):
                    _refuse_what_comes_later(head)
                coding = head.named.get(b"content-encoding")
                if coding is not None and coding.lower() != b"identity":
                    raise BadRequest("request bodies must not be compressed", status=415, code="content_encoding")
                return None
            if head.path in OWN or head.path.startswith(MODELS):
                if head.method not in (b"GET", b"HEAD"):
                    raise BadRequest("use GET here", status=405, code="method_not_allowed")
                if head.path.startswith(b"/v1/"):
                    self._key(head)
                return self._own(head)
            if is_for_later(head.path):
                raise NotYet("files, batches and jobs are not in this version")
            raise BadRequest(_no_such_path(head), status=404, code="unknown_path")
        except HeadwayError as error:
            return self._answer_error(error, head)

    def _answer_error(self, error: HeadwayError, head: RequestHead) -> Callable[[Reply], None]:
        return lambda reply: self._fail(error, head, reply, time.time(), time.monotonic(), Facts())

    def _key(self, head: RequestHead) -> Key:
        """Whose request this is. One answer for a missing and a wrong key, the same work for both."""
        if not self._keys:
            return _ANYONE
        made = digest(presented_key(head) or b"")
        key = self._keys.get(made)
        if key is None or not hmac.compare_digest(key.digest, made):
            raise BadRequest("a valid API key is needed", status=401, code="invalid_api_key")
        return key

    # --- what the gateway answers itself -------------------------------------------------------------------------

    def _own(self, head: RequestHead) -> Callable[[Reply], None]:
        if head.path == b"/healthz":
            return lambda reply: self._say(head, reply, 200, {"status": "ok"})
        if head.path == b"/readyz":
            ready = self._is_ready()
            return lambda reply: self._say(head, reply, 200 if ready else 503, {"ready": ready})
        key = self._key(head)
        listed = [self._describe(name) for name in self._names_for(key)]
        if head.path == b"/v1/models":
            return lambda reply: self._say(head, reply, 200, {"object": "list", "data": listed})
        asked = unquote_to_bytes(head.path[len(MODELS) :]).decode("utf-8", "replace")
        model = self._names.find(asked)
        if model is None or not _may_use(key, model):
            return self._answer_error(self._unknown_model(asked), head)
        return lambda reply: self._say(head, reply, 200, self._describe(asked))

    def _names_for(self, key: Key) -> list[str]:
        names = []
        for model in self._config.models.values():
            if _may_use(key, model):
                names += self._known_models(model.to) if model.name == "*" else [model.name, *model.aliases]
        return names

    def _describe(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._started, "owned_by": "headway"}

    def _say(self, head: RequestHead, reply: Reply, status: int, value: dict[str, Any]) -> None:
        request_id = own_request_id(head) or self._new_id()
        reply.send(status, _JSON + b"x-request-id: %b\r\n" % request_id.encode(), msgspec.json.encode(value))

    # --- requests that are routed --------------------------------------------------------------------------------

    def handle(self, head: RequestHead, body: bytes, reply: Reply, peer: str) -> Story | None:
        """A whole request: check it, then begin its story."""
        received, at = time.monotonic(), time.time()
        request_id = own_request_id(head) or self._new_id()
        facts = Facts()
        try:
            ask = self._ask(head, body, peer, request_id, received)
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
        try:
            await self._proxy.serve(ask, reply, facts)
        except asyncio.CancelledError:
            facts.ended = "client_gone"
            self._note(head, reply, at, ask.received, facts, ask, None)
            raise
        except HeadwayError as error:
            self._fail(error, head, reply, at, ask.received, facts, ask.request.id, ask)
        except Exception as error:  # a bug of ours: the client gets a clear 500, the log the trace
            self._fail(HeadwayError("an internal error"), head, reply, at, ask.received, facts, ask.request.id, ask)
            _report_bug(error)
        else:
            self._note(head, reply, at, ask.received, facts, ask, None)

    def _ask(self, head: RequestHead, body: bytes, peer: str, request_id: str, received: float) -> Ask:
        screened = head.found
        assert isinstance(screened, Screened)
        path, in_path, key, (ttft_slo, tpot_slo) = screened
        seen = self._read_body(path, head, body)
        asked = self._asked_model(path, in_path, head, body, seen)
        model = self._names.find(asked)
        if model is None:
            raise self._unknown_model(asked)
        if not _may_use(key, model):
            raise BadRequest(f"this key may not use the model {asked!r}", status=403, code="model_not_allowed")
        upstream = model.upstream_name(asked)
        target = head.target
        if upstream != asked:
            body, target = self._rename(path, head, body, upstream)
        if seen.answers > ANSWERS:
            raise BadRequest(f"at most {ANSWERS} answers to one request", code="invalid_value", param="n")
        lengths = self._proxy.lengths_of(model.name)
        route = head.path.decode("latin-1")
        prompt = seen.text
        session = head.named.get(b"x-session-id")
        request = Request(
            request_id, model.name, received, prompt, lengths.prompt_tokens(len(prompt), route, key.tenant),
            lengths.expected(route, key.tenant, seen.limit) * seen.answers, bool(seen.stream) or path.streams,
            session.decode("latin-1") if session is not None else seen.prompt_cache_key or seen.user or "", key.tenant,
            ttft_slo=tighter(model.slo.ttft, ttft_slo), tpot_slo=tighter(model.slo.tpot, tpot_slo),
        )  # fmt: skip
        asks_usage = seen.stream_options is not None and bool(seen.stream_options.include_usage)
        may_inject = seen.stream and not asks_usage and path.dialect.name == "openai"
        return Ask(request, model, asked, upstream, target, self._forwarder.lines(head, peer, request_id), body,
                   path.dialect.event, received, _inject_usage if may_inject else None, route,
                   seen.answers, seen.limit)  # fmt: skip

    def _read_body(self, path: Path, head: RequestHead, body: bytes) -> Peek:
        if not path.json or b"inference-header-content-length" in head.named:
            return Peek()
        return peek(body, path.dialect is TRITON)

    def _rename(self, path: Path, head: RequestHead, body: bytes, upstream: str) -> tuple[bytes, bytes]:
        """Body and target with the model's name as the model server knows it."""
        if path.source == "body":
            return rewrite(body, {"model": upstream}), head.target
        if path.source == "path":
            return body, self._paths.renamed(head.path, upstream) + head.query
        if path.source == "form":
            return replace_form_model(head.named.get(b"content-type", b""), body, upstream), head.target
        return body, head.target

    def _asked_model(self, path: Path, in_path: str | None, head: RequestHead, body: bytes, seen: Peek) -> str:
        if path.source == "body":
            asked = seen.model
        elif path.source == "path":
            asked = in_path
        elif path.source == "header":
            named = head.named.get((path.name or "").lower().encode())
            asked = named.decode("utf-8", "replace") if named else None
        elif path.source == "form":
            asked = form_model(head.named.get(b"content-type", b""), body)
        else:
            asked = path.name
        if not asked:
            raise BadRequest("the request names no model", code="model_missing", param="model")
        return asked

    def _unknown_model(self, asked: str) -> BadRequest:
        near = self._names.near(asked)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        return BadRequest(f"the model {asked[:200]!r} does not exist here{hint}", status=404, code="model_not_found",
                          param="model")  # fmt: skip

    # --- errors and the record -----------------------------------------------------------------------------------

    def refuse(self, error: WireError, reply: Reply, path: bytes) -> None:
        """Framing, size, slowness: answered and closed."""
        own = HeadwayError(error.message, status=error.status, code=error.code)
        request_id = self._new_id()
        fields = _JSON + b"x-request-id: %b\r\n" % request_id.encode()
        if error.status == 503:
            fields += b"retry-after: 1\r\nx-headway-reason: memory\r\n"
        reply.send(error.status, fields, self._paths.dialect(path).body(own))
        self._record(RequestRecord(
            request_id=request_id, at=time.time(), status=error.status, ended="rejected", method="",
            path=path.decode("latin-1"), code=error.code, bytes_out=reply.bytes_out,
        ))  # fmt: skip

    def _fail(self, error: HeadwayError, head: RequestHead, reply: Reply, at: float, received: float, facts: Facts,
              request_id: str | None = None, ask: Ask | None = None) -> None:  # fmt: skip
        request_id = request_id or own_request_id(head) or self._new_id()
        if not reply.started:
            self._write_error(error, self._paths.dialect(head.path), reply, request_id)
        elif not reply.ended:
            reply.cut()
        self._note(head, reply, at, received, facts, ask, error, request_id)

    def _write_error(self, error: HeadwayError, dialect: Dialect, reply: Reply, request_id: str) -> None:
        fields = b"x-request-id: %b\r\n" % request_id.encode()
        if isinstance(error, TryFailed) and error.answer is not None:
            # The engine's own words, when no other try is left.
            status, own_fields, body = error.answer
            reply.send(status, fields + forwardable(own_fields), body)
            return
        if error.retry_after is not None:
            fields += b"retry-after: %d\r\n" % max(1, round(error.retry_after))
        elif not error.should_retry and error.status in (429, 503):
            fields += b"x-should-retry: false\r\n"
        if error.status in (429, 503) and not isinstance(error, UpstreamError):
            fields += b"x-headway-reason: %b\r\n" % error.code.encode()
        reply.send(error.status, fields + _JSON, dialect.body(error))

    def _note(self, head: RequestHead, reply: Reply, at: float, received: float, facts: Facts, ask: Ask | None,
              error: HeadwayError | None, request_id: str = "") -> None:  # fmt: skip
        self._record(recorded(head, reply, at, received, facts, ask, error, request_id))


def _refuse_what_comes_later(head: RequestHead) -> None:
    """A header that asks for what is not built is refused: a promise taken and not kept would be worse."""
    for name in sorted(ASKS_LATER.intersection(head.named)):
        if name != b"prefer" or head.named[name].lower().find(b"respond-async") >= 0:
            raise NotYet(f"the header {name.decode()} asks for what is not in this version")


def _may_use(key: Key, model: Model) -> bool:
    return key.models is None or model.name in key.models


def _report_bug(error: BaseException) -> None:
    asyncio.get_running_loop().call_exception_handler({"message": "a request failed", "exception": error})


def _inject_usage(body: bytes) -> bytes:
    return rewrite(body, {"stream_options": {"include_usage": True}})


def _no_such_path(head: RequestHead) -> str:
    asked = head.path.decode("latin-1")[:200]
    near = get_close_matches(asked, ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models"], 1)
    return f"there is no {asked!r} here" + (f"; did you mean {near[0]}?" if near else "")
