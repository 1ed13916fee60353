"""The watch for endpoints that fell silent: what it takes for a hang, and what it moves when one is out of service."""

from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from backends import create as create_backend
from gateway.config.types import EndpointSpec, Pool
from gateway.core.fleet import Fleet
from gateway.core.health import Evidence, Rule, State
from gateway.core.types import Endpoint
from gateway.lane import GONE, SILENCE, Lane
from gateway.relay import Relay
from policies.picking import create as create_policy

URLS = ("http://127.0.0.1:1", "http://127.0.0.1:2")


@dataclass(eq=False)
class Waiting:
    """A try under way, as the watch sees it. `moved` counts how often it was told to give up."""

    row: int
    last_at: float
    stream: bool = True
    started: bool = False
    moved: int = 0
    ended: str = ""
    connection: object = field(default_factory=object)

    def __post_init__(self) -> None:
        self.reservation = SimpleNamespace(row=self.row)
        self.reply = SimpleNamespace(paused=False, started=self.started)

    def check(self, now: float) -> None:
        """Its own time is not over."""

    def fail(self, error: Exception, ended: str) -> None:
        self.moved += 1
        self.ended = ended


@pytest.fixture
def lane() -> Lane:
    fleet = Fleet("main", Rule(), Random(1))
    fleet.update([Endpoint(url, url, "main", "vllm") for url in URLS], 0.0, fresh=True)
    backend = create_backend("vllm")
    pool = Pool("main", engine="vllm", endpoints=tuple(EndpointSpec(url) for url in URLS))
    return Lane(pool, fleet, create_policy("least_tokens", {}), lambda _: backend, None)


def send(lane: Lane, **what: Any) -> Waiting:
    waiting = Waiting(**what)
    lane.relays.add(cast(Relay, waiting))
    return waiting


def lose(lane: Lane, row: int, now: float) -> None:
    for _ in range(3):
        lane.fleet.see(row, Evidence.PROBE_FAILED, now)
    assert lane.fleet.health(row).state is State.DOWN


def test_silence_proves_nothing_before_it_is_known_how_long_a_first_token_takes(lane: Lane) -> None:
    waiting = send(lane, row=0, last_at=0.0)
    lane.sweep(50.0)
    assert (waiting.moved, lane.fleet.health(0).state) == (0, State.HEALTHY)


def test_a_stream_that_waits_at_a_server_out_of_reach_is_moved_though_no_first_token_was_ever_seen(lane: Lane) -> None:
    waiting = send(lane, row=0, last_at=0.0)
    started = send(lane, row=0, last_at=0.0, started=True)
    other = send(lane, row=1, last_at=0.0)
    lose(lane, 0, 1.0)
    lane.sweep(SILENCE - 0.1)
    assert waiting.moved == 0
    lane.sweep(SILENCE + 0.1)
    assert (waiting.moved, started.moved, other.moved) == (1, 0, 0)


def test_a_server_out_of_reach_that_still_sends_tokens_keeps_its_streams(lane: Lane) -> None:
    waiting = send(lane, row=0, last_at=0.0)
    lose(lane, 0, 1.0)
    lane.fleet.progress_at[0] = 9.0
    lane.sweep(10.0)
    assert waiting.moved == 0


def test_a_stream_sent_just_now_is_not_moved_for_the_silence_of_an_older_one(lane: Lane) -> None:
    send(lane, row=0, last_at=0.0, started=True)
    lose(lane, 0, 1.0)
    late = send(lane, row=0, last_at=9.5)
    lane.sweep(10.0)
    assert late.moved == 0


def test_a_plain_request_is_moved_only_from_a_server_that_was_out_of_reach_for_long(lane: Lane) -> None:
    waiting = send(lane, row=0, last_at=0.0, stream=False)
    lose(lane, 0, 1.0)
    lane.sweep(GONE)
    assert waiting.moved == 0
    lane.sweep(GONE + 1.1)
    assert waiting.moved == 1
