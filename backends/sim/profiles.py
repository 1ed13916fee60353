"""How long one iteration of an engine takes, for a named GPU, model and precision.

The idea: an iteration reads the weights once (`base`), multiplies them with its tokens (flat while memory-bound,
then linear: two knees, three slopes), lets each prefill chunk attend to what is before it (`pair`, `prefix`) and
each decode read its context (`ctx`); scheduling and sampling come on top (`overhead`). The coefficients were fitted
to public measurements; the figures, their sources and licences are in `profiles.json` beside this file. Which
sequences are in an iteration is the engine's business.

Somebody's own GPU is a file with one such entry, as `headway lab calibrate` writes it; its path stands for a name.
"""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("profiles.json")


SUFFIX = ".json"  # of a file with a profile
MOST = 1e9  # of any figure in it
ROUNDED = 1e-6  # milliseconds: what two figures may be wrong by together
_COMMENTS = ("about",)
_MAY_BE_LEFT_OUT: Mapping[str, object] = {
    "gpu": "", "model": "", "precision": "", "tp": 1, "engine": "", "source": "", "kind": "", "prefix": 0.0,
    "overhead_iter": 0.0, "overhead_seq": 0.0, "kv_tokens": 0, "context_length": 131072, "mape_prefill": 0.0,
    "mape_decode": 0.0,
}  # fmt: skip


class UnknownProfile(ValueError):
    """A profile name that is not in the table, or a file that holds none; the message says more."""


@dataclass(frozen=True, slots=True)
class Profile:
    """One GPU, model and precision. Milliseconds per unit, lengths in tokens; `kv_tokens` 0: not known.

    `seq` is less than 0 where a token of a decode costs less than one of a prompt.
    """

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
    """The profile called `name`, or that in the file of this name if it ends in `.json`.

    Raises UnknownProfile, with close names, if there is none, or with what is wrong with the file.
    """
    if name.endswith(SUFFIX):
        return read_profile(Path(name))
    table = _table()
    if name in table:
        return table[name]
    close = [known for known in table if name and name.lower() in known][:5]
    close = close or difflib.get_close_matches(name, table, n=3, cutoff=0.4) or list(table)
    raise UnknownProfile(f"unknown profile {name!r}; close names: {', '.join(close)}")


def read_profile(path: Path) -> Profile:
    """The profile in a file: one JSON object with the keys of an entry of the table, and its `name`.

    Raises UnknownProfile, with what is wrong.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UnknownProfile(f"profile file {str(path)!r}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UnknownProfile(f"profile file {str(path)!r} is not JSON: {error}") from error
    wrong = "one JSON object is expected" if not isinstance(found, dict) else _fault(found)
    if wrong:
        raise UnknownProfile(f"profile file {str(path)!r}: {wrong}")
    entry = {"name": path.stem, **_MAY_BE_LEFT_OUT, **found}
    entry["model"] = entry["model"] or entry["name"]
    return Profile(**{field.name: entry[field.name] for field in fields(Profile)})


def _fault(entry: Mapping[str, Any]) -> str:
    """What is wrong with an entry of a file, or nothing."""
    kinds: dict[str, Any] = {field.name: field.type for field in fields(Profile)}
    for key, value in entry.items():
        if key in _COMMENTS:
            continue
        if key not in kinds:
            return f"unknown key {key!r}; there are: {', '.join(kinds)}"
        if kinds[key] is str:
            if not isinstance(value, str):
                return f"{key}: a text is expected"
        elif type(value) not in (int, kinds[key]):
            return f"{key}: a {'whole ' if kinds[key] is int else ''}number is expected"
        elif not (least := -MOST if key == "seq" else 0.0) <= value <= MOST:
            return f"{key}: must be a number from {least:g} to {MOST:g}"
    if missing := [key for key in kinds if key not in entry and key != "name" and key not in _MAY_BE_LEFT_OUT]:
        return f"missing: {', '.join(missing)}"
    if not entry["base"] > 0:
        return "base: must be above 0"
    if entry["seq"] + entry["slope1"] < -ROUNDED:
        return "seq: a sequence decoding costs less than nothing: seq and slope1 together must be at least 0"
    return "" if entry["knee1"] <= entry["knee2"] else "knee1 must not be beyond knee2"
