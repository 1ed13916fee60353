"""Whose limits hold for work that outlives its key."""

from __future__ import annotations

from gateway.config.types import Config, Key, KeyLimits
from gateway.core.lengths import Lengths
from gateway.fields import digest
from gateway.intake import ANYONE, Intake
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
