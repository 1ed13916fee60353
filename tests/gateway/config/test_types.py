"""The values: frozen, comparable, and silent about secrets."""

from dataclasses import FrozenInstanceError

import pytest

from gateway.config.types import Config, Key, Listen, Pool, Secret


def test_a_secret_is_given_away_only_when_asked() -> None:
    secret = Secret("hunter2")
    assert secret.reveal() == "hunter2"
    assert secret == Secret("hunter2") != Secret("other")
    assert "hunter2" not in f"{secret!r} {secret!s} {Pool('p', api_key=secret)}"


def test_a_keys_digest_is_not_printed() -> None:
    assert "ab" not in repr(Key(b"\xab" * 32, "t"))


def test_values_cannot_be_changed_and_compare_by_content() -> None:
    config = Config({}, {})
    with pytest.raises(FrozenInstanceError):
        config.listen = Listen()  # type: ignore[misc]
    assert config == Config({}, {})
    assert Pool("a") != Pool("b")
