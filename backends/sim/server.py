"""A simulated model server: the engine in real time behind vLLM's HTTP surface.

The idea: routes turn a body into an `Ask`, the ask into generations in the engine, and the engine's steps into
events. Everything happens on one event loop without a task per request. Faults are applied by `control`. Which port
and how many servers is the command line's business.
"""

import asyncio
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

from backends.sim import errors, text
from backends.sim.ask import Ask
from backends.sim.control import Control
from backends.sim.dialects import Dialect
from backends.sim.engine import Engine, EngineOptions
from backends.sim.exchange import Choice, Exchange
from backends.sim.generation import DoesNotFit, QueueFull, SimRequest, Step
from backends.sim.http import Connection, HttpRequest, Reply
from backends.sim.pages import JSON, Pages
from backends.sim.profiles import Profile
from backends.sim.runner import Runner
from backends.sim.stats import Stats


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """One simulated server. `speed` 2: a GPU twice as fast. Lengths in tokens."""

    profile: Profile
    model: str = ""  # "": the profile's
    speed: float = 1.0
    seed: int = 0
    mean_output: float = 200.0  # of answers whose length the client leaves open
    keep_alive: float = 5.0  # seconds an idle connection stays open, as uvicorn has it; 0: for ever
    sse_comments: float = 0.0  # seconds without an event after which a stream gets a comment; 0: never
    api_key: str = ""  # guards /v1, as vLLM's --api-key
    engine: EngineOptions = field(default_factory=EngineOptions)


class SimServer:
    """One server on one port. `start` and `stop` it on a running loop."""

    def __init__(self, options: ServerOptions) -> None:
        self.options = replace(options, model=options.model or options.profile.model)
        self.model = self.options.model
        self.random = Random(options.seed)
        self.speaker = text.Speaker(options.seed)
        self.slow = 1.0
        self.exchanges: set[Exchange] = set()
        self.connections: set[Connection] = set()
        self.port = 0
        self.host = "127.0.0.1"
        self.control = Control(self)
        self._listener: asyncio.Server | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self.asked = 0
        pages = Pages(self)
        self._post = {**pages.post, "/sim/fault": self.control.post_fault}
        self._get = {
            **pages.get,
            "/health": self.control.get_health,
            "/metrics": self.control.get_metrics,
            "/sim/state": self.control.get_state,
        }
        self.new_engine()

    # -- life

    def new_engine(self) -> None:
        """A fresh engine with an empty cache, as after a restart."""
        options = self.options
        self.engine = Engine(options.profile, options.engine, self.random, self.slow / options.speed)
        self.stats = Stats(self.model, time.time())
        self.runner = Runner(self.engine, self._on_step)

    @property
    def context_length(self) -> int:
        """Most tokens of a prompt and its answer."""
        return min(self.options.profile.context_length, self.engine.capacity_tokens())

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; `self.port` is the port afterwards. Raises OSError if it is taken."""
        self.host = host
        self.port = port
        await self.listen()
        self._close_idle()
        self._comment()

    async def listen(self) -> None:
        """Open the port (again)."""
        if self._listener is not None:
            return
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(
            lambda: Connection(self.handle, self.connections), self.host, self.port, backlog=4096, reuse_address=True
        )
        self.port = self._listener.sockets[0].getsockname()[1]

    def close_port(self) -> None:
        """Refuse new connections; open ones stay."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def stop(self) -> None:
        """Close everything."""
        self.control.stop()
        self.runner.stop()
        for timer in self._timers.values():
            timer.cancel()
        self.close_port()
        for connection in list(self.connections):
            connection.close()
        await asyncio.sleep(0)

    def _close_idle(self) -> None:
        if seconds := self.options.keep_alive:
            for connection in [c for c in self.connections if c.is_idle(seconds)]:
                connection.close()
            self._again("idle", min(1.0, seconds), self._close_idle)

    def _comment(self) -> None:
        if seconds := self.options.sse_comments:
            for exchange in self.exchanges:
                exchange.comment()
            self._again("comment", seconds, self._comment)

    def _again(self, name: str, seconds: float, what: Callable[[], None]) -> None:
        self._timers[name] = asyncio.get_running_loop().call_later(seconds, what)

    # -- requests

    def handle(self, request: HttpRequest, reply: Reply) -> None:
        """Answer one request, now or later."""
        headers = {**JSON, "x-request-id": request.headers.get("x-request-id") or os.urandom(16).hex()}
        table = self._post if request.method == "POST" else self._get if request.method == "GET" else {}
        route = table.get(request.path)
        key = self.options.api_key
        try:
            if key and request.path.startswith("/v1/") and request.headers.get("authorization") != f"Bearer {key}":
                reply.send(401, headers, b'{"error":"Unauthorized"}')
            elif route is not None:
                route(request, reply)
            elif request.path in self._post or request.path in self._get:
                headers["allow"] = "POST" if request.path in self._post else "GET"
                reply.send(405, headers, b'{"detail":"Method Not Allowed"}')
            else:
                reply.send(404, headers, b'{"detail":"Not Found"}')
        except errors.ApiError as error:
            reply.send(error.status, headers, error.body(request.path))

    def generate(
        self, request: HttpRequest, reply: Reply, ask: Ask, dialect: Callable[[Ask, str, int], Dialect]
    ) -> None:
        """Put an ask into the engine and answer it as it comes out. Raises ApiError if it is refused."""
        self.control.refuse_if_faulty()
        counts = [text.count_tokens(prompt) for prompt in ask.prompts]
        room = self.context_length - max(counts)
        if room < 1:
            raise errors.too_long(self.context_length)
        if ask.max_tokens is not None and ask.max_tokens > self.context_length:
            message = (
                f"max_tokens={ask.max_tokens} cannot be greater than max_model_len={self.context_length}. "
                "Please request fewer output tokens."
            )
            raise errors.bad_request(message, "max_tokens", ask.max_tokens)
        request_id = request.headers.get("x-request-id", "")
        headers = {"x-request-id": request_id or os.urandom(16).hex()}
        writer = dialect(ask, request_id or os.urandom(8).hex(), int(time.time()))
        form = request.headers.get("endpoint-load-metrics-format", "")
        exchange = Exchange(ask, writer, reply, self.speaker, headers, lambda: self._orca(form), request.path)
        self._submit(exchange, counts, min(room, ask.max_tokens or room))
        self.exchanges.add(exchange)
        reply.lost = lambda: self.drop(exchange)
        self.control.arm(exchange, reply)
        exchange.begin(sum(counts))
        self.runner.wake()

    def drop(self, exchange: Exchange) -> None:
        """The client is gone or the stream was cut: free what the engine holds for it."""
        exchange.finished = True
        self.exchanges.discard(exchange)
        for generation in exchange.generations:
            self.engine.abort(generation.id, self.runner.now())

    def _submit(self, exchange: Exchange, counts: list[int], limit: int) -> None:
        ask, now = exchange.ask, self.runner.now()
        try:
            for index in range(len(ask.prompts) * ask.copies):
                prompt, tokens = ask.prompts[index // ask.copies], counts[index // ask.copies]
                self.asked += 1
                start = self.random.randrange(text.VOCABULARY)
                output = limit if ask.ignore_eos else self._draw(min(ask.min_tokens, limit), limit)
                keys = self._keys(prompt, start, output)
                choice = Choice(exchange, index, start, limit)
                wanted = SimRequest(f"{self.asked}", tokens, output, keys, ask.priority)
                exchange.generations.append(self.engine.submit(wanted, now, choice))
        except QueueFull as error:
            self.drop(exchange)
            self.stats.rejections += 1
            raise errors.ApiError(503, "Service Unavailable", errors.BUSY) from error
        except DoesNotFit as error:
            self.drop(exchange)
            raise errors.too_long(self.context_length) from error

    def _keys(self, prompt: bytes, start: int, output: int) -> tuple[int, ...]:
        if not self.options.engine.prefix_caching:
            return ()
        answer = self.speaker.text(start, output).encode()
        return text.block_keys(prompt + answer, self.options.engine.block_size)

    def _draw(self, least: int, most: int) -> int:
        """An answer's length: log-normal, as chat answers are."""
        sigma = 0.8
        drawn = self.random.lognormvariate(math.log(self.options.mean_output) - sigma**2 / 2, sigma)
        return max(1, least, min(most, round(drawn)))

    def _on_step(self, step: Step) -> None:
        self.stats.observe(step, self.engine)
        for g in step.emitted:
            choice: Choice = g.tag
            choice.exchange.token(choice, g)
        for g in step.finished:
            choice = g.tag
            ask = choice.exchange.ask
            self.stats.finished(g, choice.reason(g), choice.limit, ask.copies)
            if choice.exchange.finished:
                self.exchanges.discard(choice.exchange)

    def _orca(self, form: str) -> str:
        """The load report a request's header asks for: JSON or TEXT, otherwise none."""
        gauges = self.stats.gauges
        values = {"num_requests_waiting": float(gauges.waiting), "kv_cache_usage_perc": gauges.kv_usage}
        if form.upper() == "JSON":
            inside = ", ".join(f'"{name}": {value!r}' for name, value in values.items())
            return f'JSON {{"named_metrics": {{{inside}}}}}'
        if form.upper() == "TEXT":
            return "TEXT " + ", ".join(f"named_metrics.{name}={value!r}" for name, value in values.items())
        return ""
