"""When work that waits will have been done, and between when and when it almost surely will.

What is counted is work that ended here, by class and model, over the last minutes, and for how long there was any to do
(time without work says nothing about speed). Several gateways may share one store: the others' speed is taken to be
like ours, so all of them together are as much faster as they hold more. The interval holds nine times of ten if work
goes on as it did: what ends in ten seconds is counted many times over, so how much that varies is known, and what
varies in the past varies in the future (a Poisson process with over-dispersion; the interval is that of a log-normal).

Left to others: what stands before whom (`Store.ahead`), what is done about work that will be late (`promote`).
"""

from __future__ import annotations

from collections import deque
from math import exp, inf, nan, sqrt
from typing import NamedTuple

from gateway.jobs.base import Store
from gateway.jobs.holding import Hands, Kind
from gateway.jobs.model import Batch, Job, Stats
from gateway.jobs.objects import Eta

SLOT, SLOTS = 10.0, 30  # seconds each; five minutes are remembered
LEAST = 5.0  # seconds of work before anything is said of its speed
NINE_OF_TEN = 1.645  # standard deviations, to either side
WIDEST = 1.5  # of the logarithm: a factor of twelve to either side
FOLLOW = 0.1
DRIFT = 0.04  # share by which the speed of later may be another one, whatever was seen


class Speed(NamedTuple):
    """`rate`: pieces of work a second. `counted`: how many it is known from. `dispersion`: variance over mean."""

    rate: float
    counted: int
    dispersion: float


class _Slot:
    __slots__ = ("at", "busy", "count")

    def __init__(self, at: float):
        self.at = at
        self.busy = 0.0  # seconds with work to do
        self.count = 0


class Pace:
    """One class and model. Times are wall-clock seconds."""

    def __init__(self) -> None:
        self._slots: deque[_Slot] = deque(maxlen=SLOTS)
        self._seen = inf
        self.took = nan  # mean seconds from claim to record

    def _slot(self, at: float) -> _Slot:
        start = at // SLOT * SLOT
        if not self._slots or self._slots[-1].at < start:
            self._slots.append(_Slot(start))
        return self._slots[-1]

    def busy(self, at: float) -> None:
        """There is work to do at this moment; to be said about every second."""
        self._slot(at).busy += min(max(0.0, at - self._seen), 2.0)
        self._seen = at

    def idle(self) -> None:
        self._seen = inf

    def ended(self, at: float, took: float) -> None:
        if self._seen < inf:  # else its time was not counted either
            self._slot(at).count += 1
        self.took = took if self.took != self.took else self.took + FOLLOW * (took - self.took)

    def speed(self, at: float) -> Speed | None:
        """None while nothing has ended of late."""
        slots = [slot for slot in self._slots if slot.at > at - SLOT * SLOTS]
        since = min(max(0.0, at - self._seen), 2.0)  # not said to be busy yet
        busy, counted = since + sum(slot.busy for slot in slots), sum(slot.count for slot in slots)
        if busy < LEAST or not counted:
            return None
        whole = [slot.count * SLOT / slot.busy for slot in slots if slot.busy >= SLOT / 2.0]
        dispersion = 1.0
        if len(whole) >= 3:
            mean = sum(whole) / len(whole)
            variance = sum((each - mean) ** 2 for each in whole) / (len(whole) - 1)
            dispersion = max(1.0, variance / mean) if mean else 1.0
        return Speed(counted / busy, counted, dispersion)


class Etas:
    """Of all work. `look` is to be called about every second with what the store holds."""

    def __init__(self, store: Store, hands: Hands):
        self._store = store
        self._hands = hands
        self._paces: dict[Kind, Pace] = {}
        self._others: dict[Kind, float] = {}  # how much more all gateways hold than we do

    def ended(self, kind: Kind, at: float, took: float) -> None:
        self._paces.setdefault(kind, Pace()).ended(at, took)

    def look(self, stats: Stats, at: float) -> None:
        there = set()
        for queue in stats.queues:
            kind = queue.klass, queue.model
            if queue.waiting or queue.claimed:
                there.add(kind)
                self._paces.setdefault(kind, Pace()).busy(at)
            held = self._hands.of(kind)
            self._others[kind] = max(1.0, queue.claimed / held) if held else 1.0
        for kind, pace in self._paces.items():
            if kind not in there:
                pace.idle()

    def speed(self, kind: Kind, at: float) -> Speed | None:
        """Of all gateways together."""
        pace = self._paces.get(kind)
        speed = pace.speed(at) if pace is not None else None
        return None if speed is None else speed._replace(rate=speed.rate * self._others.get(kind, 1.0))

    def took(self, kind: Kind) -> float:
        """Mean seconds that a piece of work was in our hands; NaN where none was."""
        pace = self._paces.get(kind)
        return pace.took if pace is not None else nan

    async def of(self, work: Batch | Job, at: float) -> Eta | None:
        """None where it has ended, and where nothing like it has of late. Raises `StoreUnavailable`."""
        if work.ended or not work.model:
            return None
        speed = self.speed((work.klass, work.model), at)
        if speed is None:
            return None
        deadline, left = (work.expires_at, work.left) if isinstance(work, Batch) else (work.deadline, 1)
        ahead = max(left, await self._store.ahead(work.klass, work.model, deadline))
        return interval(at, ahead, speed)


def interval(at: float, ahead: int, speed: Speed) -> Eta:
    """When `ahead` pieces of work will have ended."""
    seconds = ahead / speed.rate
    spread = sqrt(DRIFT**2 + speed.dispersion * (1.0 / speed.counted + 1.0 / max(1, ahead)))
    factor = exp(min(WIDEST, spread) * NINE_OF_TEN)
    return Eta(at + seconds, at + seconds / factor, at + seconds * factor, ahead)
