"""Whether one arm fails more often than the other: bets on whose the next failure is, which may be looked at any time.

The idea: while a canary gets the share s of the requests and fails as often as its neighbours, a failure is the
canary's with chance s, whatever the rate of failures just now. Who bets that it fails rho times as often multiplies
the stake by g = rho h when the canary fails and by h = 1 / (rho s + 1 - s) when the stable arm does: a fair game, so
the stake is ever 1/alpha times what it was with a chance of at most alpha (Ville). With a margin m each request of
the canary costs exp(-m (g - 1)), and the same sum is fair for "worse by no more than m"; with rho below one, for
"worse by m at least", which is what promotion has to disprove. The stake is spread over a few rho, so that none has
to be chosen. Shares may change as they like, as long as they are known beforehand; the rate of failures may too. See
Ramdas, Grunwald, Vovk and Shafer, "Game-theoretic statistics and safe anytime-valid inference" (Statistical Science
2023); for two streams, Turner, Ly and Grunwald (2022).

What was good for hours may break in a minute, and a stake lost by then would have to be won back first. So part of it
is kept and laid anew every few minutes, ever smaller parts that sum to one, which is as fair (a Shiryaev-Roberts
detector as an e-process: Shin, Ramdas and Rinaldo, "E-detectors", 2023). Once the canary has all the traffic it is
held against what the stable arm did, with room for another hour being another hour.

Failures that come in heaps count for less: on each server the spread of their counts is set against the spread that
chance would give (a Fano factor, over short and long stretches), and the logarithm of the stake is divided by it.

Left to others: what is one failure and what is a heap of them (`tally`), which margin (`judge`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

WORSE = np.array([1.6, 3.0, 9.0, 40.0])
"""How many times as often the canary fails, says each of those who bet that it is worse."""
EVENLY = (0.15, 0.35, 0.35, 0.15)
"""What part of the stake each has, where nothing is known of how harm shows."""
BETTER = np.array([0.02, 0.15, 0.35, 0.55, 0.7, 0.8, 0.88, 0.95])
"""And those who bet that it is better than worse by the margin."""
ALL = np.concatenate([WORSE, BETTER])
FEW = len(WORSE)
TRUST = -math.log(len(BETTER))
LEAST_SHARE, MOST_SHARE = 0.0005, 0.98  # beyond them the other arm says nothing
AFRESH = 300.0  # seconds after which part of the stake is laid anew
ALONE_TIMES = 3.0  # as often as the stable arm failed before, is no harm without it to compare with
STRETCHES = (4.0, 32.0)  # seconds over which heaps are looked for
DOUBT = 3.0  # failures that came as chance would have it, before any were seen
FIRST_PART = 0.9  # of the stake, that is laid at the beginning
STEPS = 24  # of a bisection


class Heaps:
    """How much more the counts of failures on one server spread than chance would have it: 1 and more."""

    __slots__ = ("_expected", "_failed", "_servers", "_since", "_spread", "_squares", "_tried", "failed", "tried")

    def __init__(self) -> None:
        self.failed, self.tried = 0.0, 0.0
        self._servers: dict[int, list[float]] = {}  # failed, tried
        self._since = [math.nan] * len(STRETCHES)
        self._failed: list[dict[int, float]] = [{} for _ in STRETCHES]
        self._tried: list[dict[int, float]] = [{} for _ in STRETCHES]
        self._spread = [0.0] * len(STRETCHES)
        self._expected = [0.0] * len(STRETCHES)
        self._squares = [0.0] * len(STRETCHES)  # of what was expected

    def add(self, at: float, failed: Mapping[int, float], tried: Mapping[int, float]) -> None:
        """What each server did since the last time."""
        self.failed += sum(failed.values())
        self.tried += sum(tried.values())
        for server, count in tried.items():
            sums = self._servers.setdefault(server, [0.0, 0.0])
            sums[0] += failed.get(server, 0.0)
            sums[1] += count
        for i, length in enumerate(STRETCHES):
            if not self._since[i] <= at < self._since[i] + length:
                self._close(i)
                self._since[i] = at
            for server, count in tried.items():
                self._tried[i][server] = self._tried[i].get(server, 0.0) + count
            for server, count in failed.items():
                self._failed[i][server] = self._failed[i].get(server, 0.0) + count

    def _close(self, i: int) -> None:
        rate = (self.failed + 0.5) / (self.tried + 100.0)
        for server, tried in self._tried[i].items():
            expected = tried * rate
            self._spread[i] += (self._failed[i].get(server, 0.0) - expected) ** 2
            self._expected[i] += expected
            self._squares[i] += expected**2
        self._tried[i].clear()
        self._failed[i].clear()

    @property
    def factor(self) -> float:
        most = 0.0
        for spread, expected, squares in zip(self._spread, self._expected, self._squares, strict=True):
            by_chance = expected + math.sqrt(expected + 2.0 * squares)  # its mean, and a standard deviation (Poisson)
            most = max(most, (spread - by_chance) / (expected + DOUBT))
        return 1.0 + most

    def servers_apart(self) -> float:
        """How far their rates of failures are apart for good, beyond chance: a standard deviation, in points."""
        known = [(failed / tried, tried) for failed, tried in self._servers.values() if tried]
        if len(known) < 2 or not self.failed:
            return 0.0
        rate = self.failed / self.tried
        by_chance = self.factor * rate * (1.0 - rate) * sum(1.0 / tried for _, tried in known) / len(known)
        mean = sum(each for each, _ in known) / len(known)
        return math.sqrt(max(0.0, sum((each - mean) ** 2 for each, _ in known) / (len(known) - 1) - by_chance))

    def to_state(self) -> dict[str, Any]:
        servers = {str(server): sums for server, sums in self._servers.items()}
        return {
            "servers": servers,
            "failed": self.failed,
            "tried": self.tried,
            "spread": self._spread,
            "expected": self._expected,
            "squares": self._squares,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.failed, self.tried = float(state["failed"]), float(state["tried"])
        self._servers = {int(server): [*map(float, sums)] for server, sums in state["servers"].items()}
        self._spread, self._expected = [*map(float, state["spread"])], [*map(float, state["expected"])]
        self._squares = [*map(float, state["squares"])]


class Bets:
    """Bets on one kind of failure.

    `stable` and `canary` are requests, `stable_failed` and `canary_failed` those of them that failed, all while both
    arms had traffic.
    """

    __slots__ = (
        "_before",
        "_beliefs", "_fresh", "_lately", "_laid", "_laid_at", "_price", "_stake", "canary", "canary_failed", "floor",
        "heaps", "stable", "stable_failed", "weighed",
    )  # fmt: skip

    def __init__(self, floor: float = 0.02, beliefs: Sequence[float] = EVENLY) -> None:
        """`floor`: share of failures that is no harm once the canary is alone. `beliefs`: parts of the stake."""
        self.floor = floor
        self._beliefs = np.log(beliefs)
        self._fresh = np.full(FEW, math.log(FIRST_PART))  # as `_stake`, of those who lay part of it anew
        self._laid = 1
        self._laid_at = math.nan
        self._before = [0.0, 0.0]  # failed beyond what was expected, requests, of the canary: the period before
        self._lately = [0.0, 0.0]  # and this one
        self._stake = np.zeros(len(ALL))  # logarithms, before the price of a margin
        self._price = np.zeros(len(ALL))  # for each point of margin
        self.stable = self.canary = 0
        self.stable_failed = self.canary_failed = 0
        self.weighed = 0.0  # the stable arm's failures, were its traffic spread over time as the canary's is
        self.heaps = Heaps()

    def add(
        self,
        at: float,
        shares: tuple[float, float],
        tried: tuple[int, int],
        failed: tuple[int, int],
        heaps: int,
    ) -> None:
        """A stretch of time: least and most that the canary's share may have been; counts are (stable, canary).

        `heaps` is the canary's failures with those that share a fate counted once: harm is judged by them, and by
        each of the stable arm's; being harmless by all that failed.
        """
        if not self._laid_at <= at < self._laid_at + AFRESH:
            self._lay(at)
        if shares[1] > MOST_SHARE:
            self._add_alone(tried[1], failed[1], heaps)
            return
        least, most = (min(max(share, LEAST_SHARE), MOST_SHARE) for share in shares)
        share = np.where(ALL > 1.0, most, least)
        loss = 1.0 / (ALL * share + 1.0 - share)
        gain = ALL * loss
        self._price += tried[1] * (gain - 1.0)
        self.stable += tried[0]
        self.canary += tried[1]
        if failed[0]:
            lost = failed[0] * np.log(loss)
            self._stake += lost
            self._fresh += lost[:FEW]
            self.stable_failed += failed[0]
        if failed[1]:
            counted = np.where(ALL > 1.0, heaps, failed[1])
            won = counted * np.log(gain)
            self._stake += won
            self._fresh += won[:FEW]
            self.canary_failed += failed[1]
        expected = tried[1] * failed[0] / tried[0] if tried[0] else 0.0
        self.weighed += expected
        self._lately[0] += failed[1] - expected
        self._lately[1] += tried[1]

    def _lay(self, at: float) -> None:
        if self._laid_at == self._laid_at:
            self._laid += 1
            part = 2.0 * (1.0 - FIRST_PART) / (self._laid * (self._laid + 1.0))
            np.logaddexp(self._fresh, math.log(part), out=self._fresh)
            self._before, self._lately = self._lately, [0.0, 0.0]
        self._laid_at = at

    def _add_alone(self, tried: int, failed: int, heaps: int) -> None:
        rate = max(self.floor, ALONE_TIMES * (self.stable_failed + 1.0) / (self.stable + 50.0))
        self._fresh += heaps * np.log(WORSE) - (WORSE - 1.0) * (rate * tried)
        self._lately[0] += failed - rate * tried
        self._lately[1] += tried

    @property
    def estimate(self) -> float:
        """Points (0 to 1) by which the canary fails more often; NaN while it has no requests."""
        return (self.canary_failed - self.weighed) / self.canary if self.canary else math.nan

    @property
    def lately(self) -> float:
        """The same of the last five to ten minutes."""
        failed, tried = (a + b for a, b in zip(self._before, self._lately, strict=True))
        return failed / tried if tried else math.nan

    def harm(self) -> float:
        """The logarithm of the stake of those who say that it is worse, or has become so."""
        return _sum((self._beliefs + self._fresh / self.heaps.factor).tolist())

    def worse(self, margin: float = 0.0) -> float:
        """Of those who say that it is worse by more than `margin`, from the beginning."""
        return _sum((self._beliefs + (self._stake[:FEW] - margin * self._price[:FEW]) / self.heaps.factor).tolist())

    def better(self, margin: float, grown: float = 1.0) -> float:
        """Of those who say that it is not worse by `margin`; with `grown` times the evidence of the same kind."""
        return _sum((TRUST + (self._stake[FEW:] - margin * self._price[FEW:]) * (grown / self.heaps.factor)).tolist())

    def low(self, risk: float) -> float:
        """It is worse by this at least, with a chance of `risk` of ever being wrong."""
        return _border(lambda margin: self.worse(margin) >= -math.log(risk), -1.0, 1.0)

    def high(self, risk: float) -> float:
        """And by this at most."""
        return _border(lambda margin: self.better(margin) < -math.log(risk), -1.0, 1.0)

    def to_state(self) -> dict[str, Any]:
        counts = [self.stable, self.canary, self.stable_failed, self.canary_failed]
        heaps = self.heaps.to_state()
        return {
            "stake": self._stake.tolist(), "price": self._price.tolist(), "counts": counts, "weighed": self.weighed,
            "heaps": heaps, "fresh": self._fresh.tolist(), "laid": self._laid, "before": self._before,
            "lately": self._lately,
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        stake, price = np.array(state["stake"], dtype=float), np.array(state["price"], dtype=float)
        fresh = np.array(state["fresh"], dtype=float)
        if (stake.shape, price.shape, fresh.shape) != (ALL.shape, ALL.shape, WORSE.shape):
            raise ValueError("bets of another version")
        self._stake, self._price, self._fresh, self._laid = stake, price, fresh, int(state["laid"])
        self._before, self._lately = [*map(float, state["before"])], [*map(float, state["lately"])]
        self.stable, self.canary, self.stable_failed, self.canary_failed = map(int, state["counts"])
        self.weighed = float(state["weighed"])
        self.heaps.restore(state["heaps"])


def _sum(logs: Sequence[float]) -> float:
    """The logarithm of the sum of what these are the logarithms of."""
    most = max(logs)
    return most + math.log(sum(math.exp(each - most) for each in logs))


def _border(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Where `holds`, true at `low`, stops being true."""
    for _ in range(STEPS):
        middle = (low + high) / 2.0
        if holds(middle):
            low = middle
        else:
            high = middle
    return low
