"""Session hash: a session stays, few move, nobody gets more than its bound."""

import math
import random

import pytest

from gateway.core.fleet import Fleet
from gateway.core.health import Rule
from gateway.core.types import Endpoint, Load, Request
from policies.picking import check
from policies.picking.session_hash import SessionHash


def make_request(session: str = "", prompt: bytes = b"", tenant: str = "t") -> Request:
    return Request("r", "m", 0.0, prompt, session=session, tenant=tenant)


def make_fleet(numbers, seed: int = 1) -> Fleet:
    fleet = Fleet("pool", Rule(), random.Random(seed))
    update(fleet, numbers)
    return fleet


def update(fleet: Fleet, numbers) -> list[int]:
    return fleet.update([Endpoint(f"e{i}", f"http://h:{i}", "pool", "vllm") for i in numbers], 0.0, fresh=True)


def where(policy: SessionHash, fleet: Fleet, request: Request) -> str:
    return fleet.endpoint(policy.pick(request, fleet.snapshot(0.0)).row).id


def test_a_session_stays_where_it_is():
    policy, fleet = SessionHash(), make_fleet(range(8))
    for session in ("a", "b", "c"):
        assert len({where(policy, fleet, make_request(session)) for _ in range(20)}) == 1


def test_every_gateway_agrees():
    here, there = make_fleet(range(8), seed=1), make_fleet([5, 3, 7, 1, 0, 2, 4, 6], seed=99)
    for i in range(100):
        request = make_request(f"s{i}")
        assert where(SessionHash(), here, request) == where(SessionHash(), there, request)


def test_when_an_endpoint_leaves_only_its_own_sessions_move():
    policy, fleet = SessionHash(), make_fleet(range(8))
    before = {i: where(policy, fleet, make_request(f"s{i}")) for i in range(2000)}
    for row in update(fleet, [0, 1, 2, 4, 5, 6, 7]):
        policy.leave(row)
    after = {i: where(policy, fleet, make_request(f"s{i}")) for i in range(2000)}
    moved = [i for i in before if before[i] != after[i]]
    assert {before[i] for i in moved} == {"e3"}
    assert {after[i] for i in moved} == {f"e{i}" for i in (0, 1, 2, 4, 5, 6, 7)}


def test_a_newcomer_takes_about_its_share_from_all():
    policy, fleet = SessionHash(), make_fleet(range(8))
    before = {i: where(policy, fleet, make_request(f"s{i}")) for i in range(4000)}
    update(fleet, range(9))
    after = {i: where(policy, fleet, make_request(f"s{i}")) for i in range(4000)}
    moved = [i for i in before if before[i] != after[i]]
    assert {after[i] for i in moved} == {"e8"}
    assert 4000 / 9 * 0.8 < len(moved) < 4000 / 9 * 1.2


def test_keys_spread_evenly():
    policy, fleet = SessionHash(), make_fleet(range(16))
    counts = dict.fromkeys((f"e{i}" for i in range(16)), 0)
    for i in range(8000):
        counts[where(policy, fleet, make_request(f"user-{i}"))] += 1
    assert min(counts.values()) > 420 and max(counts.values()) < 580


@pytest.mark.parametrize("bound", [1.0, 1.25, 2.0])
def test_one_session_never_gets_more_than_the_bound(bound):
    policy, fleet = SessionHash(bound=bound), make_fleet(range(5))
    for count in range(1, 200):
        request = make_request("hot")
        fleet.reserve(policy.pick(request, fleet.snapshot(0.0)), request, 0.0)
        assert fleet.ours.max() <= math.ceil(bound * count / 5)


def test_what_does_not_fit_goes_to_the_same_second_choice():
    policy, fleet = SessionHash(), make_fleet(range(6))
    request = make_request("hot")
    first = fleet.reserve(policy.pick(request, fleet.snapshot(0.0)), request, 0.0)
    second = {where(policy, fleet, request) for _ in range(20)}
    assert len(second) == 1 and first.endpoint.id not in second
    decision = policy.pick(request, fleet.snapshot(0.0))
    assert "next in order" in decision.reason
    first.settle()
    assert where(policy, fleet, request) == first.endpoint.id


def test_requests_of_others_count_towards_the_bound():
    policy, fleet = SessionHash(), make_fleet(range(4))
    home = policy.pick(make_request("x"), fleet.snapshot(0.0)).row
    for row in range(4):
        fleet.observe(row, Load(0.0, waiting=0.0, running=40.0 if row == home else 10.0), 0.0)
    assert policy.pick(make_request("x"), fleet.snapshot(0.0)).row != home


def test_tenants_with_the_same_session_name_are_apart():
    policy, fleet = SessionHash(), make_fleet(range(32))
    assert len({where(policy, fleet, make_request("1", tenant=f"t{i}")) for i in range(30)}) > 10


def test_without_a_session_the_beginning_of_the_prompt_is_the_key():
    policy, fleet = SessionHash(), make_fleet(range(16))
    system = b'[{"role":"system","content":"%s"' % (b"x" * 600)
    assert len({where(policy, fleet, make_request(prompt=system + bytes([i]) * 50)) for i in range(20)}) == 1
    assert where(policy, fleet, make_request("s", system)) == where(policy, fleet, make_request("s", b"other"))


def test_without_any_key_the_least_tokens_decide():
    fleet = make_fleet(range(3))
    for policy, prompt in ((SessionHash(), b"short"), (SessionHash(prefix_bytes=0), b"x" * 5000)):
        decision = policy.pick(make_request(prompt=prompt), fleet.snapshot(0.0))
        assert "tokens left to do there" in decision.reason


def test_options_are_checked():
    assert check("session_hash", {"bound": 0.9}) == "pick: session_hash: bound must be a number of at least 1, not 0.9"
    message = check("session_hash", {"prefix_bytes": 1.5})
    assert message is not None and "prefix_bytes must be a whole number from 0 to 1000000, not 1.5" in message
