"""From a checked HTTP request to an `Ask`: whose it is, which model, which class, how large, what was promised.

The order of checks is the contract's: path, key, JSON, model. What can be refused by the head alone is refused before
the body is read (`screen`). A job's request takes the same way (`of_job`), so that work which is done later is checked
and counted like work that is done at once.

Left to others: bytes in and out (`front`), what each field means (`fields`), which class it is (`classes`).
"""

from __future__ import annotations

import dataclasses
import hmac
import time
from collections.abc import Callable
from typing import NamedTuple

from gateway.ask import Ask
from gateway.classes import asked_class, class_of
from gateway.config.names import ModelNames
from gateway.config.types import Config, Key, Model, Slo, TrafficClass
from gateway.context import Longest, certain, fitting
from gateway.core.errors import BadRequest
from gateway.core.lengths import Lengths
from gateway.core.types import UNKNOWN, Request
from gateway.dialects import TRITON
from gateway.fields import Forwarder, Slos, asked_deadline, asked_slos, digest, presented_key, tighter
from gateway.form import form_model
from gateway.paths import Path, Paths
from gateway.peek import Peek, peek, rewrite, worded
from gateway.renames import named_in_head, renamed, with_model
from gateway.routers import Routers, drawn_of, forced_arm, reading
from gateway.wire.head import RequestHead
from policies.routing import Asked, Way

ANYONE = Key(b"", "anonymous", None)
"""Whose requests are where no keys are configured."""

# The most answers (`n`, `best_of`) one request may ask for: engines have been brought down by a billion.
ANSWERS = 128
_NOTHING = Slo()


class Screened(NamedTuple):
    """What the head alone told.

    The path and the model it names if it does, whose request it is, how fast it shall be, the class it asks for, and
    the deadline (monotonic seconds; NaN: none). `asked` is what routing would have been asked of a request that was
    refused with its body there.
    """

    path: Path
    model: str | None
    key: Key
    slos: Slos
    klass: str | None
    deadline: float
    asked: Asked | None = None


class Intake:
    """Made anew with each configuration. `lengths_of` tells what answers of a model have been like.

    `routers` know the way; None: they are made here, and nobody else's splits are theirs. `longest` says what fits.
    """

    def __init__(self, config: Config, lengths_of: Callable[[str], Lengths], routers: Routers | None = None,
                 longest: Longest = lambda pool, name: None):  # fmt: skip
        self._config = config
        self._longest = longest
        self._lengths_of = lengths_of
        if routers is None:
            routers = Routers()
            routers.use(routers.made(config))
        self.routers = routers
        self.paths = Paths(config.paths)
        self.names = ModelNames(config.models)
        self._keys = {key.digest: key for key in config.keys}
        self._shown = {key.digest: f"sha256:{key.digest.hex()}" for key in config.keys}
        by_limits = sorted(config.keys, key=lambda key: key.limits is not None)
        self._of_tenant = {key.tenant: key for key in by_limits}  # one with limits, where there is one
        self._forwarder = Forwarder(config.trusted_proxies)
        self._usual: dict[tuple[bytes, str], TrafficClass] = {}  # of who asks for no class, by key and model

    # --- by the head alone ---------------------------------------------------------------------------------------

    def key(self, head: RequestHead) -> Key:
        """Whose request this is. One answer for a missing and a wrong key, the same work for both."""
        if not self._keys:
            return ANYONE
        made = digest(presented_key(head) or b"")
        key = self._keys.get(made)
        if key is None or not hmac.compare_digest(key.digest, made):
            raise BadRequest("a valid API key is needed", status=401, code="invalid_api_key")
        return key

    def key_of(self, made: bytes | None) -> Key | None:
        """The key with this digest; None where there is no such key any more."""
        return self._keys.get(made or b"") if self._keys else ANYONE

    def standing_in(self, tenant: str) -> Key | None:
        """A key of this tenant's, for work whose own key has been taken away since: its limits go on to hold."""
        key = self._of_tenant.get(tenant)
        return dataclasses.replace(key, models=None) if key is not None else None

    def screen(self, head: RequestHead) -> Screened | None:
        """None where this is no inference path; raises what the head alone is refused for."""
        found = self.paths.find(head.path)
        if found is None:
            return None
        if head.method != b"POST":
            path = head.path.decode("latin-1")
            raise BadRequest(f"use POST on {path}", status=405, code="method_not_allowed")
        screened = Screened(*found, self.key(head), asked_slos(head),
                            asked_class(self._config, head.named), asked_deadline(head))  # fmt: skip
        coding = head.named.get(b"content-encoding")
        if coding is not None and coding.lower() != b"identity":
            raise BadRequest("request bodies must not be compressed", status=415, code="content_encoding")
        return screened

    # --- with the body -------------------------------------------------------------------------------------------

    def of_request(self, head: RequestHead, body: bytes, peer: str, request_id: str, received: float) -> Ask:
        """Raises BadRequest with what is wrong."""
        screened = head.found
        assert isinstance(screened, Screened)
        return self._ask(screened, head, body, peer, request_id, received)

    def of_job(self, head: RequestHead, body: bytes, key: Key, klass: str, request_id: str, deadline: float) -> Ask:
        """The request that a job stands for, as if its owner had sent it now. Raises BadRequest."""
        found = self.paths.find(head.path)
        if found is None:
            raise BadRequest(f"there is no {head.path.decode('latin-1')!r} here", status=404, code="unknown_path")
        screened = Screened(*found, key, asked_slos(head), klass, deadline)
        return self._ask(screened, head, body, "", request_id, time.monotonic())

    def _ask(self, screened: Screened, head: RequestHead, body: bytes, peer: str, request_id: str,
             received: float) -> Ask:  # fmt: skip
        path, in_path, key, (ttft_slo, tpot_slo), asked_klass, deadline, _ = screened
        seen = self._read_body(path, head, body)
        asked = self._asked_model(path, in_path, head, body, seen)
        route, session = head.path.decode("latin-1"), _session(head, seen)
        prompt = seen.text
        question = Asked(
            asked, route, key.tenant, self._shown.get(key.digest, ""), "", UNKNOWN, bool(seen.stream) or path.streams,
            session, seen.user or "", reading(head), time.time(),
        )  # fmt: skip
        model, klass, lengths, question, way = self._find_way(screened, head, seen, question)
        if seen.answers > ANSWERS:
            raise BadRequest(f"at most {ANSWERS} answers to one request", code="invalid_value", param="n")
        upstream = way.as_ or model.upstream_name(asked)
        target, fields = head.target, self._forwarder.lines(head, peer, request_id)
        if upstream != asked:
            body, target = renamed(path, self.paths, head, body, upstream)
            fields = with_model(path, fields, upstream)
        # What a model promises, it promises to those who wait for an answer; filler waits for a gap.
        promised = model.slo if klass.filler is None else _NOTHING
        request = Request(
            request_id, model.name, received, prompt, question.prompt_tokens,
            lengths.expected(route, key.tenant, seen.limit) * seen.answers, question.stream, session, key.tenant,
            klass.name, tighter(promised.ttft, ttft_slo), tighter(promised.tpot, tpot_slo),
            deadline=deadline, filler=klass.filler is not None, needs=upstream,
        )  # fmt: skip
        asks_usage = seen.stream_options is not None and bool(seen.stream_options.include_usage)
        may_inject = seen.stream and not asks_usage and path.dialect.name == "openai"
        return Ask(request, model, asked, upstream, target, fields, body, path.dialect.event, received,
                   inject_usage if may_inject else None, route, seen.answers, seen.limit, key, path.generates, question,
                   way, self.routers.share(model.name, way), self.routers.looked_at(model.name),
                   asked_klass or "")  # fmt: skip

    def _find_way(self, screened: Screened, head: RequestHead, seen: Peek,
                  question: Asked) -> tuple[Model, TrafficClass, Lengths, Asked, Way]:  # fmt: skip
        """Which model and class, the whole question and its way. Raises BadRequest, with the question at the head."""
        key = screened.key
        try:
            model = self._model(key, question.name)
            klass = self._class(key, model, screened.klass)
            lengths = self._lengths_of(model.name)
            prompt_tokens = lengths.prompt_tokens(worded(seen.text), question.path, key.tenant)
            question = question._replace(klass=klass.name, prompt_tokens=prompt_tokens)
            way = self.routers.way(model, question, key, forced_arm(head))
            pools = fitting(way.pools, way.as_ or model.upstream_name(question.name), model.max_context, self._longest,
                            prompt_tokens, seen.limit,
                            lambda: certain(seen.text, screened.path.generates))  # fmt: skip
        except BadRequest:
            head.found = screened._replace(asked=question)
            raise
        return model, klass, lengths, question, way if pools is way.pools else way._replace(pools=pools)

    def way_now(self, ask: Ask) -> Way | None:
        """The way of a request that was checked before the last reload; None where it has none that fits its body.

        Neither has it one where its prompt is too long for all of the pools.
        """
        model = self.names.find(ask.client_model)
        if model is None:
            return None
        try:
            way = self.routers.way(model, ask.asked, ask.key, ask.way.arm if ask.way.forced else None,
                                   drawn_of(ask.way))  # fmt: skip
            name, prompt = way.as_ or model.upstream_name(ask.client_model), ask.request.prompt
            if name != ask.upstream_model:
                return None
            pools = fitting(way.pools, name, model.max_context, self._longest, ask.asked.prompt_tokens, ask.limit,
                            lambda: certain(prompt, ask.generates))  # fmt: skip
        except BadRequest:
            return None
        return way if pools is way.pools else way._replace(pools=pools)

    def _model(self, key: Key, asked: str) -> Model:
        model = self.names.find(asked)
        if model is None:
            raise self.unknown_model(asked)
        if not may_use(key, model):
            raise BadRequest(f"this key may not use the model {asked!r}", status=403, code="model_not_allowed")
        return model

    def _class(self, key: Key, model: Model, asked: str | None) -> TrafficClass:
        if asked is not None:
            return class_of(self._config, key, model, asked)
        usual = self._usual.get((key.digest, model.name))
        if usual is None:
            usual = self._usual[key.digest, model.name] = class_of(self._config, key, model, None)
        return usual

    def _read_body(self, path: Path, head: RequestHead, body: bytes) -> Peek:
        if not path.json or b"inference-header-content-length" in head.named:
            return Peek()
        return peek(body, path.dialect is TRITON)

    def renamed(self, head: RequestHead, body: bytes, upstream: str) -> tuple[bytes, bytes]:
        """Body and target of a checked request for model servers that call the model by this name."""
        screened = head.found
        assert isinstance(screened, Screened)
        return renamed(screened.path, self.paths, head, body, upstream)

    def _asked_model(self, path: Path, in_path: str | None, head: RequestHead, body: bytes, seen: Peek) -> str:
        if path.source == "body":
            asked = seen.model
        elif path.source == "path":
            asked = in_path
        elif path.source == "form":
            asked = form_model(head.named.get(b"content-type", b""), body)
        else:
            asked = named_in_head(path, head)
        if not asked:
            raise BadRequest("the request names no model", code="model_missing", param="model")
        return asked

    def unknown_model(self, asked: str) -> BadRequest:
        near = self.names.near(asked)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        return BadRequest(f"the model {asked[:200]!r} does not exist here{hint}", status=404, code="model_not_found",
                          param="model")  # fmt: skip


def _session(head: RequestHead, seen: Peek) -> str:
    """What ties a conversation's requests together, as far as the client says."""
    named = head.named.get(b"x-session-id")
    return named.decode("latin-1") if named is not None else seen.prompt_cache_key or seen.user or ""


def may_use(key: Key, model: Model) -> bool:
    return key.models is None or model.name in key.models


def inject_usage(body: bytes) -> bytes:
    """The body with the wish to be told the token usage at the end of the stream."""
    return rewrite(body, {"stream_options": {"include_usage": True}})
