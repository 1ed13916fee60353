"""Limits counted across gateways, with a real Redis: exact together, never waiting for it, and alone without it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from gateway.config.types import Config, Key, KeyLimits, Rate, Secret, Shared
from gateway.core.errors import Refused
from gateway.core.lease import Wish
from gateway.grants import TenantLimit
from gateway.limits import Limiter
from gateway.shared.limits import SharedLimits
from gateway.shared.script import ORDER, SCRIPT
from tests.support.ledger import Ledger
from tests.support.redis_server import RedisServer

LEARNT = KeyLimits(tokens=Rate(20_000, 3600))
STRICT = KeyLimits(tokens=Rate(20_000, 3600), reserve="max_tokens")


@dataclass
class Member:
    """One gateway's limiter."""

    shared: SharedLimits
    limiter: Limiter
    key: Key
    events: list[str] = field(default_factory=list)

    def left(self) -> float:
        reading = self.limiter.readings(time.monotonic())[0]
        assert reading.tokens_left is not None
        return reading.tokens_left

    async def until(self, true: Callable[[], bool], patience: float = 5.0) -> None:
        give_up = time.monotonic() + patience
        while not true():
            assert time.monotonic() < give_up, f"waited {patience} s in vain; {self.events}"
            await asyncio.sleep(0.01)

    def meets_others(self) -> bool:
        """Uses a little, so that there is something to report; whether it knows of other gateways by now."""
        self.limiter.admit(self.key, 1.0, 0.0, None, time.monotonic()).cancel(time.monotonic())
        (account,) = self.shared._accounts.values()
        return account.gateways > 1.0

    async def until_lost(self, lost: bool) -> None:
        await self.until(lambda: self.shared.is_lost is lost)


def note_to(events: list[str]) -> Callable[[str, str], None]:
    return lambda event, why: events.append(event)


@asynccontextmanager
async def members(url: str, limits: KeyLimits, count: int = 2,
                  when_lost: Literal["local", "refuse"] = "local") -> AsyncIterator[list[Member]]:  # fmt: skip
    """Gateways that share one tenant's limits."""
    config = Config(pools={}, models={}, keys=(Key(b"k" * 32, "acme", limits=limits),))
    made: list[Member] = []
    for _ in range(count):
        events: list[str] = []
        shared = SharedLimits(Shared(Secret(url), when_lost), note_to(events))
        made.append(Member(shared, Limiter(config, shared), config.keys[0], events))
    try:
        for member in made:
            await member.shared.start()
        yield made
    finally:
        for member in made:
            await member.shared.stop()


@dataclass
class Sums:
    used: int = 0
    errors: int = 0
    admitted: int = 0
    refused: int = 0


async def call(member: Member, draw: Random, sums: Sums, most: int | None) -> None:
    """One request: a prompt of 100 tokens in 400 bytes, an answer of up to 400, sometimes left early."""
    try:
        grant = await member.limiter.wait_for_grant(member.key, 100.0, 150.0, most, time.monotonic(), 400)
    except TenantLimit as error:
        assert error.retry_after is not None
        sums.refused += 1
        return
    sums.admitted += 1
    answer = draw.randrange(401)
    await asyncio.sleep(draw.random() * 0.3)
    sums.used += 100 + answer
    sums.errors += max(0, answer - 150)
    grant.settle(100.0, float(answer), False, time.monotonic())


async def insist(member: Member, tokens: float, patience: float = 8.0) -> None:
    """One request, asked for again and again, as clients do."""
    give_up = time.monotonic() + patience
    while True:
        try:
            await member.limiter.wait_for_grant(member.key, tokens, 0.0, None, time.monotonic())
            return
        except TenantLimit:
            assert time.monotonic() < give_up
            await asyncio.sleep(0.1)


@pytest.mark.parametrize(("limits", "most"), [(LEARNT, None), (STRICT, 400)])
async def test_fifty_at_once_over_two_gateways_stay_within_the_limit(
    redis_url: str, limits: KeyLimits, most: int | None
) -> None:
    sums, draw = Sums(), Random(1)
    async with members(redis_url, limits) as both:
        began = time.monotonic()
        for _ in range(12):
            await asyncio.gather(*(call(both[number % 2], draw, sums, most) for number in range(50)))
        allowed = 20_000 * (1 + (time.monotonic() - began) / 3600)
        assert sums.refused > 0
        assert sums.used <= allowed + (sums.errors if most is None else 0)
        assert sums.used > 0.8 * allowed  # nor is much of it left lying about
        assert all(member.limiter.readings(0.0)[0].admitted > 0 for member in both)


async def test_requests_that_find_a_lease_do_not_wait(redis_url: str) -> None:
    async with members(redis_url, LEARNT, 1) as (member,):
        for _ in range(8):  # of its floor, 1,250 tokens
            member.limiter.admit(member.key, 100.0, 50.0, None, time.monotonic())


async def test_one_that_finds_its_lease_too_small_waits_for_a_larger_one(redis_url: str) -> None:
    async with members(redis_url, LEARNT, 1) as (member,):
        with pytest.raises(TenantLimit) as caught:
            member.limiter.admit(member.key, 15_000.0, 50.0, None, time.monotonic())
        assert caught.value.renewal is not None
        await member.limiter.wait_for_grant(member.key, 15_000.0, 50.0, None, time.monotonic())
        assert member.limiter.readings(0.0)[0].refused["lease"] == 1


async def test_one_that_needs_all_gets_it_from_a_gateway_at_rest(redis_url: str) -> None:
    async with members(redis_url, LEARNT) as both:
        await insist(both[0], 20_000.0)


async def test_requests_at_once_are_counted_over_both(redis_url: str) -> None:
    async with members(redis_url, KeyLimits(concurrency=10)) as both:
        grants, refused = [], 0
        for number in range(40):
            member = both[number % 2]
            try:
                grants.append(await member.limiter.wait_for_grant(member.key, 1.0, 1.0, None, time.monotonic()))
            except TenantLimit:
                refused += 1
        assert len(grants) == 10 and refused == 30
        for grant in grants:
            grant.settle(1.0, 1.0, False, time.monotonic())
        await both[1].limiter.wait_for_grant(both[1].key, 1.0, 1.0, None, time.monotonic())


async def test_a_day_is_counted_over_both(redis_url: str) -> None:
    async with members(redis_url, KeyLimits(tokens_per_day=1000)) as both:
        for number in range(10):
            member = both[number % 2]
            grant = await member.limiter.wait_for_grant(member.key, 100.0, 0.0, None, time.monotonic())
            grant.settle(100.0, 0.0, False, time.monotonic())
        for member in both:
            with pytest.raises(TenantLimit):
                await member.limiter.wait_for_grant(member.key, 100.0, 0.0, None, time.monotonic())


async def test_a_gateway_that_leaves_gives_back_what_it_kept(redis_url: str) -> None:
    async with members(redis_url, LEARNT) as both:
        await both[0].shared.stop()
        await insist(both[1], 20_000.0)


async def test_other_limits_take_along_what_was_counted(redis_url: str) -> None:
    async with members(redis_url, KeyLimits(tokens=Rate(20_000, 3600), tokens_per_day=50_000), 1) as (member,):
        grant = await member.limiter.wait_for_grant(member.key, 12_000.0, 0.0, None, time.monotonic())
        grant.settle(12_000.0, 0.0, False, time.monotonic())
        key = replace(member.key, limits=KeyLimits(tokens=Rate(30_000, 3600), tokens_per_day=50_000))
        member.limiter.reconfigure(Config(pools={}, models={}, keys=(key,)), time.monotonic())
        with pytest.raises(TenantLimit):
            await member.limiter.wait_for_grant(key, 19_000.0, 0.0, None, time.monotonic())
        await member.limiter.wait_for_grant(key, 17_900.0, 0.0, None, time.monotonic())


# --- without Redis ---------------------------------------------------------------------------------------------------


async def test_down_at_the_start_each_counts_alone_and_joins_when_it_is_up(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    server.start()
    server.stop()
    async with members(server.url, LEARNT) as both:
        assert [member.events for member in both] == [["shared_limits_lost"], ["shared_limits_lost"]]
        both[0].limiter.admit(both[0].key, 15_000.0, 0.0, None, time.monotonic())
        server.start()
        try:
            up = time.monotonic()
            for member in both:
                await member.until_lost(False)
            assert time.monotonic() - up < 5.0
            with pytest.raises(TenantLimit):  # the other knows of the 15,000
                await both[1].limiter.wait_for_grant(both[1].key, 6_000.0, 0.0, None, time.monotonic())
        finally:
            server.stop()


async def test_lost_each_has_a_share_of_the_limit(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        async with members(server.url, LEARNT) as both:
            for member in both:  # until each has heard of the other
                await member.until(lambda member=member: member.meets_others())  # type: ignore[misc]
            server.kill()
            for member in both:
                await member.until_lost(True)
                assert 9_900 <= member.left() <= 10_001
                member.limiter.admit(member.key, 9_000.0, 0.0, None, time.monotonic())
                with pytest.raises(TenantLimit) as caught:
                    member.limiter.admit(member.key, 2_000.0, 0.0, None, time.monotonic())
                assert caught.value.renewal is None
            server.start()
            for member in both:
                await member.until_lost(False)
                assert member.events == ["shared_limits_lost", "shared_limits_back"]
            await both[0].until(lambda: both[0].left() < 2_100)


async def test_lost_it_may_refuse_instead(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        async with members(server.url, LEARNT, 1, "refuse") as (member,):
            member.limiter.admit(member.key, 10.0, 0.0, None, time.monotonic())
            server.kill()
            await member.until_lost(True)
            with pytest.raises(Refused) as caught:
                member.limiter.admit(member.key, 10.0, 0.0, None, time.monotonic())
            assert (caught.value.status, caught.value.reason, caught.value.retry_after) == (503, "tenant_limit", 2.0)
            assert member.limiter.readings(0.0)[0].refused["lost"] == 1


@pytest.mark.parametrize("command", [("REPLICAOF", "127.0.0.1", "1"), ("CONFIG", "SET", "maxmemory", "1")])
async def test_a_redis_that_does_not_write_is_lost_and_comes_back(tmp_path: Path, command: tuple[str, ...]) -> None:
    undo = ("REPLICAOF", "NO", "ONE") if command[0] == "REPLICAOF" else ("CONFIG", "SET", "maxmemory", "0")
    with RedisServer(tmp_path) as server, Redis.from_url(server.url) as by_hand:
        async with members(server.url, LEARNT, 1) as (member,):
            by_hand.execute_command(*command)
            member.limiter.admit(member.key, 10.0, 0.0, None, time.monotonic())  # something to report
            await member.until_lost(True)
            member.limiter.admit(member.key, 10.0, 0.0, None, time.monotonic())
            by_hand.execute_command(*undo)
            await member.until_lost(False)


async def test_a_redis_that_is_slow_is_lost_and_nobody_waits_for_it(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server, Redis.from_url(server.url) as by_hand:
        async with members(server.url, LEARNT, 1) as (member,):
            by_hand.execute_command("CLIENT", "PAUSE", "2500")
            member.limiter.admit(member.key, 10.0, 0.0, None, time.monotonic())  # something to report
            await member.until_lost(True)
            member.limiter.admit(member.key, 10.0, 0.0, None, time.monotonic())
            await member.until_lost(False)


async def test_a_redis_that_is_emptied_is_noticed_and_leases_stay(redis_url: str) -> None:
    with Redis.from_url(redis_url) as by_hand:
        async with members(redis_url, LEARNT, 1) as (member,):
            grant = await member.limiter.wait_for_grant(member.key, 5_000.0, 0.0, None, time.monotonic())
            by_hand.execute_command("FLUSHALL", "SYNC")
            grant.settle(5_000.0, 0.0, False, time.monotonic())
            member.limiter.admit(member.key, 10.0, 0.0, None, time.monotonic())
            await member.until(lambda: "shared_limits_forgotten" in member.events)
            by_hand.execute_command("SCRIPT", "FLUSH")
            member.limiter.admit(member.key, 10.0, 0.0, None, time.monotonic())
            await member.until_lost(True)
            await member.until_lost(False)


async def test_foreign_data_under_its_key_costs_the_ledger_and_not_the_gateway(redis_url: str) -> None:
    with Redis.from_url(redis_url) as by_hand:
        async with members(redis_url, LEARNT, 1) as (member,):
            (key,) = by_hand.keys("headway:limits:*")
            assert b"{acme}" in key
            by_hand.set(key, "not ours")
            member.limiter.admit(member.key, 10.0, 0.0, None, time.monotonic())
            await member.until(lambda: "shared_limits_forgotten" in member.events)
            assert not member.shared.is_lost


# --- the script ------------------------------------------------------------------------------------------------------

Call = tuple[str, list[int], list[int], list[int], list[int], bool]
reports = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.lists(st.integers(0, 3000), min_size=4, max_size=4),  # charged since the last report
        st.lists(st.integers(0, 3000), min_size=4, max_size=4),  # kept
        st.lists(st.integers(0, 8000), min_size=4, max_size=4),  # asked for
        st.lists(st.sampled_from([0, 0, 500, 9000]), min_size=4, max_size=4),  # needed
        st.booleans(),  # leaving
    ),
    max_size=12,
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(reports)
def test_the_script_and_the_plain_ledger_agree(redis_server: RedisServer, calls: list[Call]) -> None:
    """With limits that are so slow that the seconds of the test do not count."""
    ledger = Ledger()
    totals: dict[tuple[str, str], float] = {}
    with Redis.from_url(redis_server.url) as redis:
        redis.flushall()
        script = redis.register_script(SCRIPT)
        for gateway, used, kept, asked, needed, leaving in calls:
            message = {}
            for number, kind in enumerate(ORDER):
                base = totals.get((gateway, kind), 0.0)
                total = totals[gateway, kind] = base + used[number]
                each = 1e6 if kind in ("requests", "tokens") else 0.0
                message[kind] = Wish(10_000.0, each, total, base, float(kept[number]), float(asked[number]),
                                     float(needed[number]), 100.0)  # fmt: skip
            answer = script(["key"], [json.dumps({
                "gateway": gateway, "ttl": 1e9, "life": 10_000, "leaving": leaving,
                "wishes": {kind: wish._asdict() for kind, wish in message.items()},
            })])  # fmt: skip
            figures = [float(figure) for figure in answer]
            expected = ledger.answer(gateway, message, 0.0, leaving)
            assert figures[:3] == [float(expected.known), expected.gateways, float(expected.claimed)]
            assert figures[3:] == pytest.approx([n for kind in ORDER for n in expected.limits[kind]], abs=1.0)
