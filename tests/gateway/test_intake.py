"""Whose limits hold for work that outlives its key, and where one goes whose pool a reload has taken away."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from gateway.config.types import Config, Key, KeyLimits, model_to
from gateway.core.lengths import Lengths
from gateway.fields import digest
from gateway.intake import ANYONE, Intake
from policies.routing import Asked, Way
from tests.support.jobs_api import settings

OLD, FREE, LIMITED = (Key(digest(name), "acme", frozenset(("m",)), limits=limits) for name, limits in (
    (b"old", KeyLimits(None, None, 2, None)), (b"free", None), (b"limited", KeyLimits(None, None, 5, None)),
))  # fmt: skip


def intake(*keys: Key) -> Intake:
    config: Config = settings(keys=keys)
    return Intake(config, lambda name: Lengths())


def test_work_whose_key_is_gone_is_held_to_the_limits_of_its_tenant() -> None:
    """To replace a key was a way around its limits: what it had left in the queue ran without any."""
    assert intake(OLD).key_of(OLD.digest) == OLD
    for keys in ((FREE, LIMITED), (LIMITED, FREE)):
        found = intake(*keys).standing_in("acme")
        assert found is not None and (found.digest, found.limits) == (LIMITED.digest, LIMITED.limits)
        assert found.models is None, "what was accepted is done, whatever this key may ask for now"
    assert intake(FREE).standing_in("acme") is not None
    assert intake(FREE).standing_in("bob") is None


def test_without_keys_everybody_is_anonymous() -> None:
    assert intake().key_of(None) is ANYONE and intake().standing_in("acme") is None


def moved(prompt: int) -> tuple[str, ...] | None:
    """The pools of a request with a prompt of so many tokens, when its own pool has left."""
    config = Config({}, {"m": model_to("m", "short", fallback=("long",))})
    made = Intake(config, lambda name: Lengths(), longest=lambda pool, name: {"short": 1000, "long": 8000}[pool])
    asked = Asked("m", "/v1/completions", "t", "", "interactive", prompt, False, "", "", lambda name: None, 0.0)
    ask: Any = SimpleNamespace(
        client_model="m", upstream_model="m", asked=asked, key=ANYONE, way=Way("", ("gone",), 0.0, None, ""),
        request=SimpleNamespace(prompt=b'"word"'), limit=None, generates=True,
    )  # fmt: skip
    way = made.way_now(ask)
    return way.pools if way is not None else None


def test_who_is_sent_another_way_goes_where_its_prompt_fits() -> None:
    """Only the new rules were asked, so a long prompt came to servers that cannot take it."""
    assert moved(10) == ("short", "long")
    assert moved(5000) == ("long",)
    assert moved(50_000) is None
