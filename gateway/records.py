"""What is kept of one request after it has ended: the source of its log line, its metrics and its explanation."""

from __future__ import annotations

from typing import ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.core.grounds import Grounds
from gateway.core.reservation import Reservation
from gateway.core.types import UNKNOWN, Floats
from gateway.core.types import Forecast as CoreForecast

Table = npt.NDArray[np.float32]


class Forecast(msgspec.Struct, frozen=True, gc=False):
    """What is kept of a forecast when its request has ended. Seconds."""

    ttft: float
    ttft_low: float
    ttft_high: float
    tpot: float
    tpot_low: float
    tpot_high: float

    @classmethod
    def of(cls, full: CoreForecast) -> Forecast:
        """Without what only the predictor needs."""
        return cls(full.ttft, full.ttft_low, full.ttft_high, full.tpot, full.tpot_low, full.tpot_high)


class Candidates(msgspec.Struct, frozen=True, gc=False):
    """The table a pick was made from: one entry per candidate, copied when the decision was made.

    `ids` are endpoint ids; `columns` has the rows (requests, tokens, prefill, kv_used, age) of float32, NaN where
    unknown, and then one for each of `terms`: what the policy made its scores from, by the policy's own names. `scores`
    is what the policy compared (None where it compares nothing). Where there were more candidates than are kept,
    `left_out` counts those dropped (the worst scored ones).
    """

    ids: tuple[str, ...]
    columns: Table
    scores: Floats | None
    left_out: int = 0
    terms: tuple[str, ...] = ()

    NAMES: ClassVar[tuple[str, ...]] = ("requests", "tokens", "prefill", "kv_used", "age")


class Stretch(msgspec.Struct, frozen=True, gc=False):
    """A stream after its first token: what was in the engine meanwhile, as the predictor's books have it.

    `seconds` for `steps` iterations, on average so many sequences `decoding` and reading so many tokens of `context`;
    `tokens1` to `tokens3` are prompt tokens that were worked off beside it, up to the first knee of an iteration's
    tokens, between `knee1` and `knee2`, and beyond; `pairs` is the attention work of those, in pairs of tokens.
    """

    seconds: float
    steps: float
    decoding: float
    context: float
    tokens1: float
    tokens2: float
    tokens3: float
    pairs: float
    knee1: float
    knee2: float


class Work(msgspec.Struct, frozen=True, gc=False):
    """What a stream's engine had to do for it, where a predictor kept books: of this a profile can be fitted.

    At the dispatch: seconds of `rest` of the running iteration, prompt tokens to do before its first token (`tokens`,
    of which `own` are its own, of a prompt of `prompt`, as estimated then), their attention in `pairs` of tokens,
    sequences `decoding` and the tokens of `context` that they read. `kv_tokens`: what the endpoint's KV cache holds.
    """

    rest: float
    tokens: float
    decoding: float
    context: float
    pairs: float
    own: float
    prompt: float
    kv_tokens: float = UNKNOWN
    after: Stretch | None = None

    @classmethod
    def of(cls, reservation: Reservation) -> Work | None:
        """None for a plain answer, whose first token nobody saw, and where nothing was predicted."""
        f = reservation.forecast
        if f is None or not reservation.stream:
            return None
        after = None if reservation.stretch is None else Stretch(*reservation.stretch)
        return cls(f.rest, f.tokens, f.decoding, f.context, f.pairs, reservation.uncached, reservation.prompt,
                   reservation.fleet.kv_capacity.item(reservation.row), after)  # fmt: skip


class Admission(msgspec.Struct, frozen=True, gc=False):
    """How a request was admitted, where it did not just go: what it waited for, first to last (`core.grounds`).

    `displaced`: how often it was taken off an endpoint to make room; `closed`: the endpoints that filler could not go
    to, and why. Of a refusal: `why`, in words, the figures behind them, and after how many seconds to come back.
    """

    waited_for: tuple[str, ...]
    displaced: int = 0
    closed: tuple[tuple[str, str], ...] = ()
    why: str = ""
    grounds: Grounds | None = None
    retry_after: float = UNKNOWN


class Routed(msgspec.Struct, frozen=True, gc=False):
    """What routing looked at and what it said: with it a decision can be made again, by this file or by another.

    `asked`: the model as the client spelt it. `headers`: those that rules look at, by lower-case name; absent ones are
    not there. `key`: `sha256:` and the digest of the client's key, "" without keys. `klass`: the class it asked for.
    `session` and `user` are hashes; `user` is that of the identity which the arm was drawn by, "" where it was not.
    `drawn`: the number between 0 and 1 that chose the arm (NaN: there was nothing to choose, or it was `forced`), and
    `share`: the canary's then (NaN: none). `prompt_tokens`: as estimated then; `limit`: the most tokens that the client
    allowed. `pools`: where it might go, in order (none: it was refused before); `shadowed`: rules that would have taken
    it.
    """

    asked: str
    rule: str
    arm: str
    drawn: float
    share: float
    forced: bool
    pools: tuple[str, ...]
    path: str
    key: str = ""
    klass: str = ""
    session: str = ""
    user: str = ""
    headers: dict[str, str] = {}
    prompt_tokens: float = UNKNOWN
    limit: int | None = None
    shadowed: tuple[str, ...] = ()


class RequestRecord(msgspec.Struct, frozen=True, gc=False):
    """One request from its last byte in to its last byte out. Seconds, tokens; NaN or "" where it never came to it.

    `model`, `pool`, `arm`, `klass`, `tenant` are names of the configuration ("" when none was reached), never what
    a client invented. `ended` is one of types.ENDINGS, or "rejected" when no try was made. `ttft` counts from the
    arrival of the request's last byte, `ttft_there` from the dispatch of the last try; `tpot` is the mean gap between
    tokens after the first. What was `predicted` for that try is `ttft_there` and `tpot`, each with an interval that
    should hold 90 %; `work` is what it had to be predicted from, and learnt from. `admission` is None where it went at
    once; `finish` is why the engine stopped writing, in its own word.
    """

    request_id: str
    at: float  # Unix time of arrival, for people; everything else is on the monotonic clock
    status: int
    ended: str
    method: str = "POST"
    path: str = ""
    model: str = ""
    pool: str = ""
    arm: str = ""
    klass: str = "interactive"
    tenant: str = ""
    stream: bool = False
    endpoint: str = ""
    policy: str = ""
    reason: str = ""
    code: str = ""
    tries: int = 0
    queued: float = 0.0
    overhead: float = UNKNOWN
    ttft: float = UNKNOWN
    ttft_there: float = UNKNOWN
    tpot: float = UNKNOWN
    duration: float = 0.0
    ttft_slo: float = UNKNOWN
    tpot_slo: float = UNKNOWN
    predicted: Forecast | None = None
    work: Work | None = None
    prompt_tokens: float = UNKNOWN
    cached_tokens: float = UNKNOWN
    completion_tokens: float = UNKNOWN
    finish: str = ""
    bytes_in: int = 0
    bytes_out: int = 0
    seed: int = 0
    candidates: Candidates | None = None
    admission: Admission | None = None
    route: Routed | None = None
