"""The paths of a simulated server that are answered by a body and the engine, or by the body alone.

The idea: a route parses the body as its API wants it and names the dialect to answer in; embeddings are prefills of
which only the vector comes out. A real vLLM serves either text or embeddings; this one serves both.
"""

import base64
import hashlib
import struct
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from backends.sim import ask as asks
from backends.sim import errors, text
from backends.sim.dialects import Answer, Chat, Completion, Dialect, Usage
from backends.sim.http import HttpRequest, Reply
from backends.sim.messages import Messages
from backends.sim.responses import Responses

if TYPE_CHECKING:
    from backends.sim.server import SimServer

Route = Callable[[HttpRequest, Reply], None]
JSON = {"content-type": "application/json", "vary": "Origin"}
DIMENSIONS = 256


class Embeddings(Dialect):
    """`/v1/embeddings`: unit vectors that depend on nothing but the input's bytes."""

    prefix = "embd-"
    dimensions = DIMENSIONS
    encoding = "float"

    def body(self, answers: list[Answer], usage: Usage) -> bytes:
        rows = [
            {"index": index, "object": "embedding", "embedding": self._vector(prompt)}
            for index, prompt in enumerate(self.ask.prompts)
        ]
        counts = {"prompt_tokens": usage.prompt, "total_tokens": usage.prompt, "completion_tokens": 0}
        whole = {"id": self.id, "object": "list", "created": self.created, "model": self.ask.model}
        return errors.dump(whole | {"data": rows, "usage": counts | {"prompt_tokens_details": None}})

    def _vector(self, prompt: bytes) -> list[float] | str:
        raw = hashlib.shake_128(prompt).digest(self.dimensions)
        values = [byte - 127.5 for byte in raw]
        length = sum(value * value for value in values) ** 0.5
        unit = [value / length for value in values]
        if self.encoding == "base64":
            return base64.b64encode(struct.pack(f"<{len(unit)}f", *unit)).decode()
        return unit


class Pages:
    """Routes of `server`, by path."""

    def __init__(self, server: "SimServer") -> None:
        self._server = server
        self.post: dict[str, Route] = {
            "/v1/chat/completions": partial(self._generate, asks.parse_chat, Chat),
            "/v1/completions": partial(self._generate, asks.parse_completion, Completion),
            "/v1/messages": partial(self._generate, asks.parse_messages, Messages),
            "/v1/responses": partial(self._generate, asks.parse_responses, Responses),
            "/v1/messages/count_tokens": self._count_tokens,
            "/v1/embeddings": self._embeddings,
            "/tokenize": self._tokenize,
            "/detokenize": self._detokenize,
            "/ping": self._empty,
        }
        self.get: dict[str, Route] = {
            "/ping": self._empty,
            "/v1/models": self._models,
            "/version": self._version,
            "/load": self._load,
        }

    def _generate(
        self,
        parser: Callable[[dict[str, Any], str], asks.Ask],
        dialect: Callable[[asks.Ask, str, int], Dialect],
        request: HttpRequest,
        reply: Reply,
    ) -> None:
        self._server.generate(request, reply, parser(_body(request), self._server.model), dialect)

    def _embeddings(self, request: HttpRequest, reply: Reply) -> None:
        body = _body(request)
        size = body.get("dimensions") or DIMENSIONS
        if type(size) is not int or not 1 <= size <= 65536:
            raise errors.bad_request("dimensions must be between 1 and 65536.", "dimensions", size)

        def dialect(ask: asks.Ask, request_id: str, created: int) -> Dialect:
            made = Embeddings(ask, request_id, created)
            made.dimensions, made.encoding = size, str(body.get("encoding_format", "float"))
            return made

        self._server.generate(request, reply, asks.parse_embeddings(body, self._server.model), dialect)

    def _count_tokens(self, request: HttpRequest, reply: Reply) -> None:
        ask = asks.parse_messages(_body(request), self._server.model)
        count = text.count_tokens(ask.prompts[0])
        _send(reply, {"input_tokens": count, "context_management": {"original_input_tokens": count}})

    def _tokenize(self, request: HttpRequest, reply: Reply) -> None:
        body = _body(request)
        messages = body.get("messages")
        prompt = asks.messages_text(messages) if isinstance(messages, list) else asks.content_text(body.get("prompt"))
        tokens = text.encode(prompt)
        limit = self._server.context_length
        _send(reply, {"count": len(tokens), "max_model_len": limit, "tokens": tokens, "token_strs": None})

    def _detokenize(self, request: HttpRequest, reply: Reply) -> None:
        tokens = _body(request).get("tokens")
        if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
            raise errors.invalid("list_type", "body.tokens", "Input should be a valid list", repr(tokens)[:50])
        try:
            prompt = text.decode(tokens)
        except ValueError as error:
            raise errors.bad_request(str(error), "tokens") from error
        _send(reply, {"prompt": prompt.decode(errors="replace")})

    def _models(self, request: HttpRequest, reply: Reply) -> None:
        server = self._server
        created = int(server.stats.created)
        digest = hashlib.sha256(server.model.encode()).hexdigest()[:16]
        permission = {
            "id": f"modelperm-{digest}",
            "object": "model_permission",
            "created": created,
            "allow_create_engine": False,
            "allow_sampling": True,
            "allow_logprobs": False,
            "allow_search_indices": False,
            "allow_view": True,
            "allow_fine_tuning": False,
            "organization": "*",
            "group": None,
            "is_blocking": False,
        }
        model = {
            "id": server.model,
            "object": "model",
            "created": created,
            "owned_by": "vllm",
            "root": server.model,
            "parent": None,
            "max_model_len": server.context_length,
            "permission": [permission],
        }
        _send(reply, {"object": "list", "data": [model]})

    def _version(self, request: HttpRequest, reply: Reply) -> None:
        _send(reply, {"version": "0.32.0"})

    def _load(self, request: HttpRequest, reply: Reply) -> None:
        _send(reply, {"server_load": len(self._server.exchanges)})

    def _empty(self, request: HttpRequest, reply: Reply) -> None:
        reply.send(200, {"vary": "Origin"})


def _body(request: HttpRequest) -> dict[str, Any]:
    return asks.parse_json(request.body, request.headers.get("content-type", ""))


def _send(reply: Reply, value: dict[str, Any]) -> None:
    reply.send(200, JSON, errors.dump(value))
