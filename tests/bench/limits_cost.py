"""What a tenant's limits cost a request: let it through, tell its client, settle it; bars and verdict.

Timed are `Limiter.admit`, `Grant.headers` and `Grant.settle`, one after the other, with 50 requests in flight and all
four kinds of limits: counted in this process, and from leases as with a shared ledger that always has more (its round
trips happen beside, and are not timed). Compared with the bar is the median of admit and settle together. The machine
decides much of it: run it when nothing else runs.

    python -m tests.bench.limits_cost [--requests N]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import sys
import time
from collections import deque
from typing import Literal

from gateway.config.types import Config, Key, KeyLimits, Rate
from gateway.core.lease import Given, Told
from gateway.core.leases import LeasedAccount
from gateway.core.limiter import Terms
from gateway.grants import Grant
from gateway.limits import Limiter
from tests.bench.machine import machine
from tests.bench.rounds import table

BAR = 10.0  # µs
IN_FLIGHT = 50
LIMITS = KeyLimits(Rate(1e6, 1.0), Rate(1e9, 60.0), 1000, 10**12)


class Plenty:
    """A ledger that has as much as anybody asks for."""

    is_lost = False
    when_lost: Literal["local", "refuse"] = "local"

    def __init__(self) -> None:
        self.accounts: list[LeasedAccount] = []

    def account(self, name: str, terms: Terms) -> LeasedAccount:
        self.accounts.append(LeasedAccount(terms, is_lost=False))
        return self.accounts[-1]

    def move(self, old: str, new: str, terms: Terms) -> None:
        raise NotImplementedError  # nothing is reloaded here

    def drop(self, name: str) -> None:
        raise NotImplementedError

    def wake(self) -> None:
        """The bench reports at its own times."""

    def renewal(self, name: str) -> asyncio.Future[None]:
        raise NotImplementedError

    def answer(self, now: float) -> None:
        for account in self.accounts:
            message = account.report(now, now)
            told = {kind: Told(wish.size / 2, wish.size / 2, wish.size / 2) for kind, wish in message.items()}
            account.received(message, Given(True, 1.0, False, told), now)


def costs(shared: Plenty | None, requests: int) -> tuple[float, float, float]:
    """Median µs of letting one through, of its header lines, and of settling it."""
    config = Config(pools={}, models={}, keys=(Key(b"k" * 32, "bench", limits=LIMITS),))
    limiter, key = Limiter(config, shared), config.keys[0]
    flying: deque[Grant] = deque()
    admitting, telling, settling = [], [], []
    gc.collect()
    gc.disable()
    for number in range(requests):
        now = 1000.0 + number * 0.001
        if shared is not None and number % 100 == 0:
            shared.answer(now)
        began = time.perf_counter()
        grant = limiter.admit(key, 1000.0, 200.0, None, now, 4000)
        admitted = time.perf_counter()
        grant.headers()
        told = time.perf_counter()
        flying.append(grant)
        admitting.append(admitted - began)
        telling.append(told - admitted)
        if len(flying) > IN_FLIGHT:
            oldest = flying.popleft()
            began = time.perf_counter()
            oldest.settle(1010.0, float(number % 400), False, now)
            settling.append(time.perf_counter() - began)
    gc.enable()
    return tuple(statistics.median(part) * 1e6 for part in (admitting, telling, settling))  # type: ignore[return-value]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.limits_cost", description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=50_000)
    options = parser.parse_args()
    print(f"machine: {machine()}\n", flush=True)
    rows, kept = [], True
    for name, shared in (("in this process", None), ("from leases", Plenty())):
        admit, tell, settle = costs(shared, options.requests)
        kept = kept and admit + settle <= BAR
        rows.append([name, f"{admit:.1f}", f"{settle:.1f}", f"{admit + settle:.1f}", f"{tell:.1f}"])
    print(table(["µs a request (median)", "admit", "settle", f"both (bar {BAR:g})", "header lines"], rows))
    print("PASS" if kept else "FAIL")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
