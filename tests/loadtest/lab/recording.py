"""Records of a simulated run, line by line as the gateway writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from gateway.core.types import UNKNOWN
from gateway.decisions import describe
from gateway.records import Forecast, RequestRecord, Work
from loadtest.lab.router import Flight, Router
from loadtest.lab.scenario import Scenario
from loadtest.lab.simulation import Simulation


def record(path: Path, scenario: Scenario, rate: float, policy: str = "predicted_latency", seed: int = 0,
           options: Mapping[str, object] | None = None) -> Simulation:  # fmt: skip
    """Run the scenario and append a record of each answer to the file. Returns the simulation, to be looked at."""
    simulation = Simulation(scenario, rate, policy, options or {}, seed, 0.0)
    lines = bytearray()
    for router in simulation.routers:
        _listen(router, lines)
    simulation.run()
    with path.open("ab") as file:
        file.write(lines)
    return simulation


def _listen(router: Router, lines: bytearray) -> None:
    ended = router.ended

    def listening(flight: Flight, now: float, ttft: float, cached: float, generated: int) -> None:
        ended(flight, now, ttft, cached, generated)
        lines.extend(msgspec.json.encode(describe(_record(router, flight, now, ttft, cached, generated))) + b"\n")

    router.ended = listening  # type: ignore[method-assign]


def _record(router: Router, flight: Flight, now: float, ttft: float, cached: float, generated: int) -> RequestRecord:
    request, place = flight.request, flight.reservation
    assert place is not None
    tpot = (now - flight.at - ttft) / (generated - 1) if generated > 1 else UNKNOWN
    return RequestRecord(
        request.id, 1.7e9 + now, 200, "complete", model="llama", pool="gpu", tenant=request.tenant,
        stream=request.stream, endpoint=place.endpoint.id, policy=router.policy.__class__.__name__, tries=1,
        ttft=flight.at + ttft - request.arrived, ttft_there=ttft if request.stream else UNKNOWN,
        tpot=tpot if request.stream else UNKNOWN, duration=now - request.arrived,
        predicted=None if place.forecast is None else Forecast.of(place.forecast), work=Work.of(place),
        prompt_tokens=flight.prompt_tokens, cached_tokens=cached, completion_tokens=float(generated),
    )  # fmt: skip
