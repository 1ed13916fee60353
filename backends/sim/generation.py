"""The values an engine works on: what is asked for, what is being generated, what one step did, what is refused.

They are kept apart from the scheduler so that a server, a replay and a test can name them without it.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any


class QueueFull(Exception):
    """`max_queued` requests are in the engine already; nothing was changed."""


class DoesNotFit(ValueError):
    """The request could never be held in the KV cache, or asks for nothing."""


@dataclass(frozen=True, slots=True)
class SimRequest:
    """A prompt to answer: lengths in tokens, and the keys of its full blocks.

    `keys[i]` stands for block `i` and everything before it, so equal keys mean equal prefixes. Keys may go on into
    the answer (for those who know it beforehand); blocks without a key are never shared. The lower `priority` goes
    first, in an engine that schedules by it.
    """

    id: str
    prompt_tokens: int
    output_tokens: int
    keys: Sequence[Hashable] = ()
    priority: int = 0


class Phase(Enum):
    """Where a generation is. waiting -> running -> finished, running -> waiting (preempted), any -> aborted."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    ABORTED = "aborted"


class Clock:
    """Counts the iterations of an engine that have ended."""

    __slots__ = ("iteration",)

    def __init__(self) -> None:
        self.iteration = 0


class Generation:
    """One request inside an engine. Readable by anyone; only the engine writes, but for `tag` and
    `last_token_at`, which are the caller's own.

    While it decodes it has one token more with every iteration, so its counts are read off the engine's clock.
    """

    __slots__ = (
        "_clock",
        "_output",
        "alone",
        "arrived_at",
        "blank",
        "cached_tokens",
        "computed",
        "first_token_at",
        "id",
        "keys",
        "last_token_at",
        "named",
        "names",
        "output_tokens",
        "phase",
        "preemptions",
        "priority",
        "prompt_tokens",
        "room",
        "serial",
        "started_at",
        "tag",
    )

    def __init__(self, request: SimRequest, serial: int, now: float, tag: Any = None) -> None:
        self.id = request.id
        self.serial = serial  # unlike the id never used twice by one engine
        self.prompt_tokens = request.prompt_tokens
        self.output_tokens = request.output_tokens
        self.keys = request.keys
        self.priority = request.priority
        self.tag = tag
        self.phase = Phase.WAITING
        self.arrived_at = now
        self.started_at = -1.0  # first scheduled
        self.first_token_at = -1.0
        self.last_token_at = -1.0  # kept by whoever measures the gaps between tokens
        self.cached_tokens = 0  # of the prompt, when first scheduled
        self.preemptions = 0
        self.computed = 0  # tokens in the KV cache, unless it decodes
        self.names: list[Hashable] = []  # keys of the blocks held that others may find
        self.named = 0  # leading blocks whose content was offered to the cache
        self.alone = False  # all content from here on is its own, and offered without asking
        self.blank = 0  # blocks held that nobody else can find
        self.room = 0  # tokens the held blocks have room for
        self._clock: Clock | None = None  # while it decodes
        self._output = 0  # tokens out; while it decodes less the iterations on the clock

    @property
    def generated(self) -> int:
        """Tokens out so far."""
        clock = self._clock
        return self._output if clock is None else self._output + clock.iteration

    @property
    def goal(self) -> int:
        """Tokens to have in the KV cache before the next one comes out."""
        return self.prompt_tokens + self.generated

    @property
    def rank(self) -> tuple[int, int]:
        """Its place among all, for an engine that schedules by priority: the lowest goes first and stays longest."""
        return self.priority, self.serial

    @property
    def decoding(self) -> bool:
        """Its prompt is done, and it is in every iteration."""
        return self._clock is not None

    @property
    def position(self) -> int:
        """Tokens in the KV cache."""
        return self.computed if self._clock is None else self.goal - 1

    def emit(self) -> int:
        """Put out a token behind a prompt that is done; returns how many are out now."""
        self._output += 1
        return self._output

    def decode(self, clock: Clock) -> None:
        """From now on one token comes out with every iteration on `clock`."""
        self._output -= clock.iteration
        self._clock = clock

    def rest(self) -> None:
        """No more tokens come out by themselves."""
        self.computed, self._output = self.position, self.generated
        self._clock = None


@dataclass(slots=True)
class Step:
    """What one step did. `emitted` holds every generation that put out one token at `at`, first tokens included;
    `paced` those among them whose output after the first token has become a multiple of 16."""

    at: float
    seconds: float  # of the iteration that ended; 0 if none did
    tokens: int  # new tokens it processed
    running: int  # sequences after it, before the next one was scheduled
    waiting: int
    emitted: Sequence[Generation]
    first: list[Generation]
    finished: list[Generation]
    preempted: list[Generation]  # by the schedule of the next iteration
    started: list[Generation]  # left the queue for the first time
    paced: list[Generation]
