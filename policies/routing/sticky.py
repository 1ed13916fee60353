"""Splits by identity: a user stays on an arm, and a change of weights moves as few as it must.

The idea: weighted rendezvous hashing (Thaler and Ravishankar, 1996; the weights by Schindelhauer and Schomaker, 2005).
Each arm has for each user an exponential number of its own, -ln(u) / weight, and the least wins: so each arm wins with
the chance of its weight. Giving one arm more weight lowers only its own numbers: users come to it from the others and
nobody goes anywhere else; giving it less is the same backwards. Nothing is stored, and every gateway deals alike.

The hash knows the model, the salt and the arms' names, but not the rule's: a rule that is written above this one, or
another name for it, moves nobody. An identity enters only as a hash of its own: who records that can draw again, by
this salt or by another, and holds no identity.

Left to others: what the weights are at the moment (`split`), requests without an identity (`split`, too).
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from math import inf, log

from gateway.core.routes import Sticky
from policies.routing.base import Asked
from policies.routing.split import Weights

_READ = 1024  # characters of an identity


def user_of(sticky: Sticky, asked: Asked) -> str:
    """Whose request it is: a hash of 16 hexadecimal digits, empty where the request does not say."""
    if sticky.by == "header":
        identity = asked.header(sticky.header)
    elif sticky.by == "key":
        identity = asked.key
    else:
        identity = asked.session if sticky.by == "session" else asked.user
    return blake2b(_bytes(identity[:_READ]), digest_size=8).hexdigest() if identity else ""


class Dealer:
    """Deals the users of one split among its arms, always in the same way. Users are what `user_of` makes of them."""

    __slots__ = ("_key", "_hashers")

    def __init__(self, model: str, salt: str, arms: Iterable[str]):
        self._key = blake2b(_bytes(f"{len(model)}:{model}{salt}"), digest_size=32).digest()
        self._hashers = [blake2b(_bytes(name), digest_size=8, key=self._key) for name in arms]

    def number(self, user: str) -> float:
        """The user's number, from 0 to 1 (never 1)."""
        return _part(blake2b(_bytes(user), digest_size=8, key=self._key).digest()) * 2.0**-53

    def arm(self, weights: Weights, number: float) -> int:
        """Which arm the user with this number is on. One without a weight gets nobody."""
        told = b"\0%d" % int(number * 2.0**53)
        best, least = 0, inf
        for row, weight in enumerate(weights):
            if weight > 0.0:
                hasher = self._hashers[row].copy()
                hasher.update(told)
                own = -log((_part(hasher.digest()) + 0.5) * 2.0**-53) / weight
                if own < least:
                    best, least = row, own
        return best


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _part(digest: bytes) -> int:
    return int.from_bytes(digest, "little") >> 11
