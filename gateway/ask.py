"""One request on its way: what was asked, as the front made it, and what happens to it, as the proxy notes it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.config.types import Key, Model
from gateway.core.errors import UpstreamError
from gateway.core.types import UNKNOWN, Forecast, Request
from gateway.grants import Grant
from gateway.records import Candidates
from gateway.relay import Relay
from policies.routing import Asked, Way

if TYPE_CHECKING:
    from gateway.captures.captures import Taking
    from gateway.mirrors.mirrors import Copy


@dataclass(slots=True)
class Ask:
    """One checked request on its way, as the front made it; ready bytes where bytes are needed."""

    request: Request
    model: Model
    client_model: str
    upstream_model: str
    target: bytes  # path and query as they go upstream
    fields: bytes  # forwardable request header lines
    body: bytes
    error_event: Callable[[UpstreamError], bytes]
    received: float  # monotonic, when the last byte of the request had come
    inject_usage: Callable[[bytes], bytes] | None  # None where the client asked for usage itself, or nobody may
    route: str  # the path it came on: answers on one are alike
    answers: int  # how many it asked for (`n`)
    limit: int | None  # the most tokens of an answer, where the client said
    key: Key
    generates: bool  # whether its answer is written token by token
    asked: Asked  # what routing was asked
    way: Way  # and what it said: where this request may go, and which arm it is on
    share: float  # of the canary beside which its arm was drawn; NaN: none
    looked_at: frozenset[str]  # the headers that routing depends on
    asked_class: str  # "" where it asked for none
    grant: Grant | None = None  # what its tenant's limits let through; None: there are none
    reply_fields: bytes = b""  # header lines for its answer


class Facts:
    """What happened to a request, noted while it happens; its record is made from this. Seconds, NaN where unknown."""

    tries = 0
    pool = ""
    endpoint = ""
    policy = ""
    reason = ""
    ended = "rejected"
    queued = 0.0
    aborted = 0  # how often it had a place as filler and was taken off it
    waited_for: tuple[str, ...] = ()  # words of `core.grounds`
    closed: tuple[tuple[str, str], ...] = ()  # endpoints that it could not have as filler, and why
    overhead = UNKNOWN
    ttft = UNKNOWN
    ttft_there = UNKNOWN  # from the dispatch of the last try; what its forecast is about
    tpot = UNKNOWN
    forecast: Forecast | None = None  # of the last try, where the policy predicts
    relay: Relay | None = None
    candidates: Candidates | None = None
    tried: tuple[str, ...] = ()
    on_turn: Callable[[], Awaitable[None]] | None = None  # of a job: called when it has its place; may refuse it
    stays = False  # its answer is streamed to a client: once that has begun it cannot be begun again
    is_copy = False  # of another request: nothing is learnt from it of what a model's answers are like
    copy: Copy | None = None  # what its mirror sends
    taking: Taking | None = None  # what is captured of it
    is_missed = False  # its arm's servers were not there for it, and its canary's judge was told
    raced = False  # a reused connection closed under it: repeated once, and only once

    def note_wait(self, lacked: tuple[str, ...]) -> None:
        """It waited for these, whatever it had waited for before."""
        self.waited_for = (*self.waited_for, *(what for what in lacked if what not in self.waited_for))
