"""A profile's figures as prices: the same seconds for the same iteration."""

from __future__ import annotations

import dataclasses

import pytest

from backends.sim.profiles import names, profile
from gateway.core.prediction import Prior
from gateway.priors import prior_of


@pytest.mark.parametrize("name", names())
def test_every_profile_makes_a_prior_in_which_everything_has_a_price(name: str) -> None:
    prior = prior_of(name)
    for price in ("overhead", "base", "decode", "context", "slope1", "slope2", "slope3", "pair", "knee1", "kv_tokens"):
        assert getattr(prior, price) > 0.0, price
    assert prior.sure and prior.knee1 <= prior.knee2
    assert prior.base < 0.1 and prior.slope3 < 0.001  # seconds, not milliseconds


def test_an_iteration_costs_what_the_profile_says() -> None:
    name = "h100_llama-3.1-8b_bf16_tp1"
    prior = prior_of(name)
    decodes, context, chunk = 20, 30_000, 1_000
    tokens = decodes + chunk
    knees = (prior.knee1 - decodes) * prior.slope1 + (prior.knee2 - prior.knee1) * prior.slope2
    ours = prior.base + prior.decode * decodes + prior.context * context + knees
    ours += (tokens - prior.knee2) * prior.slope3 + prior.pair * chunk * chunk / 2
    theirs = profile(name).seconds(tokens, chunk * chunk / 2, 0, 1, decodes, context)
    assert ours == pytest.approx(theirs, rel=0.001)


def test_the_way_to_the_engine_is_not_the_profiles_business() -> None:
    assert {prior_of(name).overhead for name in names()} == {Prior().overhead}
    assert {field.name for field in dataclasses.fields(Prior)} >= {"overhead", "chunk"}


def test_an_unknown_profile_is_named_with_close_ones() -> None:
    with pytest.raises(ValueError, match="h100_llama"):
        prior_of("h100_llama")
