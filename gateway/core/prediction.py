"""What the predictor speaks in: what is believed beforehand, what is predicted, how good it has been."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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


@dataclass(slots=True)
class Prediction:
    """One value per candidate, in seconds: see `Predictor.predict`. `batch` counts sequences decoding or waiting."""

    ttft: Floats
    tpot: Floats
    tpot_now: Floats
    work: Floats
    batch: Floats
    rho: Floats
    rows: Rows
    rest: Floats
    rounds: Floats
    tokens: Floats
    pairs: Floats
    decoding: Floats
    context: Floats
    pace_now: Floats
    pace_level: float
    prompt: float
    waits: Floats | None = None


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
