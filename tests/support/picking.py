"""A small fleet and requests for tests of picking policies."""

import random

from gateway.core.fleet import Fleet
from gateway.core.health import Rule
from gateway.core.types import UNKNOWN, Decision, Endpoint, Outcome, Request

SYSTEM = random.Random(1).randbytes(8000)


def make_fleet(count: int = 4, predictor=None) -> Fleet:
    fleet = Fleet("pool", Rule(), random.Random(1))
    fleet.update([Endpoint(f"e{i}", f"http://h:{i}", "pool", "vllm") for i in range(count)], 0.0, fresh=True)
    fleet.predictor = predictor
    return fleet


def make_request(number: int, prefix: bytes = SYSTEM, tokens: float = 2000.0, **more) -> Request:
    """8 KB that all have in common, unless another `prefix` is given, and a question of its own."""
    return Request(f"r{number}", "m", 0.0, prefix + b"question %d" % number, tokens, 100.0, **more)


def load(fleet: Fleet, row: int, requests: int, tokens: float = 100.0, started: bool = False) -> list:
    """So many requests in flight at a row, each with a prompt of `tokens`; `started`: it has been prefilled."""
    taken = []
    for i in range(requests):
        request = Request(f"load-{row}-{i}", "m", 0.0, b"", tokens, 100.0)
        taken.append(fleet.reserve(Decision(row, ""), request, 0.0))
        if started:
            taken[-1].first_token(0.0)
    return taken


def pick(policy, fleet: Fleet, request: Request) -> Decision:
    """One choice, and the request goes there."""
    decision = policy.pick(request, fleet.snapshot(0.0))
    decision.taken()
    return decision


def serve(policy, fleet: Fleet, request: Request, cached: float = UNKNOWN) -> Decision:
    """One request from pick to end, alone."""
    decision = pick(policy, fleet, request)
    reservation = fleet.reserve(decision, request, 0.0)
    reservation.settle(0.0)
    policy.observe(Outcome(request, reservation.endpoint, decision.row, 200, "complete", 1.0, 0.1,
                           request.prompt_tokens, cached, 10.0))  # fmt: skip
    return decision
