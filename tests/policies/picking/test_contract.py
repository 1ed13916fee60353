"""What every picking policy promises, over the whole registry with default options: a new line is tested by itself."""

import random
import warnings

import numpy as np
import pytest

from gateway.core.fleet import Fleet
from gateway.core.health import Rule
from gateway.core.predictor import Predictor
from gateway.core.types import UNKNOWN, Endpoint, Load, Outcome, Request
from policies.picking import POLICIES, check, create
from policies.picking.base import Policy

NAMES = sorted(POLICIES)
COLUMNS = Fleet._NAMES


def make_fleet(name: str, count: int = 8, seed: int = 1) -> Fleet:
    """A fleet as this policy finds it: with a predictor if it predicts."""
    fleet = Fleet("pool", Rule(), random.Random(seed))
    if POLICIES[name].predicts:
        fleet.predictor = Predictor()
    fleet.update(endpoints(range(count)), 0.0, fresh=True)
    return fleet


def endpoints(numbers) -> list[Endpoint]:
    return [Endpoint(f"e{i}", f"http://10.0.0.{i}:8000", "pool", "vllm") for i in numbers]


def make_request(number: int, prompt: bytes | None = None, session: str = "") -> Request:
    text = b'[{"role":"user","content":"%032d %s"}]' % (number * 7919, b"word " * 400)
    return Request(f"r{number}", "m", 0.0, text if prompt is None else prompt, 500.0, 200.0, session=session)


def serve(policy: Policy, fleet: Fleet, request: Request, now: float = 0.0, avoid=()):
    """One step of the gateway: look, pick, take. Returns the reservation; the choice was legal."""
    snapshot = fleet.snapshot(now, avoid)
    decision = policy.pick(request, snapshot)
    assert type(decision.row) is int
    assert decision.row in snapshot.rows.tolist()
    assert decision.reason
    assert 0.0 <= decision.cached_tokens <= request.prompt_tokens
    assert decision.scores is None or decision.scores.shape == (len(snapshot),)
    assert decision.forecast is None or policy.predicts
    assert decision.terms is None or decision.terms.shape == (len(policy.TERMS), len(snapshot))
    decision.taken()
    return fleet.reserve(decision, request, now)


def finish(
    policy: Policy, reservation, request: Request, ended: str = "complete", cached: float = UNKNOWN, now: float = 1.0
) -> None:
    row, endpoint = reservation.row, reservation.endpoint
    status, ttft = (200, 0.1) if ended == "complete" else (502, UNKNOWN)
    outcome = Outcome(request, endpoint, row, status, ended, 1.0, ttft, request.prompt_tokens, cached, 10.0)
    reservation.settle(now, outcome)
    policy.observe(outcome)


@pytest.mark.parametrize("name", NAMES)
def test_a_policy_is_made_with_its_defaults(name):
    assert isinstance(create(name, {}), POLICIES[name])
    assert check(name, {}) is None


@pytest.mark.parametrize("name", NAMES)
def test_every_policy_names_its_source_and_its_options(name):
    assert POLICIES[name].__doc__
    assert __import__(POLICIES[name].__module__, fromlist=["x"]).__doc__


@pytest.mark.parametrize("name", NAMES)
def test_a_choice_that_comes_to_nothing_is_not_remembered(name):
    """The desk may refuse the request then, or let it wait and ask about it again."""
    policy, fleet = create(name, {}), make_fleet(name, 2)
    for i in range(20):
        policy.pick(make_request(i, b"the same words " * 100), fleet.snapshot(0.0))
    decision = policy.pick(make_request(99, b"the same words " * 100), fleet.snapshot(0.0))
    assert decision.cached_tokens == 0.0
    learnt = getattr(policy, "_caches", None)
    assert learnt is None or not (learnt._pending or len(learnt._index))
    held = getattr(policy, "_held", None)
    assert held is None or not (held._open or held._booked.any())


@pytest.mark.parametrize("name", NAMES)
def test_the_choice_is_legal_whatever_comes_and_goes(name):
    policy, fleet, dice = create(name, {}), make_fleet(name), random.Random(5)
    here, open_requests = set(range(8)), []
    for step in range(1500):
        now, move = step * 0.01, dice.random()
        if move < 0.1:
            here ^= {dice.randrange(14)}
            here = here or {dice.randrange(14)}
            for row in fleet.update(endpoints(sorted(here)), now, fresh=True):
                policy.leave(row)
        elif move < 0.45 and open_requests:
            reservation, request = open_requests.pop(dice.randrange(len(open_requests)))
            freed = reservation.row if fleet.is_leaving(reservation.row) else None
            if dice.random() < 0.5:
                reservation.first_token(now)
            ended = dice.choice(["complete", "upstream_failed", "client_gone"])
            finish(policy, reservation, request, ended, 100.0, now)
            if freed is not None and fleet.row_of(reservation.endpoint.id) is None:
                policy.leave(freed)
        else:
            avoid = [f"e{dice.randrange(14)}"] if len(here) > 1 and dice.random() < 0.3 else []
            session = dice.choice(["", "", "a", "b"])
            request = make_request(dice.randrange(20) if dice.random() < 0.7 else step, session=session)
            open_requests.append((serve(policy, fleet, request, now, avoid), request))
    for reservation, request in open_requests:
        finish(policy, reservation, request, now=15.0)
    assert not any(fleet.inflight().values())


@pytest.mark.parametrize("name", NAMES)
def test_one_candidate_is_chosen(name):
    policy, fleet = create(name, {}), make_fleet(name, 1)
    for i in range(5):
        assert serve(policy, fleet, make_request(i)).row == 0


@pytest.mark.parametrize("name", NAMES)
def test_the_only_candidate_left_after_avoiding_is_chosen(name):
    policy, fleet = create(name, {}), make_fleet(name, 4)
    for i in range(8):
        assert serve(policy, fleet, make_request(i), avoid=["e0", "e1", "e3"]).row == 2


@pytest.mark.parametrize("name", NAMES)
def test_empty_and_tiny_prompts_are_served(name):
    policy, fleet = create(name, {}), make_fleet(name, 3)
    for prompt in (b"", b'""', b"[]", b"\xff\xfe"):
        serve(policy, fleet, make_request(1, prompt))


@pytest.mark.parametrize("name", NAMES)
def test_picking_changes_no_column_of_the_fleet(name):
    policy, fleet = create(name, {}), make_fleet(name)
    for i in range(20):
        serve(policy, fleet, make_request(i))
    before = {column: getattr(fleet, column).copy() for column in COLUMNS}
    for i in range(20):
        decision = policy.pick(make_request(i), fleet.snapshot(0.0))
        if decision.scores is not None:
            decision.scores[:] = -1.0
    for column in COLUMNS:
        np.testing.assert_array_equal(before[column], getattr(fleet, column), err_msg=column)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_choices(name):
    def rows():
        policy, fleet = create(name, {}), make_fleet(name, seed=3)
        return [serve(policy, fleet, make_request(i % 30)).row for i in range(100)]

    assert rows() == rows()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("strange", [np.nan, np.inf])
def test_unknown_figures_neither_warn_nor_break(name, strange):
    policy, fleet = create(name, {}), make_fleet(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for column in ("kv_used", "kv_capacity", "waiting", "running", "others", "requests", "tokens", "prefill"):
            values = getattr(fleet, column)
            for filled in (values[:1], values[1:7], values):
                before = values.copy()
                filled[:] = strange
                for i in range(5):
                    snapshot = fleet.snapshot(0.0)
                    request = make_request(i, session="s" * (i % 2))
                    assert policy.pick(request, snapshot).row in snapshot.rows.tolist()
                values[:] = before
        fleet.observe(0, Load(1.0, waiting=3.0, running=5.0), 0.0)
        serve(policy, fleet, make_request(1), 1.0)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_that_left_and_came_back_with_another_endpoint_is_like_new(name):
    policy, fleet = create(name, {}), make_fleet(name, 3)
    for i in range(30):
        reservation, request = serve(policy, fleet, make_request(i)), make_request(i)
        finish(policy, reservation, request)
    for row in fleet.update(endpoints([0, 1]), 1.0):
        policy.leave(row)
    fleet.update(endpoints([0, 1, 9]), 2.0, fresh=True)
    assert fleet.row_of("e9") == 2
    assert 2 in {serve(policy, fleet, make_request(100 + i), 2.0).row for i in range(60)}
