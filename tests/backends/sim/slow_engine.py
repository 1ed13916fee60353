"""The schedule of the simulated engine once more, slowly: every token, block and sequence is looked at in every
iteration, and nothing is remembered that could be counted again. Written to be read, and to check the fast one with."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from random import Random

from backends.sim.engine import EngineOptions
from backends.sim.generation import SimRequest
from backends.sim.profiles import Profile


@dataclass(eq=False)
class Block:
    """A block of the cache: its content, if others may find it, and how many sequences use it."""

    content: Hashable | None = None
    users: int = 0


@dataclass(eq=False)
class Sequence:
    """A request: the blocks it uses, how many of them it has shown to others, and its tokens."""

    request: SimRequest
    serial: int = 0
    blocks: list[Block] = field(default_factory=list)
    shown: int = 0
    computed: int = 0
    out: int = 0
    decoding: bool = False
    started: bool = False
    chunk: int = 0  # tokens of it in the iteration under way

    @property
    def rank(self) -> tuple[int, int]:
        return self.request.priority, self.serial

    @property
    def wanted(self) -> int:
        """Tokens to compute before the next one comes out."""
        return self.request.prompt_tokens + self.out

    def content(self, block: int) -> Hashable:
        keys = self.request.keys
        return keys[block] if block < len(keys) else (self, block)


@dataclass
class Event:
    """What one step did; sequences by their id."""

    at: float
    tokens: int = 0
    emitted: list[str] = field(default_factory=list)
    first: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    paced: list[str] = field(default_factory=list)
    preempted: list[str] = field(default_factory=list)
    started: list[str] = field(default_factory=list)


class SlowEngine:
    """Iterations of vLLM's scheduler. `step` ends the one under way, if there is one, and starts the next."""

    def __init__(self, profile: Profile, options: EngineOptions, random: Random) -> None:
        self.profile, self.options, self.random = profile, options, random
        self.size = options.block_size
        self.unused = [Block() for _ in range(options.kv_tokens // self.size)]  # in the order in which they go
        self.known: dict[Hashable, Block] = {}
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.hits = self.serial = 0
        self.under_way = 0  # tokens
        self.ends_at: float | None = None

    def submit(self, request: SimRequest) -> None:
        self.serial += 1
        self.waiting.append(Sequence(request, self.serial))
        if self.options.by_priority:
            self.waiting.sort(key=lambda s: s.rank)

    def abort(self, name: str) -> None:
        for queue in (self.waiting, self.running):
            for s in [s for s in queue if s.request.id == name]:
                queue.remove(s)
                self.give_back(s)

    def step(self, now: float) -> Event:
        event = Event(now)
        if self.ends_at is not None:
            event.tokens = self.under_way
            self.end(event)
        self.start(event)
        return event

    def end(self, event: Event) -> None:
        for s in list(self.running):
            s.computed += s.chunk
            if s.computed < s.wanted:
                continue
            s.out += 1
            s.decoding = True
            name = s.request.id
            event.emitted.append(name)
            if s.out == 1:
                event.first.append(name)
            elif (s.out - 1) % 16 == 0:
                event.paced.append(name)
            if s.out == s.request.output_tokens:
                event.finished.append(name)
        for s in [s for s in self.running if s.request.id in event.finished]:
            self.running.remove(s)
            self.show(s, s.computed)
            self.give_back(s)

    def start(self, event: Event) -> None:
        budget = self.options.max_batched_tokens
        given: list[Sequence] = []  # who has got its share of this iteration
        for s in list(self.running):
            if s not in self.running:
                continue  # it lost its place to another
            s.chunk = min(budget, s.wanted - s.computed)
            fits = s.computed + s.chunk <= len(s.blocks) * self.size
            while self.missing(s) > len(self.unused):
                latest = max(self.running, key=lambda s: s.rank) if self.options.by_priority else self.running[-1]
                self.running.remove(latest)
                self.give_back(latest)
                if latest is not s and latest in given:
                    budget += latest.chunk
                latest.computed = latest.chunk = 0
                latest.decoding = False
                event.preempted.append(latest.request.id)
                self.waiting.insert(0, latest)
                if self.options.by_priority:
                    self.waiting.sort(key=lambda s: s.rank)
                if latest is s:
                    break
            if s in self.running:
                budget -= s.chunk
                given.append(s)
                self.take(s)
                if not fits:
                    self.show(s, s.computed if s.decoding else s.computed + s.chunk)
        if not event.preempted:
            self.let_in(event, budget)
        self.time(event)

    def let_in(self, event: Event, budget: int) -> None:
        while self.waiting and budget and len(self.running) < self.options.max_seqs:
            s = self.waiting[0]
            found = self.find(s)
            available = len([b for b in self.unused if b not in found])
            if -(-s.wanted // self.size) - len(found) > available:
                return
            self.waiting.pop(0)
            self.running.append(s)
            for block in found:
                if not block.users:
                    self.unused.remove(block)
                block.users += 1
            s.blocks, s.shown, s.computed = found, len(found), len(found) * self.size
            self.hits += s.computed
            if not s.started:
                s.started = True
                event.started.append(s.request.id)
            s.chunk = min(budget, s.wanted - s.computed)
            budget -= s.chunk
            self.take(s)
            self.show(s, s.computed + s.chunk)

    def time(self, event: Event) -> None:
        decodes = [s for s in self.running if s.decoding]
        prompts = [s for s in self.running if not s.decoding]
        self.under_way = sum(s.chunk for s in self.running)
        if not self.running:
            self.ends_at = None
            return
        seconds = self.profile.seconds(
            self.under_way,
            sum(s.chunk * (s.computed + s.chunk / 2) for s in prompts),
            sum(s.computed for s in prompts),
            len(prompts),
            len(decodes),
            sum(s.computed + 1 for s in decodes),
        )
        if noise := self.options.noise:
            seconds *= self.random.lognormvariate(-(noise**2) / 2, noise)
        self.ends_at = event.at + seconds

    # -- blocks

    def find(self, s: Sequence) -> list[Block]:
        found: list[Block] = []
        while self.options.prefix_caching and (len(found) + 1) * self.size < s.wanted:
            block = self.known.get(s.content(len(found)))
            if block is None:
                break
            found.append(block)
        return found

    def missing(self, s: Sequence) -> int:
        return max(0, -(-(s.computed + s.chunk) // self.size) - len(s.blocks))

    def take(self, s: Sequence) -> None:
        for _ in range(self.missing(s)):
            block = self.unused.pop(0)
            self.known.pop(block.content, None)
            s.blocks.append(Block(users=1))

    def show(self, s: Sequence, tokens: int) -> None:
        while self.options.prefix_caching and s.shown < tokens // self.size:
            content, block = s.content(s.shown), s.blocks[s.shown]
            if content not in self.known:
                block.content = content
                self.known[content] = block
            s.shown += 1

    def give_back(self, s: Sequence) -> None:
        for block in reversed(s.blocks):
            block.users -= 1
            if block.users:
                continue
            if block.content is None:
                self.unused.insert(0, block)
            else:
                self.unused.append(block)
        s.blocks, s.shown = [], 0
