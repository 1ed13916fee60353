"""Whence a configuration comes: a file, and what it was when it was read last; URLs; texts that were kept."""

from pathlib import Path

import pytest

from gateway.config.problems import ConfigError
from gateway.source import ConfigSource

GOOD = b"pools: {p: {endpoints: [http://a]}}\nmodels: {m: {to: p}}\n"


async def test_what_was_read_last_is_known_whether_it_was_good_or_not(tmp_path: Path) -> None:
    file = tmp_path / "headway.yaml"
    source = ConfigSource(str(file), env={})
    assert source.used() is None
    file.write_bytes(GOOD)
    assert set((await source.read()).config.models) == {"m"}
    assert source.used() == GOOD
    file.write_bytes(b"pools: {")
    with pytest.raises(ConfigError):
        await source.read()
    assert source.used() == b"pools: {"
    file.unlink()
    with pytest.raises(ConfigError):
        await source.read()
    assert source.used() is None


async def test_a_text_that_was_kept_is_read_as_if_it_were_the_file(tmp_path: Path) -> None:
    file = tmp_path / "headway.yaml"
    file.write_bytes(GOOD)
    source = ConfigSource(str(file), env={"NAME": "n"})
    loaded = await source.parse(GOOD + b"state: ${NAME}\n")
    assert loaded.config.state == str(tmp_path / "n")
    assert source.used() is None


async def test_urls_alone_are_a_configuration_too() -> None:
    source = ConfigSource(None, ("http://a",))
    assert set((await source.read()).config.pools) == {"default"}
    assert source.used() is None
