"""One HTTP request being answered: its generations, and what of them goes to the client when.

The idea: the engine's step says which generations have one token more; the choice behind each turns that into an
event of the stream, or waits for the end if the client wants one body. An exchange ends exactly once: answered, failed
by the engine, or left by the client, and then its generations are gone from the engine.
"""

from collections.abc import Callable, Mapping

from backends.sim.ask import Ask
from backends.sim.dialects import DONE, Answer, Dialect, Usage
from backends.sim.errors import ApiError
from backends.sim.generation import Generation, Phase
from backends.sim.http import Reply
from backends.sim.text import Speaker

SSE = {"content-type": "text/event-stream; charset=utf-8", "vary": "Origin"}


class Choice:
    """One generation's place in the answer. `start` is where its text begins, `limit` its `max_tokens`."""

    __slots__ = ("exchange", "index", "limit", "start")

    def __init__(self, exchange: "Exchange", index: int, start: int, limit: int) -> None:
        self.exchange = exchange
        self.index = index
        self.start = start
        self.limit = limit

    def reason(self, generation: Generation) -> str:
        """Why a finished generation ended."""
        return "length" if generation.generated >= self.limit else "stop"


class Exchange:
    """The answer to one request, choice by choice.

    `headers` are those every answer carries; `load` gives the ORCA header's value or nothing; `cut_after` (tokens)
    lets a fault end streams early through `cut`.
    """

    def __init__(
        self,
        ask: Ask,
        dialect: Dialect,
        reply: Reply,
        speaker: Speaker,
        headers: Mapping[str, str],
        load: Callable[[], str],
        path: str,
    ) -> None:
        self.ask = ask
        self.generations: list[Generation] = []
        self.cut_after = 0
        self.cut: Callable[[], None] = reply.cut
        self.finished = False
        self._dialect = dialect
        self._reply = reply
        self._speaker = speaker
        self._headers = headers
        self._load = load
        self._path = path
        self._answers: dict[int, Answer] = {}
        self._prompt_tokens = 0
        self._written = 0
        self._seen = 0

    def begin(self, prompt_tokens: int) -> None:
        """The engine has taken the request. A stream's head goes out now, whatever the queue."""
        self._prompt_tokens = prompt_tokens
        if self.ask.stream:
            self._reply.start(200, {**SSE, **self._headers})
            first = self._dialect.at_once()
            if first:
                self._reply.write(first)

    def token(self, choice: Choice, g: Generation) -> None:
        """A generation has one token more, and may be finished."""
        last = g.phase is Phase.FINISHED
        if last:
            text = self._speaker.text(choice.start, g.generated)
            self._answers[choice.index] = Answer(text, g.generated, choice.reason(g))
            self.finished = len(self._answers) == len(self.generations)
        if self.ask.stream:
            self._stream(choice, g, last)
        elif self.finished:
            self._send()

    def comment(self) -> None:
        """An SSE comment, if nothing was written since the last call: it keeps idle connections open."""
        if self.streaming and self._written == self._seen:
            self._reply.write(b": keep-alive\n\n")
        self._seen = self._written

    def fail(self, error: ApiError) -> None:
        """The engine died: an event and the usual end in a stream, a plain error otherwise."""
        if self.finished:
            return
        self.finished = True
        if self._reply.started:
            self._reply.end(error.event() + DONE)
        else:
            headers = {"content-type": "application/json", "vary": "Origin", **self._headers}
            self._reply.send(error.status, headers, error.body(self._path))

    def drop_connection(self, hard: bool) -> None:
        """Close the client's connection without an end; `hard`: with a reset."""
        if hard:
            self._reply.reset()
        else:
            self._reply.cut()

    @property
    def streaming(self) -> bool:
        """A stream whose head is out and whose end is not."""
        return self._reply.started and not self._reply.done

    def _stream(self, choice: Choice, g: Generation, last: bool) -> None:
        dialect, text = self._dialect, self._speaker.token(choice.start, g.generated - 1)
        usage = self._usage() if self.ask.usage_in_every_chunk else None
        data = dialect.opening(choice.index, self._usage(0)) if g.generated == 1 else b""
        if last:
            data += dialect.last(choice.index, text, choice.reason(g), usage)
        else:
            data += dialect.token(choice.index, text, usage)
        if self.finished:
            self._reply.end(data + dialect.closing(self._in_order(), self._usage()))
            return
        self._reply.write(data)
        self._written += 1
        if self.cut_after and self._written >= self.cut_after:
            self.cut()

    def _send(self) -> None:
        headers = {"content-type": "application/json", "vary": "Origin", **self._headers}
        report = self._load()
        if report:
            headers["endpoint-load-metrics"] = report
        self._reply.send(200, headers, self._dialect.body(self._in_order(), self._usage()))

    def _in_order(self) -> list[Answer]:
        return [self._answers[index] for index in sorted(self._answers)]

    def _usage(self, output: int | None = None) -> Usage:
        done = sum(g.generated for g in self.generations) if output is None else output
        cached = min(sum(g.cached_tokens for g in self.generations), self._prompt_tokens)
        return Usage(self._prompt_tokens, done, cached)
