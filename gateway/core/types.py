"""The nouns: small frozen values that every floor speaks of.

Times are seconds (float) on one monotonic clock, sizes are bytes, lengths are tokens. A figure that is not
known is NaN, never zero: zero would make a server that cannot be seen look like an idle one.

What is made anew for every request is a named tuple: frozen too, and a quarter of the price of a frozen dataclass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

UNKNOWN = math.nan

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One running model server. `url` has no trailing slash; `id` is unique within its pool."""

    id: str
    url: str
    pool: str
    engine: str
    models: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    max_concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """What an endpoint said of itself at `at`. Counts are requests, `kv_used` is a share 0..1."""

    at: float
    waiting: float = UNKNOWN
    running: float = UNKNOWN
    kv_used: float = UNKNOWN
    kv_capacity: float = UNKNOWN  # tokens
    prompt_tokens: float = UNKNOWN  # counter since the engine's start
    cached_tokens: float = UNKNOWN  # the part of prompt_tokens that the prefix cache held


class Request(NamedTuple):
    """What routing and picking may know of one request.

    `prompt` is the raw JSON of the prompt (messages, prompt or input) as the client sent it; prefix hashes are
    made from it on demand. `prompt_tokens` and `output_tokens` are estimates until the engine tells.
    """

    id: str
    model: str
    arrived: float
    prompt: bytes = b""
    prompt_tokens: float = 1.0
    output_tokens: float = 1.0
    stream: bool = False
    session: str = ""
    tenant: str = "anonymous"
    klass: str = "interactive"
    ttft_slo: float = UNKNOWN  # seconds that are promised for the first token; NaN: nothing is
    tpot_slo: float = UNKNOWN  # seconds per token after it
    may_wait: bool = True  # False: the choice that is made now will be taken
    deadline: float = UNKNOWN  # when the answer must be whole; NaN: whenever
    filler: bool = False  # fills what others leave, and gives way to them
    needs: str = ""  # the model as its endpoint must know it; "": whichever they serve


class Forecast:
    """What was predicted for one request on the endpoint it was sent to. Seconds; the intervals hold 90 %.

    `ttft` counts from the dispatch to the first token, `tpot` is the mean gap between tokens after it. The rest is what
    the predictor learns from: what was said before its own corrections (`ttft_base`, `tpot_base`) and in which regime,
    the quantities it was made of, the seconds to wait for the running iteration (`rest`), the prefill work (seconds),
    the pace there then and on average in the pool.
    """

    __slots__ = ("context", "decoding", "features", "pace_level", "pace_now", "pace_regime", "pairs", "regime", "rest",
                 "tokens", "tpot", "tpot_base", "tpot_high", "tpot_low", "ttft", "ttft_base", "ttft_high", "ttft_low",
                 "waits", "work")  # fmt: skip

    ttft: float
    ttft_low: float
    ttft_high: float
    ttft_base: float
    tpot: float
    tpot_low: float
    tpot_high: float
    tpot_base: float
    regime: int
    pace_regime: int
    features: tuple[float, ...]
    rest: float
    waits: bool
    work: float
    tokens: float
    decoding: float
    context: float
    pairs: float
    pace_now: float
    pace_level: float


def nothing() -> None:
    """For a policy that remembers nothing of where it sent a request."""


class Decision(NamedTuple):
    """A policy's answer: `row` is a fleet row, `reason` is for a log reader.

    `scores` holds what was compared, one value per candidate of the snapshot, lower is better (None where the
    policy compares nothing); `cached_tokens` is how much of the prompt the endpoint probably holds already.
    `forecast` is what was predicted for the chosen one, by a policy that predicts; `terms` is its table for the record,
    of shape (len(policy.TERMS), candidates). `wait` > 0 says that a choice made later, up to so many seconds from now,
    is expected to be better; who cannot wait takes this one, and says so beforehand with `Request.may_wait`.
    `taken` is to be called when the request goes there: what the policy then remembers. Many choices come to nothing,
    since the request waits or is refused, and of those it remembers nothing.
    """

    row: int
    reason: str
    scores: Floats | None = None
    cached_tokens: float = 0.0
    forecast: Forecast | None = None
    terms: Floats | None = None
    wait: float = 0.0
    taken: Callable[[], None] = nothing


class Outcome(NamedTuple):
    """How one try ended. `ended` is one of ENDINGS; times are seconds from the dispatch of this try.

    `output_tokens` is the length of one answer: the mean, where several were asked for.
    """

    request: Request
    endpoint: Endpoint
    row: int
    status: int
    ended: str
    duration: float
    ttft: float = UNKNOWN
    prompt_tokens: float = UNKNOWN
    cached_tokens: float = UNKNOWN
    output_tokens: float = UNKNOWN


ENDINGS = ("complete", "client_gone", "upstream_failed", "saturated", "timeout", "error_event", "cancelled")
