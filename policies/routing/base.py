"""What routing is asked and what it answers: the words that the front, the records and the plan share with the rules.

Left to others: deciding (`rules`), making the question of a request and an answer of the two errors (the front).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from gateway.core.routes import Mirror
from gateway.core.types import UNKNOWN


class Asked(NamedTuple):
    """What a rule may look at. Nothing of it is kept."""

    name: str
    """The model as the client spelt it."""
    path: str
    tenant: str
    key: str
    """`sha256:` and the hexadecimal digest of the client's key; empty: it has none."""
    klass: str
    prompt_tokens: float
    """As estimated before the request is sent."""
    stream: bool
    session: str
    user: str
    header: Callable[[str], str | None]
    """The value of a header by its name in lower case; None: it is not there."""
    clock: float
    """Unix seconds."""


class Drawn(NamedTuple):
    """What an arm was drawn with. A record of it is enough to draw again, also by other weights or another salt."""

    number: float
    """From 0 to 1: the user's, or the next of a sequence. NaN: nothing was drawn."""
    user: str = ""
    """Whose request it was, as a hash; empty: nobody's."""


class Way(NamedTuple):
    """Where one request goes, for all its tries: nothing that happens to it later draws anew."""

    arm: str
    """Empty where there is no split."""
    pools: tuple[str, ...]
    """The first choice first, then its fallbacks; by cost, where the rule says so."""
    after: float
    """Seconds a full pool is waited for before the next one is used."""
    as_: str | None
    rule: str
    """The rule's name, or `routes[N]`."""
    mirror: Mirror | None = None
    drawn: float = UNKNOWN
    """The number from 0 to 1 that chose the arm. NaN: no split, or the arm was forced."""
    forced: bool = False
    user: str = ""
    """Whose request it is, as a hash, where the arm was drawn by identity."""
    shadowed: tuple[str, ...] = ()
    """The rules in shadow that would have been used, each if it alone were enforced."""


class NoRoute(ValueError):
    """No rule fits the request. `tried` are the names of those that were looked at."""

    def __init__(self, model: str, tried: Iterable[str]):
        self.tried = tuple(tried)
        super().__init__(f"no rule of the model {model!r} fits this request; tried: {', '.join(self.tried)}")


class UnknownArm(ValueError):
    """An arm was forced that the rule which fits does not have. `arms` are those it has, none without a split."""

    def __init__(self, forced: str, rule: str, arms: Iterable[str]):
        self.arms = tuple(arms)
        there = f"its arms are {', '.join(self.arms)}" if self.arms else "it has no arms"
        super().__init__(f"the rule {rule} has no arm {forced[:100]!r}; {there}")
