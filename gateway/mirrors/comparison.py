"""How the copies of a mirror answered, beside the requests they were copied from.

The idea: an answer is compared by what a rollout would be judged by, never by its text, which sampling makes another
one each time: the status, why it ended, how long it was, and how fast. Two lengths count as the same within a quarter
of the longer one, or `FEW` tokens. Speed is compared twice: as it was, and as observed over predicted on each side,
which leaves out that the two pools may not be equally fast or busy. Medians are over the last `KEPT` comparisons.

Left to others: sending the copies (`mirrors`), showing the counts (`admin`, `metrics`).
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from gateway.ask import Facts
from gateway.core.types import UNKNOWN
from gateway.records import RequestRecord

KEPT = 100
FEW = 8.0
NEAR = 0.25
SAME = "same"
BROKEN = 502


class Seen(NamedTuple):
    """How one side was answered. Seconds and tokens, NaN where unknown; `finish` "" where nothing was said.

    `status` is `BROKEN` for an answer that began well and broke.
    """

    status: int
    finish: str
    tokens: float
    ttft: float  # from its dispatch
    tpot: float
    predicted_ttft: float = UNKNOWN
    predicted_tpot: float = UNKNOWN

    @classmethod
    def of_record(cls, record: RequestRecord, finish: str) -> Seen:
        """The original."""
        forecast = record.predicted
        predicted = (UNKNOWN, UNKNOWN) if forecast is None else (forecast.ttft, forecast.tpot)
        status = record.status if record.ended == "complete" or record.status >= 400 else BROKEN
        return cls(status, finish, record.completion_tokens, record.ttft_there, record.tpot, *predicted)

    @classmethod
    def of_facts(cls, facts: Facts, status: int) -> Seen:
        """The copy."""
        meter = facts.relay.meter if facts.relay is not None else None
        forecast = facts.forecast
        predicted = (UNKNOWN, UNKNOWN) if forecast is None else (forecast.ttft, forecast.tpot)
        tokens = float(meter.tokens) if meter is not None else UNKNOWN
        return cls(status, meter.finish if meter is not None else "", tokens, facts.ttft_there, facts.tpot, *predicted)


class Compared(NamedTuple):
    """Two answers to one request. `differs` has the words of what is not the same: status, finish, length."""

    request_id: str
    at: float  # Unix time
    differs: tuple[str, ...]
    original: Seen
    copy: Seen

    @property
    def outcome(self) -> str:
        """`same`, or `differs_` and the first of what does."""
        return f"differs_{self.differs[0]}" if self.differs else SAME


def compare(request_id: str, at: float, original: Seen, copy: Seen) -> Compared:
    """Why they ended and their lengths say something only where both sides said yes."""
    if original.status != copy.status:
        return Compared(request_id, at, ("status",), original, copy)
    differs = []
    if original.status < 400:
        if original.finish and copy.finish and original.finish != copy.finish:
            differs.append("finish")
        longer, shorter = max(original.tokens, copy.tokens), min(original.tokens, copy.tokens)
        if longer - shorter > max(FEW, NEAR * longer):  # false where one is not known
            differs.append("length")
    return Compared(request_id, at, tuple(differs), original, copy)


class Tally:
    """What came of the requests of one mirror: `counts` by outcome, what differed how often, the last comparisons."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.differed: Counter[str] = Counter()
        self.last: deque[Compared] = deque(maxlen=KEPT)

    def add(self, compared: Compared) -> None:
        self.counts[compared.outcome] += 1
        self.differed.update(compared.differs)
        self.last.append(compared)

    def medians(self) -> dict[str, float | None]:
        """Of the last comparisons: times of the copy over those of the original, and each side's observed/predicted."""

        def of(figure: Callable[[Compared], float]) -> float | None:
            return _median(figure(one) for one in self.last)

        return {
            "ttft_ratio": of(lambda one: _over(one.copy.ttft, one.original.ttft)),
            "tpot_ratio": of(lambda one: _over(one.copy.tpot, one.original.tpot)),
            "tokens_ratio": of(lambda one: _over(one.copy.tokens, one.original.tokens)),
            "original_ttft_over_predicted": of(lambda one: _over(one.original.ttft, one.original.predicted_ttft)),
            "copy_ttft_over_predicted": of(lambda one: _over(one.copy.ttft, one.copy.predicted_ttft)),
            "original_tpot_over_predicted": of(lambda one: _over(one.original.tpot, one.original.predicted_tpot)),
            "copy_tpot_over_predicted": of(lambda one: _over(one.copy.tpot, one.copy.predicted_tpot)),
        }

    def view(self) -> dict[str, object]:
        """As JSON, the newest comparison first."""
        return {
            "outcomes": dict(self.counts),
            "differed": dict(self.differed),
            "medians": self.medians(),
            "last": [
                {"request_id": one.request_id, "at": one.at, "differs": list(one.differs),
                 "original": _shown(one.original), "copy": _shown(one.copy)}
                for one in reversed(self.last)
            ],
        }  # fmt: skip


def _shown(seen: Seen) -> dict[str, object]:
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in seen._asdict().items()}  # fmt: skip


def _over(value: float, of: float) -> float:
    return value / of if value > 0.0 and of > 0.0 else UNKNOWN


def _median(values: Iterable[float]) -> float | None:
    known = [value for value in values if math.isfinite(value)]
    return statistics.median(known) if known else None
