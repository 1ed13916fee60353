"""What is told of the endpoints that were closed to filler."""

from __future__ import annotations

import random

import numpy as np

from gateway.core.fleet import Fleet
from gateway.core.health import Rule
from gateway.core.types import Decision, Endpoint
from policies.admission.closed import MOST, Look
from policies.admission.filler import Filler
from tests.support.waiting import ask


def make_fleet(count: int) -> Fleet:
    fleet = Fleet("gpu", Rule(), random.Random(1))
    fleet.update([Endpoint(f"e{i}", f"http://e{i}", "gpu", "vllm") for i in range(count)], 0.0, fresh=True)
    return fleet


def test_each_closed_endpoint_has_the_first_bound_that_it_does_not_keep() -> None:
    kept = {"room": np.array([True, False, True, True]), "pace": np.array([False, False, True, True])}
    look = Look(ask(), make_fleet(4).snapshot(0.0), kept, np.array([False, False, True, False]), "prompt")
    assert look.closed() == (("e0", "pace"), ("e1", "room"), ("e3", "prompt"))


def test_rows_that_were_no_candidates_are_not_named() -> None:
    snapshot = make_fleet(3).snapshot(0.0, ("e0",))
    assert Look(ask(), snapshot, {}, np.array([True, False]), "few").closed() == (("e2", "few"),)


def test_not_more_are_named_than_a_record_keeps() -> None:
    snapshot = make_fleet(MOST + 9).snapshot(0.0)
    assert len(Look(ask(), snapshot, {}, np.zeros(MOST + 9, np.bool_), "few").closed()) == MOST


class Terms:
    slowdown, aborts = 0.05, 3


def test_the_filler_keeps_its_last_look_with_what_came_of_it() -> None:
    filler, fleet, request = Filler(Terms()), make_fleet(2), ask(filler=True)
    assert filler.look is None
    found = filler.open_rows(request, fleet.snapshot(0.0), 0.0)
    look = filler.look
    assert found is not None and look is not None and look.found is found and look.request is request
    assert look.closed() == ()
    for row in (0, 1):  # somebody is there, and nothing can be predicted
        fleet.reserve(Decision(row, ""), ask(), 0.0)
    assert filler.open_rows(ask(filler=True), fleet.snapshot(1.0), 1.0) is None
    assert filler.look is not None and filler.look.found is None
    assert filler.look.closed() == (("e0", "few"), ("e1", "few"))
