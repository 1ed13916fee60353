"""Keys in a file that is saved while the gateway runs: who is let in, and who no longer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.config.loader import load
from gateway.config.types import Config
from gateway.keys_cli import hash_of, new_key
from tests.gateway.test_app import TOKEN, Gated
from tests.support.client import chat, post
from tests.support.gateway import Running
from tests.support.loop import on_uvloop
from tests.support.upstream import Upstream


class Saved:
    """A configuration file that a gateway is reloaded from."""

    def __init__(self, path: Path, upstream: Upstream):
        self.path = path
        self._upstream = upstream

    def save(self, more: str) -> Config:
        pools = f"pools: {{p: {{engine: http, endpoints: ['{self._upstream.url}']}}}}\n"
        self.path.write_text(pools + "models: {m: {to: p}, other: {to: p}}\n" + more)
        return self.load()

    def load(self) -> Config:
        return load(self.path, {}).config

    def keys(self, *keys: str, more: str = "") -> Config:
        return self.save("keys:\n" + "".join(f"  {hash_of(key)}: {{tenant: t{more}}}\n" for key in keys))


async def reload(gateway: Running, saved: Saved) -> tuple[bool, list[str]]:
    """As when the file was saved: it is read anew, and refused whole where it is bad."""
    try:
        gateway.next_config = await asyncio.to_thread(saved.load)
    except ValueError as error:
        gateway.next_config = error
    done, problems = await gateway.gateway.reload()
    return done, list(problems)


@on_uvloop
async def test_a_new_key_works_and_a_removed_one_fails_from_the_next_request_on(tmp_path: Path) -> None:
    old, new = new_key(), new_key()
    async with Upstream() as up:
        saved = Saved(tmp_path / "f.yaml", up)
        async with Running(saved.keys(old)) as gateway, gateway.client() as client:

            async def statuses() -> list[int]:
                lines = ((f"Authorization: Bearer {old}",), (f"x-api-key: {new}",), (f"api-key: {new}x",), ())
                return [(await client.ask("/v1/chat/completions", None, *fields)).status for fields in lines]

            assert await statuses() == [200, 401, 401, 401]
            saved.keys(old, new)
            assert await reload(gateway, saved) == (True, [])
            assert await statuses() == [200, 200, 401, 401]
            saved.keys(new)
            assert await reload(gateway, saved) == (True, [])
            assert await statuses() == [401, 200, 401, 401]
            assert up.posts == 4
        assert old not in gateway.log.text and new not in gateway.log.text


@on_uvloop
async def test_a_stream_goes_on_when_its_key_is_taken_away(tmp_path: Path) -> None:
    key, gated = new_key(), Gated()
    async with Upstream(gated) as up:
        saved = Saved(tmp_path / "f.yaml", up)
        async with Running(saved.keys(key)) as gateway, gateway.client() as client:
            client.send(post(chat(stream=True), "/v1/chat/completions", f"Authorization: Bearer {key}"))
            await client.head()
            saved.keys(new_key())
            assert (await reload(gateway, saved))[0]
            gated.gate.set()
            assert await client._chunks() == ((TOKEN + b"\n\n") * 2, True)
            assert (await client.ask("/v1/chat/completions", None, f"Authorization: Bearer {key}")).status == 401


@on_uvloop
async def test_what_a_key_may_use_changes_with_the_file(tmp_path: Path) -> None:
    key = new_key()
    async with Upstream() as up:
        saved = Saved(tmp_path / "f.yaml", up)
        async with Running(saved.keys(key)) as gateway, gateway.client() as client:
            asked = ("/v1/chat/completions", chat("m"), f"Authorization: Bearer {key}")
            assert (await client.ask(*asked)).status == 200
            saved.keys(key, more=", models: [other]")
            assert (await reload(gateway, saved))[0]
            said = await client.ask(*asked)
            assert (said.status, said.error["code"]) == (403, "model_not_allowed")


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ("keys: {k: {tenant: t, classes: [asinc]}}\n",
         "f.yaml:3:33: class `asinc` does not exist (did you mean `async`?)"),
        ("jobs: {store: 'sqlite:other.db'}\n", "jobs.store: a change needs a restart"),
    ],
)  # fmt: skip
@on_uvloop
async def test_a_bad_file_leaves_the_keys_as_they_were(tmp_path: Path, bad: str, told: str) -> None:
    key = new_key()
    async with Upstream() as up:
        saved = Saved(tmp_path / "f.yaml", up)
        async with Running(saved.keys(key)) as gateway, gateway.client() as client:
            saved.path.write_text(saved.path.read_text().partition("keys:")[0] + bad)
            done, problems = await reload(gateway, saved)
            assert not done and problems[0].endswith(told)
            assert (await client.ask("/v1/chat/completions", None, f"Authorization: Bearer {key}")).status == 200
            assert (await client.ask()).status == 401
