"""A canary under traffic in virtual time: two pools, requests of either arm as a test wants them, a gateway's clock."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from threading import Event
from typing import Any

from gateway.config.types import Config, Model
from gateway.core.fleet import Fleet
from gateway.core.health import Rule
from gateway.core.routes import Arm, CanaryRule, Route
from gateway.core.types import Decision, Endpoint, Outcome, Request
from gateway.logs import Events
from gateway.rollouts.canaries import Canaries
from tests.support.held_output import HeldOutput

STEPS = (0.05, 0.25, 1.0)
NAME = "llama/routes[0]"


def rule(**terms: Any) -> CanaryRule:
    return CanaryRule("next", **{"steps": STEPS, "hold": 30.0, **terms})


def route(name: str = "", canary: CanaryRule | None = None, **more: Any) -> Route:
    arms = (Arm("stable", "old", 100.0, fallback=("spare",)), Arm("next", "new", fallback=("spare",)))
    return Route(arms, name, canary=rule() if canary is None else canary, **more)


def config(*routes: Route, models: dict[str, tuple[Route, ...]] | None = None) -> Config:
    found = models if models is not None else {"llama": routes or (route(),)}
    return Config(pools={}, models={name: Model(name, its) for name, its in found.items()})


def fleet(pool: str, servers: int = 3) -> Fleet:
    made = Fleet(pool, Rule(), random.Random(1))
    there = [Endpoint(f"{pool}{n}", f"http://10.0.0.{n}:8000", pool, "vllm") for n in range(servers)]
    made.update(there, 0.0, fresh=True)
    return made


class World:
    """One gateway's canaries after another on one folder. The canary is `slow`, `fails` and `cuts` by shares."""

    def __init__(self, folder: Path | None, seed: int = 1, start: float = 5000.0):
        self.folder = None if folder is None else str(folder)
        self.random = random.Random(seed)
        self.now, self.unix = start, 1_700_000_000.0
        self.fleets = {pool: fleet(pool) for pool in ("old", "new", "spare")}
        self.slow, self.fails, self.cuts = 1.0, 0.0, 0.0
        self.log = HeldOutput()
        self.generation = 0
        self.config = config()

    def boot(self, config: Config | None = None) -> Canaries:
        """A new process; the monotonic clock starts anywhere."""
        self.config = config or self.config
        self.generation += 1
        self.now = self.random.uniform(0.0, 1e4)
        self.canaries = Canaries(Events(self.log), lambda pool: self.fleets[pool].predictor, lambda: self.unix)
        self.canaries.open(self.folder, self.now, self.generation)
        self.canaries.reconfigure(self.config, self.now)
        return self.canaries

    def kill(self, config: Config | None = None) -> Canaries:
        """End the process without a word, and start the next."""
        return self.boot(config)

    def tick(self, seconds: float = 1.0) -> None:
        self.now += seconds
        self.unix += seconds
        self.canaries.tick(self.now)

    def settle(self) -> None:
        """What is to be written is on disk, and known to be."""
        assert self.canaries._store.wait_for_idle(10.0)
        self.canaries.tick(self.now)
        assert self.canaries._store.wait_for_idle(10.0)

    def run(self, seconds: int, rate: int = 10, name: str = "routes[0]") -> None:
        """So many seconds of traffic; a share that changes has its time to be written."""
        for _ in range(seconds):
            share = self.canaries.share("llama", name) or 0.0
            for _ in range(rate):
                self.request("next" if self.random.random() < share else "stable", name=name)
            self.tick()
            if not self.canaries._rollouts["llama", name].is_durable:
                self.settle()
        self.settle()

    def request(self, arm: str, pool: str = "", name: str = "routes[0]", **outcome: Any) -> None:
        """One request of an arm, ended now."""
        canary = arm == "next"
        where = self.fleets[pool or ("new" if canary else "old")]
        noise = self.random
        broke = noise.random() < (self.fails if canary else 0.0)
        cut = noise.random() < (self.cuts if canary else 0.0)
        pace = (self.slow if canary else 1.0) * noise.lognormvariate(0.0, 0.1)
        tokens = 100.0 * noise.lognormvariate(0.0, 0.2)
        request = Request("r", "llama", self.now, prompt_tokens=500.0, output_tokens=tokens, stream=True)
        row = noise.randrange(3)
        reservation = where.reserve(Decision(row, "test"), request, self.now)
        first = 0.2 * pace
        fields: dict[str, Any] = {
            "request": request, "endpoint": reservation.endpoint, "row": row, "status": 502 if broke else 200,
            "ended": "upstream_failed" if broke or cut else "complete", "duration": first + 0.02 * pace * tokens,
            "ttft": float("nan") if broke else first, "prompt_tokens": 500.0, "output_tokens": tokens, **outcome,
        }  # fmt: skip
        ended = Outcome(**fields)
        reservation.settle(self.now, ended)
        user, share = noise.randrange(1, 1000), self.canaries.share("llama", name) or 0.0
        self.canaries.see("llama", name, arm, reservation, ended, self.now, "stop", user, share)

    def view(self, name: str = NAME) -> dict[str, Any]:
        found: Any = self.canaries.report(name)["canary"]
        return dict(found)

    def history(self, name: str = NAME) -> list[dict[str, Any]]:
        assert self.canaries._store.wait_for_idle(10.0)
        return self.canaries._store.history(name)


# --- short ways to say it -------------------------------------------------------------------------------------------


def world(folder: Path | None = None, **terms: Any) -> World:
    made = World(folder)
    made.boot(config(route(canary=rule(**terms))))
    made.settle()
    return made


def command(w: World, verb: str, name: str = "llama", **more: str) -> dict[str, Any]:
    found: Any = asyncio.run(w.canaries.command(verb, name, **more))
    return dict(found)


def share(w: World) -> float | None:
    return w.canaries.share("llama", "routes[0]")


def hang(w: World) -> Event:
    """The disk hangs until the event is set."""
    go = Event()
    w.canaries._store.run(lambda: go.wait(20))
    return go


def seen(w: World) -> tuple[int, int]:
    return tuple(arm["requests"] for arm in w.view()["arms"])  # type: ignore[return-value]
