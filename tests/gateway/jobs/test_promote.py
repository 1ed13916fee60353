"""Work whose time runs out runs as the class it gives way to, where the operator allows it."""

from __future__ import annotations

from dataclasses import replace

from gateway.config.types import Config, FillerRule, Jobs, Secret, TrafficClass
from gateway.jobs.eta import Etas
from gateway.jobs.holding import Hands
from gateway.jobs.model import Claim, Queue, Stats
from gateway.jobs.promote import Promotion
from tests.support.shelf import Shelf

AT = 1_000_000.0
KIND = ("async", "m")


def config(*, promote: bool = True) -> Config:
    classes = {"interactive": TrafficClass("interactive", True, 10),
               "async": TrafficClass("async", filler=FillerRule(promote=promote))}  # fmt: skip
    return Config({}, {}, classes=classes, jobs=Jobs(Secret("sqlite:x")))


async def made(deadline: float, ahead: int, *, promote: bool = True, rate: int = 10) -> tuple[Promotion, Claim]:
    """A claim with that deadline behind `ahead` others, after a minute at that rate (0: nothing ended)."""
    shelf = Shelf()
    for n in range(ahead):
        shelf.put(f"{n}", deadline=deadline)
    (claim,) = await shelf.claim("me", 1, AT + 30, AT, klass="async", model="m")
    etas = Etas(shelf.store, Hands())
    for second in range(60):
        etas.look(Stats((Queue(*KIND, ahead, 0, deadline),)), AT + second - 60)
        for _ in range(rate):
            etas.ended(KIND, AT + second - 60, 0.5)
    return Promotion(shelf.store, etas, config(promote=promote)), claim


async def test_work_with_time_to_spare_runs_as_its_own_class() -> None:
    promotion, claim = await made(AT + 1000, 1000)
    assert await promotion.look([claim], AT)
    assert promotion.class_of(claim, AT) == "async"
    assert promotion.at_risk() == {"async": 0}


async def test_work_whose_time_runs_out_runs_as_the_protected_class() -> None:
    promotion, claim = await made(AT + 1000, 7000)
    await promotion.look([claim], AT)
    assert promotion.class_of(claim, AT) == "interactive"
    assert promotion.at_risk() == {"async": 0}, "in time, if nothing slows it down"


async def test_what_will_be_late_is_at_risk() -> None:
    promotion, claim = await made(AT + 100, 3000)
    await promotion.look([claim], AT)
    assert 1900 <= promotion.at_risk()["async"] <= 2050


async def test_nothing_is_promoted_where_the_operator_does_not_allow_it() -> None:
    promotion, claim = await made(AT + 10, 7000, promote=False)
    assert not await promotion.look([claim], AT)
    assert promotion.class_of(claim, AT) == "async"


async def test_work_that_never_had_its_turn_is_promoted_too() -> None:
    promotion, claim = await made(AT + 40, 10, rate=0)
    await promotion.look([claim], AT)
    assert promotion.class_of(claim, AT) == "interactive"


async def test_a_class_that_a_reload_took_away_is_stood_in_for() -> None:
    promotion, claim = await made(AT + 1000, 10)
    assert promotion.class_of(replace(claim, klass="gone"), AT) == "async"


async def test_a_store_that_is_away_changes_nothing() -> None:
    promotion, claim = await made(AT + 1000, 10)
    promotion._store.away = True  # type: ignore[attr-defined]
    assert await promotion.look([claim], AT)
    assert promotion.class_of(claim, AT) == "async"
