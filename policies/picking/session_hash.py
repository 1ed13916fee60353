"""The same session to the same endpoint, as long as that endpoint is not much busier than the average.

The idea: highest-random-weight (rendezvous) hashing (Thaler and Ravishankar, 1996) gives each key its own order of the
endpoints, so that one that leaves moves only its own keys. On top of it the bound of "Consistent hashing with bounded
loads" (Mirrokni, Thorup and Zadimoghaddam, 2018): nobody gets more than `bound` times the average, rounded up; a key
whose endpoint is full goes to the next in its own order, the same each time. A ring would need hundreds of points per
endpoint to be as even, and a table to be rebuilt; here all weights of a key are four operations on one column.

The key is the request's session (within its tenant). Without one it is the beginning of the prompt, which a
conversation repeats at every turn; without enough of that either, the request goes where the least tokens are.
All gateways agree, without talking to one another.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from gateway.core.snapshot import Snapshot
from gateway.core.types import Decision, Floats, Request
from policies.picking.base import EQUAL, Policy
from policies.picking.least_tokens import LeastTokens
from policies.picking.options import number, whole

Hashes = npt.NDArray[np.uint64]

# Odd constants and the shift of a 64-bit finaliser (the first is 2^64 divided by the golden ratio).
_SPREAD, _MIX, _HALF = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93), np.uint64(32)


class SessionHash(Policy):
    """`bound`: the most that an endpoint may have, as a multiple of the average requests per endpoint, at least 1.

    `prefix_bytes`: how much of the prompt's raw JSON is the key when a request has no session; 0 is none at all.
    Prompts that are shorter have no key.
    """

    def __init__(self, bound: float = 1.25, prefix_bytes: int = 512):
        self.bound = number("bound", bound, 1.0)
        self.prefix_bytes = whole("prefix_bytes", prefix_bytes, 0, 1_000_000)
        self._keyless = LeastTokens()
        self._hash_of_row: Hashes = np.zeros(8, np.uint64)  # of the endpoint's id; 0: not yet known

    def pick(self, request: Request, snapshot: Snapshot) -> Decision:
        key, kind = self._key(request)
        if key is None:
            return self._keyless.pick(request, snapshot)
        weights = self._hashes(snapshot)
        weights ^= key
        weights *= _SPREAD
        weights ^= weights >> _HALF
        weights *= _MIX
        requests = snapshot.requests
        limit = float(np.ceil(self.bound * (float(np.add.reduce(requests)) + 1.0) / len(requests)))
        position = int(weights.argmax())
        reason = f"{kind} belongs there"
        if not requests[position] < limit - EQUAL:
            weights[requests >= limit - EQUAL] = 0
            first, position = position, int(weights.argmax())
            if position != first:
                reason = f"{kind} belongs to an endpoint that has its {limit:.0f} requests; next in order"
        return Decision(int(snapshot.rows[position]), reason, _as_scores(weights))

    def leave(self, row: int) -> None:
        if row < len(self._hash_of_row):
            self._hash_of_row[row] = 0

    def _key(self, request: Request) -> tuple[np.uint64 | None, str]:
        if request.session:
            return _digest(f"{request.tenant}\0{request.session}".encode()), "session"
        if 0 < self.prefix_bytes <= len(request.prompt):
            return _digest(request.prompt[: self.prefix_bytes]), "prompt prefix"
        return None, ""

    def _hashes(self, snapshot: Snapshot) -> Hashes:
        """The hashes of the candidates' ids, a copy."""
        size = len(snapshot.fleet.ours)
        if size > len(self._hash_of_row):
            grown = np.zeros(size, np.uint64)
            grown[: len(self._hash_of_row)] = self._hash_of_row
            self._hash_of_row = grown
        hashes = self._hash_of_row[snapshot.rows]
        if not hashes.all():
            for row in snapshot.rows[hashes == 0].tolist():  # each row once, until it leaves
                self._hash_of_row[row] = _digest(snapshot.endpoint(row).id.encode()) | np.uint64(1)
            hashes = self._hash_of_row[snapshot.rows]
        return hashes


def _digest(text: bytes) -> np.uint64:
    return np.uint64(int.from_bytes(blake2b(text, digest_size=8).digest(), "little"))


def _as_scores(weights: Hashes) -> Floats:
    """0 for the first in the key's order, up to 1: lower is better; 1 is also an endpoint that is full."""
    scores: Floats = np.multiply(weights, -(2.0**-64), dtype=np.float64)
    scores += 1.0
    return scores
