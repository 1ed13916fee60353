"""Splits: every arm gets its weight, and a change of weights moves only the users that it must.

All through the router that the gateway uses. First 100,000 requests each for several weights and canary shares and
several seeds, once without identities (seeds are the router's) and once with as many users (seeds are salts); after
that, users who come again at every step of a rollout up and down, and at every edit of a file. Bars: every arm within
the 99 % interval of its weight, without an identity in every run. With one, arms are dealt by a hash, and of many
right runs one in a hundred lies outside: there the first seed counts for every arm, and over all seeds no more arms
may lie outside than an even hash has in 99 of 100 such tables. Users who change arm against the change's direction: 0.

    python -m tests.evidence.splits [--short]
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import comb, sqrt

from gateway.core.routes import Arm, CanaryRule, Route, Sticky, Text, When
from policies.routing import Asked, Router
from tests.bench.rounds import Bar, table
from tests.evidence.support import conclude, parse

Z = 2.5758  # standard deviations on either side that hold 99 %
SPLITS: tuple[tuple[float, ...], ...] = ((99, 1), (95, 5), (1, 1), (70, 25, 5), (50, 30, 15, 4, 1))
SHARES = (0.01, 0.05, 0.25, 0.5)  # of a canary beside two arms of 3 : 1
RAMP = (0.01, 0.05, 0.25, 0.50, 1.0, 0.25, 0.05)
USUAL = Asked("m", "/v1/chat/completions", "acme", "", "interactive", 100.0, True, "", "", {}.get, 1.77e9)


@dataclass(frozen=True, slots=True)
class Case:
    """Arms with the shares they should have. `route` is their rule, `canary` the share of the one it has."""

    name: str
    route: Route
    wanted: tuple[float, ...]
    canary: float | None = None

    def router(self, seed: float, salt: str | None) -> Router:
        sticky = None if salt is None else Sticky("user", salt=salt)
        return Router("m", [replace(self.route, sticky=sticky)], seed, lambda rule: self.canary)


def cases() -> list[Case]:
    found = []
    for weights in SPLITS:
        name = " : ".join(f"{weight:g}" for weight in weights)
        found.append(Case(name, Route(_arms(weights)), tuple(weight / sum(weights) for weight in weights)))
    for share in SHARES:
        wanted = (0.75 * (1 - share), 0.25 * (1 - share), share)
        found.append(Case(f"3 : 1, canary at {share:.0%}", _with_canary((3, 1)), wanted, share))
    return found


def _arms(weights: Sequence[float]) -> tuple[Arm, ...]:
    return tuple(Arm("abcdefg"[row], f"pool-{row}", weight) for row, weight in enumerate(weights))


def _with_canary(weights: Sequence[float], **other: object) -> Route:
    return Route((*_arms(weights), Arm("next", "pool-next")), canary=CanaryRule("next"), **other)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Seen:
    """One run: how far each arm was from its share, in standard deviations of independent draws; the worst moment."""

    deviations: tuple[float, ...]
    furthest: float  # requests, at any moment of the run

    @property
    def outside(self) -> int:
        return sum(abs(deviation) > Z for deviation in self.deviations)

    @property
    def free(self) -> tuple[float, ...]:
        """Of all arms but the first: that one has what the others leave."""
        return self.deviations[1:]


def run(case: Case, requests: int, seed: int, has_identity: bool) -> Seen:
    router = case.router(seed / 7.0, str(seed) if has_identity else None)
    rows = {arm.name: row for row, arm in enumerate(case.route.arms)}
    counts, furthest = [0] * len(rows), 0.0
    for number in range(1, requests + 1):
        asked = USUAL._replace(user=f"user-{number}") if has_identity else USUAL
        counts[rows[router.route(asked).arm]] += 1
        if number % 97 == 0:
            furthest = max(furthest, *(abs(n - number * w) for n, w in zip(counts, case.wanted, strict=True)))
    away = (requests * wanted for wanted in case.wanted)
    spread = (sqrt(requests * wanted * (1 - wanted)) for wanted in case.wanted)
    return Seen(tuple((n - w) / s for n, w, s in zip(counts, away, spread, strict=True)), furthest)


def show_shares(requests: int, seeds: int) -> list[Bar]:
    rows, bars = [], []
    for has_identity in (False, True):
        kind = "users" if has_identity else "no identity"
        found = {case.name: [run(case, requests, seed, has_identity) for seed in range(1, seeds + 1)]
                 for case in cases()}  # fmt: skip
        for name, runs in found.items():
            worst = max(abs(deviation) for one in runs for deviation in one.deviations)
            rows.append([name, kind, str(sum(len(one.deviations) for one in runs)),
                         str(sum(one.outside for one in runs)), f"{worst:.3f}",
                         f"{max(one.furthest for one in runs):,.1f}"])  # fmt: skip
        everyone = [one for runs in found.values() for one in runs]
        if has_identity:
            first = sum(runs[0].outside for runs in found.values())
            bars.append(Bar(f"{kind}: arms outside their 99 % interval, first seed", first, 0))
            free = [deviation for one in everyone for deviation in one.free]
            outside = sum(abs(deviation) > Z for deviation in free)
            bars.append(Bar(f"{kind}: arms outside, all seeds (of {len(free)} independent)", outside,
                            most_outside(len(free))))  # fmt: skip
        else:
            outside = sum(one.outside for one in everyone)
            bars.append(Bar(f"{kind}: arms outside their 99 % interval, every seed", outside, 0))
    print(f"{requests:,} requests, {seeds} seeds; deviations in standard deviations of independent draws, "
          "distances in requests at the worst moment")  # fmt: skip
    print(table(["weights", "drawn by", "arms", "outside", "largest deviation", "furthest"], rows), flush=True)
    return bars


def most_outside(arms: int) -> int:
    """How many of so many arms lie outside their 99 % interval at most, in 99 of 100 tables, if dealt evenly."""
    most, left = 0, 0.01
    tail = 1.0 - 0.99**arms
    while tail > left:
        most += 1
        tail -= comb(arms, most) * 0.01**most * 0.99 ** (arms - most)
    return most


# --- users who come again --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Crowd:
    """Users who ask the router again after each change. `wrong` are those who moved and should not have."""

    users: int
    routes: Callable[[Router, int], str]
    before: list[str] | None = None
    moved: int = 0
    wrong: int = 0

    def ask(self, router: Router, is_allowed: Callable[[str, str], bool]) -> None:
        now = [self.routes(router, user) for user in range(self.users)]
        for old, new in zip(self.before or now, now, strict=True):
            if old != new:
                self.moved += 1
                self.wrong += not is_allowed(old, new)
        self.before = now


def _into(arm: str) -> Callable[[str, str], bool]:
    return lambda old, new: new == arm


def _out_of(arm: str) -> Callable[[str, str], bool]:
    return lambda old, new: old == arm


def _nobody(old: str, new: str) -> bool:
    return False


BY: dict[str, tuple[Sticky, Callable[[Router, int], str]]] = {
    "header": (Sticky("header", "x-who"), lambda r, n: r.route(USUAL._replace(header={"x-who": f"u{n}"}.get)).arm),
    "key": (Sticky("key"), lambda r, n: r.route(USUAL._replace(key=f"sha256:{n:064x}")).arm),
    "session": (Sticky("session"), lambda r, n: r.route(USUAL._replace(session=f"session {n}")).arm),
    "user": (Sticky("user"), lambda r, n: r.route(USUAL._replace(user=f"{n}@example.org")).arm),
}


def ramp(by: str, salt: str, users: int) -> Crowd:
    """A rollout up and down, with a reload (another seed, another rule above it) at each step."""
    sticky, routes = BY[by]
    crowd, share = Crowd(users, routes), 0.0
    rule = _with_canary((3, 1), sticky=replace(sticky, salt=salt))
    others = Route((Arm("", "elsewhere"),), when=When(tenant=Text(exact=("others",))))
    for step in RAMP:
        rules = [rule, others] if step == 0.25 else [others, rule]
        router = Router("m", rules, step, lambda name, step=step: step)  # type: ignore[misc]
        crowd.ask(router, _into("next") if step > share else _out_of("next"))
        crowd.ask(Router("m", [rule], -step, lambda name, step=step: step), _nobody)  # type: ignore[misc]
        share = step
    return crowd


def edits(by: str, salt: str, users: int) -> Crowd:
    """One arm's weight after another's is edited; an arm is added, another one is taken away."""
    sticky, routes = BY[by]
    crowd = Crowd(users, routes)

    def ask(weights: dict[str, float], is_allowed: Callable[[str, str], bool]) -> None:
        arms = tuple(Arm(name, f"pool-{name}", weight) for name, weight in weights.items())
        crowd.ask(Router("m", [Route(arms, sticky=replace(sticky, salt=salt))], 0.5, lambda rule: None), is_allowed)

    ask({"a": 70, "b": 25, "c": 5}, _nobody)
    ask({"a": 70, "b": 50, "c": 5}, _into("b"))
    ask({"a": 7, "b": 50, "c": 5}, _out_of("a"))
    ask({"c": 5, "a": 7, "b": 50}, _nobody)
    ask({"c": 0, "a": 7, "b": 50}, _out_of("c"))
    ask({"c": 0, "a": 7, "b": 50, "d": 10}, _into("d"))
    ask({"a": 7, "d": 10}, _out_of("b"))
    ask({"a": 14, "d": 20}, _nobody)
    return crowd


def show_moves(users: int, salts: int) -> list[Bar]:
    rows, total = [], Counter[str]()
    for what, make in (("rollout 1→5→25→50→100→25→5 %", ramp), ("edits of weights and arms", edits)):
        for by in BY:
            crowds = [make(by, str(salt), users) for salt in range(salts)]
            moved, wrong = sum(crowd.moved for crowd in crowds), sum(crowd.wrong for crowd in crowds)
            rows.append([what, by, f"{users * salts:,}", f"{moved:,}", str(wrong)])
            total[what] += wrong
    print(table(["change", "sticky by", "users", "moved, as they should", "moved otherwise"], rows), flush=True)
    return [Bar(f"{what}: users who changed arm otherwise", wrong, 0) for what, wrong in total.items()]


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(__doc__ or "", argv)
    shares = show_shares(*((10_000, 2) if options.short else (100_000, 8)))
    return conclude([*shares, *show_moves(*((300, 2) if options.short else (10_000, 4)))], short=options.short)


if __name__ == "__main__":
    sys.exit(main())
