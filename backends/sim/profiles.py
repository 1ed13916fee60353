"""How long one iteration of an engine takes, for a named GPU, model and precision.

The idea: an iteration reads the weights once (`base`), multiplies them with its tokens (flat while memory-bound,
then linear: two knees, three slopes), lets each prefill chunk attend to what is before it (`pair`, `prefix`) and
each decode read its context (`ctx`); scheduling and sampling come on top (`overhead`). The coefficients were fitted
to public measurements; the figures, their sources and licences are in `profiles.json` beside this file. Which
sequences are in an iteration is the engine's business.
"""

import difflib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("profiles.json")


class UnknownProfile(ValueError):
    """A profile name that is not in the table; the message lists close ones."""


@dataclass(frozen=True, slots=True)
class Profile:
    """One GPU, model and precision. Coefficients in milliseconds per unit, lengths in tokens."""

    name: str
    gpu: str
    model: str
    precision: str
    tp: int
    engine: str
    source: str
    kind: str
    base: float
    knee1: int
    knee2: int
    slope1: float
    slope2: float
    slope3: float
    pair: float
    prefix: float
    seq: float
    ctx: float
    overhead_iter: float
    overhead_seq: float
    kv_tokens: int
    context_length: int
    mape_prefill: float
    mape_decode: float

    def seconds(self, tokens: int, pairs: float, prefix: int, chunks: int, decodes: int, context: int) -> float:
        """Seconds of one iteration.

        `tokens`: new tokens of chunks and decodes together; `pairs`: sum over chunks of p * (k + p / 2), p new tokens
        behind k cached ones; `prefix`: sum of k; `chunks`, `decodes`: sequences; `context`: tokens the decodes read.
        """
        ms = self.base + self.seq * decodes + self.ctx * context + self.pair * pairs + self.prefix * prefix
        if tokens <= self.knee1:
            ms += self.slope1 * tokens
        elif tokens <= self.knee2:
            ms += self.slope1 * self.knee1 + self.slope2 * (tokens - self.knee1)
        else:
            ms += self.slope1 * self.knee1 + self.slope2 * (self.knee2 - self.knee1)
            ms += self.slope3 * (tokens - self.knee2)
        return (ms + self.overhead_iter + self.overhead_seq * (chunks + decodes)) * 1e-3


@cache
def _table() -> dict[str, Profile]:
    rows = json.loads(FILE.read_text(encoding="utf-8"))["profiles"]
    return {name: Profile(name=name, **row) for name, row in rows.items()}


def names() -> list[str]:
    """All profile names, in the table's order."""
    return list(_table())


def profile(name: str) -> Profile:
    """The profile called `name`. Raises UnknownProfile, with close names, if there is none."""
    table = _table()
    if name in table:
        return table[name]
    close = [known for known in table if name and name.lower() in known][:5]
    close = close or difflib.get_close_matches(name, table, n=3, cutoff=0.4) or list(table)
    raise UnknownProfile(f"unknown profile {name!r}; close names: {', '.join(close)}")
