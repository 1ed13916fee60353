"""What is in our hands: claims, how far each has come, and how many of a kind there are.

Left to others: everything that is done with them (`dispatcher`).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from typing import Literal, Protocol

from gateway.jobs.model import Claim

State = Literal["parked", "in_line", "sent", "done"]
PARKED: State = "parked"  # waits here, for a gate
IN_LINE: State = "in_line"  # waits for its turn, as all requests do
SENT: State = "sent"
DONE: State = "done"  # only its record is still to be written
Kind = tuple[str, str]  # class and model


class Held:
    """A claim in our hands, `since` when (wall clock). `klass`: what it runs as."""

    __slots__ = ("claim", "is_hurried", "is_lost", "klass", "since", "state", "task")

    def __init__(self, claim: Claim):
        self.claim = claim
        self.since = time.time()
        self.klass = claim.klass
        self.state: State = IN_LINE
        self.is_lost = False  # somebody else's by now, or ended: nothing is written about it
        self.is_hurried = False
        self.task: asyncio.Task[None] | None = None

    @property
    def kind(self) -> Kind:
        return self.claim.klass, self.claim.model

    @property
    def is_promoted(self) -> bool:
        return self.klass != self.claim.klass

    def hurry(self) -> None:
        """Take it out of the line that it stands in, so that it goes to another one."""
        if self.task is not None and not self.is_hurried:
            self.is_hurried = True
            self.task.cancel()

    def uncancel(self) -> None:
        """It goes on after a cancel that was none."""
        if self.task is not None:
            self.task.uncancel()


class Observer(Protocol):
    """Is told how a piece of work went: `completed`, `failed`, `retried`, `put_off`, `displaced`, `late`, `stopped`."""

    def __call__(self, held: Held, how: str, at: float) -> None: ...


class Hands:
    """All of them. An item may be here twice: its lease was lost, and the work on that claim has not stopped yet."""

    def __init__(self) -> None:
        self._all: set[Held] = set()
        self._count: Counter[tuple[Kind, State]] = Counter()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Held]:
        return iter(tuple(self._all))

    def running(self, kind: Kind) -> int:
        """Pieces of work that had their turn and have not ended."""
        return self._count[kind, SENT]

    def waiting(self, kind: Kind) -> int:
        """Pieces of work that wait for their turn; those at a gate do not."""
        return self._count[kind, IN_LINE]

    def of(self, kind: Kind) -> int:
        return sum(self.by_state(kind).values())

    def by_state(self, kind: Kind) -> dict[str, int]:
        return {state: self._count[kind, state] for state in (PARKED, IN_LINE, SENT, DONE)}

    def take(self, claim: Claim) -> Held:
        held = Held(claim)
        self._all.add(held)
        self._count[held.kind, held.state] += 1
        self.bytes += len(claim.body)
        return held

    def move(self, held: Held, state: State) -> None:
        self._count[held.kind, held.state] -= 1
        held.state = state
        self._count[held.kind, state] += 1

    def send(self, held: Held) -> None:
        """It has had its turn. A further try of the same request is no new turn."""
        if held.state == IN_LINE:
            self.move(held, SENT)

    def drop(self, held: Held) -> None:
        self._all.discard(held)
        self._count[held.kind, held.state] -= 1
        self.bytes -= len(held.claim.body)
