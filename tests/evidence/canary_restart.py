"""A gateway killed in mid-canary, again and again under load, goes on where it was; no user changes arm.

Two simulated pools, users who stick to their arm, a canary that goes up its steps. The gateway gets kill -9 at any
moment, also in the middle of a step's change, and is started again. Then the canary is paused and the kills go on; at
last its server begins to fail, and the gateway is killed in the moment in which the canary was rolled back.

Bars: no user ever leaves the canary while it goes up; over a kill at an unchanged share nobody changes arm at all; the
step never falls; what was counted goes on; after the rollback nobody reaches the canary, killed or not.

    python -m tests.evidence.canary_restart [--short] [--kills N] [--users N]
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.rounds import Bar
from tests.bench.subjects import start, stop, wait_until_listening
from tests.evidence.support import (
    MODEL,
    Gateway,
    Sim,
    conclude,
    fetch,
    fetch_beside,
    folder,
    parse,
    poll,
    simulators,
    wait_for,
)
from tests.support.ports import free_ports

STEPS = (0.1, 0.2, 0.3, 0.4, 0.5)
HOLD = 4.0  # seconds
MARGIN = "0.01%"  # so strict that it stays at its last step for longer than this takes
LONGEST = 1.0  # seconds that a request may have been on its way
LOSS = 8.0  # seconds of what was counted that a kill may take along: they are written every 3
_ARM = re.compile(rb"\r\nx-headway-arm: *([^\r]+)", re.IGNORECASE)


@dataclass(slots=True)
class Users:
    """Who was on which arm, and when last. `moved`: by the arm they came from, since the last `mark`."""

    arms: dict[str, str] = field(default_factory=dict)
    at: dict[str, float] = field(default_factory=dict)
    moved: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    broken: int = 0

    def saw(self, user: str, arm: str) -> None:
        before = self.arms.get(user)
        self.answered[arm] += 1
        if before is not None and before != arm:
            self.moved[before] += 1
        self.arms[user] = arm
        self.at[user] = time.monotonic()

    def since(self, moment: float) -> dict[str, str]:
        """The arms of those that were seen since then."""
        return {user: arm for user, arm in self.arms.items() if self.at[user] >= moment}

    def mark(self) -> None:
        self.moved.clear()
        self.answered.clear()


async def ask(port: int, user: str, stream: bool) -> str:
    """One request: the arm that answered. Raises OSError when nobody did, or not to the end."""
    body = json.dumps({"model": MODEL, "stream": stream, "max_tokens": 12, "user": user,
                       "messages": [{"role": "user", "content": f"{user} says hello, as ever."}]})  # fmt: skip
    lines = ("POST /v1/chat/completions HTTP/1.1", "host: evidence", "content-type: application/json",
             f"content-length: {len(body)}", f"x-user: {user}", "connection: close", "", body)  # fmt: skip
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write("\r\n".join(lines).encode())
        answer = await asyncio.wait_for(reader.read(-1), 20.0)
    finally:
        writer.close()
    found = _ARM.search(answer)
    if found is None:
        raise ConnectionError(f"no arm in {answer[:200]!r}")
    return found[1].decode()


class Load:
    """Closed-loop users. What is broken off by a kill counts for nobody: it has no answer to take an arm from."""

    def __init__(self, port: int, users: int, workers: int):
        self.users = Users()
        self._port = port
        self._names = [f"user-{number}" for number in range(users)]
        self._workers = workers
        self._going = asyncio.Event()
        self._idle = 0
        self._ended = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Users]:
        self._going.set()
        tasks = [asyncio.create_task(self._work(number)) for number in range(self._workers)]
        try:
            yield self.users
        finally:
            self._ended = True
            self._going.set()
            await asyncio.gather(*tasks)

    async def hold(self) -> None:
        """Nothing new is sent, and nothing is on its way any more."""
        self._going.clear()
        await poll(lambda: self._idle == self._workers, 30.0, 0.01)

    def go(self) -> None:
        self._going.set()

    async def _work(self, number: int) -> None:
        mine = self._names[number :: self._workers]
        dice = random.Random(number)
        while True:
            self._idle += 1
            await self._going.wait()
            self._idle -= 1
            if self._ended:
                return
            user = dice.choice(mine)
            try:
                self.users.saw(user, await ask(self._port, user, dice.random() < 0.5))
            except (OSError, TimeoutError):
                self.users.broken += 1
                await asyncio.sleep(0.05)


def configuration(port: int, admin: int, urls: Sequence[str], state: Path) -> dict[str, Any]:
    route = {
        "name": "rollout", "sticky": {"header": "x-user"},
        "split": [{"arm": "stable", "to": "main", "weight": 1}, {"arm": "next", "to": "next"}],
        "canary": {"arm": "next", "steps": [f"{step:.0%}" for step in STEPS], "hold": f"{HOLD:g}s",
                   "margin": {"errors": MARGIN}},
    }  # fmt: skip
    pools = {name: {"engine": "vllm", "endpoints": [url]} for name, url in zip(("main", "next"), urls, strict=True)}
    return {"version": 1, "listen": f"127.0.0.1:{port}", "admin": f"127.0.0.1:{admin}", "state": str(state),
            "pools": pools, "models": {MODEL: {"routes": [route]}}}  # fmt: skip


class Killable:
    """A gateway that can be killed and started again on its ports."""

    def __init__(self, urls: Sequence[str], where: Path):
        where.mkdir(parents=True)
        port, admin = free_ports(2)
        file = where / "headway.yaml"
        file.write_text(json.dumps(configuration(port, admin, urls, where / "state"), indent=1))  # JSON is YAML
        self.command = [sys.executable, "-m", "gateway", "serve", "-c", str(file)]
        self.gateway = Gateway(port, admin, file, where, start("headway", self.command, port, where))
        self.kills = 0
        self.share, self.settled = -1.0, 0.0  # the share as last seen, and since when requests go by it
        self.ready()

    def ready(self) -> None:
        wait_until_listening(self.gateway.running, self.gateway.where)
        wait_for("readiness", lambda: fetch(f"{self.admin}/readyz")["status"] == "ready")

    @property
    def admin(self) -> str:
        return f"http://127.0.0.1:{self.gateway.admin}"

    def kill(self) -> None:
        """kill -9, and collect it."""
        self.gateway.running.process.send_signal(signal.SIGKILL)
        self.gateway.running.process.wait()
        self.kills += 1

    def restart(self) -> None:
        self.gateway.where = self.gateway.file.parent / f"start{self.kills}"
        self.gateway.running = start("headway", self.command, self.gateway.port, self.gateway.where)
        self.ready()

    async def view(self) -> dict[str, Any]:
        found: dict[str, Any] = (await fetch_beside(f"{self.admin}/api/canaries/-"))["canary"]
        if found["share"] != self.share:
            self.share, self.settled = found["share"], time.monotonic() + LONGEST
        return found


@contextlib.contextmanager
def killable(urls: Sequence[str], where: Path) -> Iterator[Killable]:
    made = Killable(urls, where)
    try:
        yield made
    finally:
        stop(made.gateway.running)


def seen(view: dict[str, Any]) -> int:
    return sum(arm["requests"] for arm in view["arms"])


@dataclass(slots=True)
class Findings:
    """What must not be, counted."""

    left: int = 0  # users who left the canary while it went up
    moved: int = 0  # users who changed arm over a kill at an unchanged share
    fell: int = 0  # kills after which the step or the share was lower
    restarted: int = 0  # kills after which it was not the same rollout, or nothing was counted
    lost: float = 0.0  # seconds of what was counted, at most
    unpaused: int = 0
    back: int = 0  # answers by the canary after its rollback
    risen: int = 0  # kills after which a rollback was forgotten


async def climb(one: Killable, load: Load, kills: int, dice: random.Random, found: Findings) -> None:
    """Kills while it goes up. In mid-step for half of them; for the others in the moment in which the step changed."""
    users = load.users
    for number in range(kills):
        at_change = number % 2 == 1
        began, first = time.monotonic(), await one.view()
        step = first["step"]
        patience = dice.uniform(0.5, HOLD) if not at_change else 4 * HOLD
        before = await one.view()
        while time.monotonic() - began < patience and not (at_change and before["step"] != step):
            await asyncio.sleep(0.01)
            before = await one.view()
        rate = (seen(before) - seen(first)) / max(0.1, time.monotonic() - began)
        await over_a_kill(one, load, before, rate, found)
    found.left += users.moved["next"]


async def over_a_kill(one: Killable, load: Load, before: dict[str, Any], rate: float, found: Findings) -> None:
    users = load.users
    one.kill()
    was, left = users.since(one.settled), users.moved["next"]
    await asyncio.to_thread(one.restart)
    after = await one.view()
    await asyncio.sleep(0.5)
    then = await one.view()
    if then["share"] == after["share"] == before["share"]:
        found.moved += sum(users.arms[user] != arm for user, arm in was.items())
    # (A step takes effect, and raises the share, when it is on disk; until then the page says that it is not.)
    found.fell += after["share"] < before["share"] or (before["durable"] and after["step"] < before["step"])
    found.restarted += after["began"] != before["began"] or (seen(before) > 100 and seen(after) == 0)
    found.left += users.moved["next"] - left
    found.lost = max(found.lost, (seen(before) - seen(after)) / max(rate, 1.0))
    print(f"killed at step {before['step'] + 1} ({before['share']:.0%}, {seen(before)} counted), resumed at step "
          f"{after['step'] + 1} ({after['share']:.0%}, {seen(after)} counted)", flush=True)  # fmt: skip


async def pause(one: Killable, load: Load, kills: int, found: Findings) -> None:
    """Paused, it stays where it is: not one user moves, whatever is killed."""
    await fetch_beside(f"{one.admin}/api/canaries/-/pause", {"by": "the evidence", "why": "to look at it"})
    await load.hold()
    load.users.mark()
    load.users.arms.clear()
    load.go()
    for _ in range(kills):
        began, first = time.monotonic(), await one.view()
        await asyncio.sleep(1.0)
        before = await one.view()
        rate = (seen(before) - seen(first)) / (time.monotonic() - began)
        await over_a_kill(one, load, before, rate, found)
        found.unpaused += (await one.view())["phase"] != "paused"
    await asyncio.sleep(0.5)
    found.moved += load.users.moved.total()


async def roll_back(one: Killable, load: Load, sim: Sim, found: Findings) -> float:
    """Its server fails; the gateway is killed as soon as the share is zero. Seconds until then."""
    began = time.monotonic()
    await asyncio.to_thread(sim.fault, "5xx")
    while (await one.view())["share"] > 0.0:
        if time.monotonic() - began > 60.0:
            print(json.dumps(await one.view(), indent=1))
            found.risen += 1
            return 60.0
        await asyncio.sleep(0.002)
    took = time.monotonic() - began
    one.kill()
    await load.hold()
    load.users.mark()
    await asyncio.to_thread(one.restart)
    load.go()
    await asyncio.sleep(2.0)
    view = await one.view()
    found.risen += view["phase"] != "rolled_back"
    found.back += load.users.answered["next"]
    print(f"rolled back {took:.1f} s after its server began to fail: {view['why']}", flush=True)
    return took


async def run(one: Killable, sims: Sequence[Sim], kills: int, users: int) -> tuple[Findings, Users]:
    found, load = Findings(), Load(one.gateway.port, users, 12)
    dice = random.Random(1)
    async with load.running() as them:
        await asyncio.sleep(2.0)
        await climb(one, load, kills, dice, found)
        await pause(one, load, max(1, kills // 3), found)
        await roll_back(one, load, sims[1], found)
    return found, them


def main(argv: Sequence[str] | None = None) -> int:
    def add(parser: object) -> None:
        parser.add_argument("--kills", type=int, default=12)  # type: ignore[attr-defined]
        parser.add_argument("--users", type=int, default=400)  # type: ignore[attr-defined]

    options = parse(__doc__ or "", argv, add)
    kills, users = (2, 100) if options.short else (options.kills, options.users)
    with folder() as where, simulators(2, where, 4.0) as sims, \
            killable([sim.url for sim in sims], where / "headway") as one:  # fmt: skip
        found, them = asyncio.run(run(one, sims, kills, users))
        total = one.kills
    print(f"{total} kills; {len(them.arms)} users; {them.broken} requests broken off or refused while nobody was there")
    counted = [Bar("users who left the canary while it went up", found.left, 0),
               Bar("users who changed arm over a kill at an unchanged share", found.moved, 0),
               Bar("kills after which step or share were lower", found.fell, 0),
               Bar("kills after which it was another rollout, or nothing was counted", found.restarted, 0),
               Bar("kills after which it was not paused any more", found.unpaused, 0),
               Bar("rollbacks forgotten", found.risen, 0),
               Bar("answers by the canary after its rollback and a kill", found.back, 0)]  # fmt: skip
    return conclude(counted, [Bar("counted observations lost, at most, s", found.lost, LOSS)], short=options.short)


if __name__ == "__main__":
    sys.exit(main())
