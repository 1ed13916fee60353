"""What was seen of both arms of a canary, a second or a few at a time: blocks in which they are set side by side.

The idea: what happens at the same time is shared by both arms and cancels, so requests are counted in blocks, short
ones where there is traffic enough: a block ends after a second if both arms were seen, and is waited for while there
is somebody to wait for. Failures on one server in one second, or of one user in a minute, share a cause and are counted
once where they are the canary's.

`Tally` adds the blocks up; everything else is in `bets` and `differences`. Left to others: what is kept of one request
(`seen`), the verdict (`judge`).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import Any

from policies.routing.bets import Bets
from policies.routing.differences import SERVERS, Differences
from policies.routing.seen import USUAL, Seen, Usual

SHORTEST, LONGEST = 1.0, 8.0  # seconds of a block
ENOUGH = 3  # of the stable arm's requests in a block
PLAINLY = 2.5  # standard deviations
MEMORY = 120.0  # seconds over which the canary's share of traffic is seen
SAME_USER = 60.0  # seconds
USERS = 1024
VALUES = ("ttft", "tpot", "length", "finish")
FAILURES = ("errors", "truncated", "slow")
FLOORS = {"errors": 0.02, "truncated": 0.02, "slow": 0.2}  # shares that are no harm while nobody is beside the canary
# Errors are there before, and harm doubles or trebles them; a stream is hardly ever cut, and harm is ten times that.
BELIEFS = {"errors": (0.15, 0.6, 0.2, 0.05), "truncated": (0.05, 0.2, 0.45, 0.3), "slow": (0.05, 0.25, 0.4, 0.3)}


class Block:
    """What both arms did in one stretch. Sums and counts of VALUES by arm, or by the stable arm's servers."""

    __slots__ = ("began", "canary", "failed", "heaps", "requests", "shares", "stable", "thinned", "tried")

    def __init__(self, began: float) -> None:
        self.began = began
        self.canary = [0.0] * (2 * len(VALUES))
        self.stable: dict[int, list[float]] = {}
        self.thinned: dict[int, list[float]] = {}
        self.requests = [0, 0]
        self.shares = [1.0, 0.0]  # least and most that the canary's was when one of these was drawn
        self.tried: tuple[dict[int, float], dict[int, float]] = ({}, {})  # all of the stable arm's; with a first token
        self.failed: tuple[dict[int, float], ...] = tuple({} for _ in FAILURES)  # -1: the canary's
        self.heaps: tuple[set[tuple[int, int]], ...] = tuple(set() for _ in FAILURES)


class Tally:
    """Adds up what was seen. `moved` counts the blocks."""

    __slots__ = (
        "_block", "_rates", "_seen_at", "_slots", "_thin", "_users", "bets", "counts", "differences", "finishes",
        "moved", "usual", "usual_finish",
    )  # fmt: skip

    def __init__(self) -> None:
        self._block: Block | None = None
        self._slots: dict[str, int] = {}
        self._thin: dict[int, float] = {}
        self._rates: list[float] = [0.0, 0.0]  # requests of (stable, canary) that are remembered
        self._seen_at = math.nan
        self._users: dict[int, float] = {}
        self.bets = {kind: Bets(FLOORS[kind], BELIEFS[kind]) for kind in FAILURES}
        self.differences = {value: Differences() for value in VALUES}
        self.usual = {value: Usual() for value in VALUES[:2]}
        self.counts: list[int] = [0, 0]
        self.finishes: tuple[dict[str, int], dict[str, int]] = ({}, {})
        self.usual_finish = ""
        self.moved = 0

    def see(self, seen: Seen) -> None:
        self.close_until(seen.at)
        block = self._block
        if block is None:
            block = self._block = Block(seen.at)
        arm = int(seen.is_canary)
        slot = self._slot(seen.endpoint)
        self.counts[arm] += 1
        block.requests[arm] += 1
        if seen.share == seen.share:
            block.shares[0] = min(block.shares[0], seen.share)
            block.shares[1] = max(block.shares[1], seen.share)
        self._see_failures(block, seen, slot)
        self._see_values(block, seen, slot)

    def close_until(self, now: float) -> None:
        """Add up the open block, if it is over."""
        block = self._block
        if block is not None and now >= block.began + SHORTEST:
            both = block.requests[1] > 0 and block.requests[0] >= ENOUGH
            if both or now >= block.began + LONGEST:
                self._close(block)
                self._block = None

    def _slot(self, endpoint: str) -> int:
        slot = self._slots.get(endpoint)
        if slot is None:
            if len(self._slots) >= 4 * SERVERS:
                return zlib.crc32(endpoint.encode()) % SERVERS
            slot = self._slots[endpoint] = len(self._slots) % SERVERS
        return slot

    def _see_failures(self, block: Block, seen: Seen, slot: int) -> None:
        usual = self.usual["ttft"]
        timed = seen.ttft == seen.ttft and usual.middle == usual.middle
        if seen.is_canary:
            if timed:
                block.tried[1][-1] = block.tried[1].get(-1, 0.0) + 1.0
            slot = -1 - slot
        else:
            for tried, counts in zip(block.tried, (True, timed), strict=True):
                if counts:
                    tried[slot] = tried.get(slot, 0.0) + 1.0
        for kind, bad in enumerate((seen.failed, seen.truncated, timed and seen.ttft > usual.gross)):
            if not bad:
                continue
            where = -1 if seen.is_canary else slot
            block.failed[kind][where] = block.failed[kind].get(where, 0.0) + 1.0
            if seen.is_canary and not self._same_user(seen, kind):
                block.heaps[kind].add((int(seen.at), slot))

    def _same_user(self, seen: Seen, kind: int) -> bool:
        """Whether this user's failure was counted a moment ago."""
        if not seen.user:
            return False
        key = seen.user * len(FAILURES) + kind
        before = self._users.get(key)
        if before is not None and seen.at < before + SAME_USER:
            return True
        self._users.pop(key, None)
        self._users[key] = seen.at
        if len(self._users) > USERS:
            del self._users[next(iter(self._users))]
        return False

    def _see_values(self, block: Block, seen: Seen, slot: int) -> None:
        ended = 1.0 if seen.finish and seen.finish != self.usual_finish else 0.0
        values = (
            seen.ttft,
            seen.tpot,
            math.log1p(seen.tokens) if seen.tokens >= 0.0 else math.nan,
            ended if seen.finish and self.usual_finish else math.nan,
        )
        if seen.finish:
            self._see_finish(seen)
        into = [block.canary]
        if not seen.is_canary:
            into = [block.stable.setdefault(slot, [0.0] * (2 * len(VALUES)))]
            if self._is_thinned(slot):
                into.append(block.thinned.setdefault(slot, [0.0] * (2 * len(VALUES))))
        for i, value in enumerate(values):
            if value != value:
                continue
            if i < 2:
                usual = self.usual[VALUES[i]]
                if not seen.is_canary:
                    usual.see(value)
                if usual.middle != usual.middle:
                    continue
                value = usual.cut(value)
            for sums in into:
                sums[2 * i] += value
                sums[2 * i + 1] += 1.0

    def _see_finish(self, seen: Seen) -> None:
        table = self.finishes[seen.is_canary]
        name = seen.finish if seen.finish in table or len(table) < 12 else "other"
        table[name] = table.get(name, 0) + 1
        if not self.usual_finish and not seen.is_canary and table[name] >= USUAL:
            self.usual_finish = name

    def _is_thinned(self, slot: int) -> bool:
        """Whether this request is one of those that stand for as few as the canary has."""
        servers = max(1, len(self._thin))
        rate = min(1.0, self._rates[1] * servers / self._rates[0]) if self._rates[0] > 0.0 else 0.0
        due = self._thin.get(slot, 0.618 * slot % 1.0) + rate
        self._thin[slot] = due - int(due)
        return due >= 1.0

    def _close(self, block: Block) -> None:
        self.moved += 1
        gone = block.began - self._seen_at  # NaN, or below zero, when a restart came in between
        kept = math.exp(-gone / MEMORY) if gone > 0.0 else 1.0
        self._seen_at = block.began
        self._rates = [kept * rate + count for rate, count in zip(self._rates, block.requests, strict=True)]
        self._close_failures(block)
        for i, value in enumerate(VALUES):
            rows = _paired(block, 2 * i)
            if rows:
                self.differences[value].add(block.began, rows)

    def _close_failures(self, block: Block) -> None:
        shares = self._shares(block)
        timed = block.tried[1].pop(-1, 0.0)
        for kind, name in enumerate(FAILURES):
            is_slow = name == "slow"
            failed, tried = block.failed[kind], block.tried[is_slow]
            lost = failed.pop(-1, 0.0)
            canary = timed if is_slow else block.requests[1]
            bets, heaps = self.bets[name], len(block.heaps[kind])
            counts = (int(sum(tried.values())), int(canary)), (int(sum(failed.values())), int(lost))
            bets.add(block.began, shares, *counts, heaps)
            bets.heaps.add(block.began, failed, tried)

    def _shares(self, block: Block) -> tuple[float, float]:
        """Least and most that the canary's may have been: as drawn, unless the traffic plainly says otherwise."""
        least, most = block.shares
        total = self._rates[0] + self._rates[1]
        seen = self._rates[1] / total
        if least > most:
            return seen, seen
        chance = PLAINLY * math.sqrt(max(seen * (1.0 - seen), 1.0 / total) / total)
        return (seen if seen < least - chance else least), (seen if seen > most + chance else most)

    def to_state(self) -> dict[str, Any]:
        return {
            "bets": {name: bets.to_state() for name, bets in self.bets.items()},
            "differences": {name: each.to_state() for name, each in self.differences.items()},
            "usual": {
                name: None if math.isnan(usual.middle) else [usual.middle, usual.spread]
                for name, usual in self.usual.items()
            },
            "counts": self.counts,
            "finishes": [dict(table) for table in self.finishes],
            "usual_finish": self.usual_finish,
            "slots": self._slots,
            "rates": self._rates,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        for name, bets in self.bets.items():
            bets.restore(state["bets"][name])
        for name, each in self.differences.items():
            each.restore(state["differences"][name])
        for name, usual in self.usual.items():
            if state["usual"][name] is not None:
                usual.middle, usual.spread = map(float, state["usual"][name])
        self.counts = [int(count) for count in state["counts"]]
        stable, canary = state["finishes"]
        self.finishes = ({**stable}, {**canary})
        self.usual_finish = str(state["usual_finish"])
        self._slots = {str(name): int(slot) for name, slot in state["slots"].items()}
        self._rates = [float(rate) for rate in state["rates"]]


def _paired(block: Block, i: int) -> list[tuple[int, float, float]]:
    """(row, difference, weight) of the canary, and of each server of the stable arm that others can be set against."""
    total = sum(sums[i] for sums in block.stable.values())
    count = sum(sums[i + 1] for sums in block.stable.values())
    rows: list[tuple[int, float, float]] = []
    pairs = [(0, block.canary, total, count)]
    for slot, sums in block.thinned.items():
        server = block.stable[slot]
        pairs.append((slot + 1, sums, total - server[i], count - server[i + 1]))
    for row, sums, rest, others in pairs:
        mine = sums[i + 1]
        if mine > 0.0 and others > 0.0:
            rows.append((row, sums[i] / mine - rest / others, mine * others / (mine + others)))
    return rows
