"""What is known of who uses an adapter, and that it does not pile up."""

from __future__ import annotations

from random import Random

from gateway.adapter_uses import _LEAST, Uses
from gateway.core.fleet import Fleet
from gateway.core.health import Rule
from gateway.core.types import Endpoint


def test_what_was_used_on_endpoints_that_have_left_is_forgotten() -> None:
    """Endpoints that come and go under new names each time left one entry each, for ever."""
    fleet = Fleet("p", Rule(), Random(1))
    uses = Uses(lambda: {"p": fleet}, lambda: 7.0)
    for number in range(4 * _LEAST):
        fleet.update([Endpoint(f"e{number}", f"http://e{number}", "p", "vllm")], 0.0, fresh=True)
        uses.begins(("p", f"e{number}", "a"))
        uses.ends(("p", f"e{number}", "a"))
    assert len(uses._used) <= _LEAST and not uses._running
    assert uses.last(("p", f"e{number}", "a")) == 7.0


def test_who_runs_and_who_is_wanted_is_counted() -> None:
    uses = Uses(dict, lambda: 0.0)
    place = ("p", "e", "a")
    for _ in range(2):
        uses.wants("a")
        uses.begins(place)
    uses.leaves("a")
    uses.ends(place)
    assert uses.is_wanted("a") and uses.is_running(place)
    uses.leaves("a")
    uses.ends(place)
    uses.ends(place)
    assert not uses.is_wanted("a") and not uses.is_running(place)
