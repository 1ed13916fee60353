"""What the predictor speaks in: what is believed beforehand, what is predicted, how good it has been."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.core.books import RECENT
from gateway.core.sheet import Sheet
from gateway.core.types import Floats, Rows


@dataclass(frozen=True, slots=True)
class Prior:
    """What is believed of an engine before its first answer. Seconds per unit (see prices.NAMES), tokens.

    The defaults stand for no GPU in particular: about a model of 8 billion parameters on a card of 2021. `chunk` 0: the
    token budget of an iteration is to be found out. `sure`: the prices belong to this very GPU and model.
    """

    overhead: float = 0.012
    base: float = 0.012
    decode: float = 3.0e-5
    context: float = 8.0e-8
    slope1: float = 1.5e-5
    slope2: float = 3.0e-5
    slope3: float = 4.0e-5
    pair: float = 2.0e-9
    knee1: float = 128.0
    knee2: float = 512.0
    chunk: float = 0.0
    kv_tokens: float = 0.0
    sure: bool = False


class Prediction:
    """For each candidate, in seconds: see `Predictor.predict`. Good until the predictor is asked for the next one.

    `sheet` has what was worked out. A pace there now is `lasting` for an answer's life as far as it differs from the
    pool's mean, `level` (without this request) or `level_after`; the properties say what comes of that. `waits`: for
    room in the KV cache, which is in `ttft`; None where all have room.
    """

    __slots__ = ("lasting", "level", "level_after", "prompt", "rows", "sheet", "waits")

    def __init__(self, sheet: Sheet, rows: Rows, prompt: float, lasting: float, level: float, level_after: float,
                 waits: Floats | None = None):  # fmt: skip
        self.sheet, self.rows, self.prompt = sheet, rows, prompt
        self.lasting, self.level, self.level_after = lasting, level, level_after
        self.waits = waits

    @property
    def ttft(self) -> Floats:
        """Until the first token."""
        return self.sheet.ttft

    @property
    def tpot_now(self) -> Floats:
        """Between tokens after that, without this request."""
        return self._evened(self.sheet.paced[0], self.level)

    @property
    def tpot(self) -> Floats:
        """Between tokens after that, with it."""
        return self._evened(self.sheet.paced[1], self.level_after)

    def _evened(self, paced: Floats, level: float) -> Floats:
        return level + self.lasting * (paced - level)

    @property
    def work(self) -> Floats:
        """Of prefill, that this prompt costs."""
        return self.sheet.work

    @property
    def batch(self) -> Floats:
        """Sequences that decode or wait."""
        return self.sheet.batch

    @property
    def rho(self) -> Floats:
        """The share of time that prefill takes."""
        return 1.0 - self.sheet.free_now / RECENT

    @property
    def rest(self) -> Floats:
        """Until the running iteration ends."""
        return self.sheet.left * self.sheet.iteration


@dataclass(frozen=True, slots=True)
class PredictorReport:
    """How good the predictions of a pool have been lately: shares, not per cents. `paces` by row; 2 is half as fast."""

    ttft_error: float
    ttft_coverage: float
    tpot_error: float
    tpot_coverage: float
    calibrated: bool
    samples: int
    paces: Mapping[int, float] = field(default_factory=dict)
