"""A pool with a predictor that knows its engines, and what a filler's tests do to it."""

from random import Random

from gateway.core.fleet import Fleet
from gateway.core.health import Rule
from gateway.core.prediction import Prior
from gateway.core.predictor import Predictor
from gateway.core.reservation import Reservation
from gateway.core.snapshot import Snapshot
from gateway.core.types import Decision, Endpoint, Load, Outcome, Request
from policies.admission.filler import Filler

KNOWN = Prior(overhead=0.015, base=0.007, decode=6.4e-6, context=4.3e-8, slope1=7.4e-6, slope2=1.5e-5, slope3=2.1e-5,
              pair=8e-10, knee1=256, knee2=768, chunk=2048, kv_tokens=450_000, sure=True)  # fmt: skip


class Terms:
    """What an operator said."""

    def __init__(self, slowdown: float = 0.05, aborts: int = 3):
        self.slowdown, self.aborts = slowdown, aborts


class Pool:
    """A fleet, its filler, and a clock that the test moves."""

    def __init__(self, size: int = 8, slowdown: float = 0.05, aborts: int = 3, predictor: bool = True):
        self.fleet = Fleet("pool", Rule(), Random(1), size=max(8, size))
        if predictor:
            self.fleet.predictor = Predictor(KNOWN)
        self.fleet.update([Endpoint(f"e{i}", f"http://e{i}", "pool", "vllm") for i in range(size)], 0.0, fresh=True)
        self.filler = Filler(Terms(slowdown, aborts))
        self.now = 0.0
        self.made = 0

    def ask(self, filler: bool = True, prompt: float = 2000.0, output: float = 300.0, slo: bool = True) -> Request:
        self.made += 1
        promised = (0.5, 0.025) if slo and not filler else (float("nan"), float("nan"))
        return Request(id=str(self.made), model="m", arrived=self.now, prompt_tokens=prompt, output_tokens=output,
                       stream=True, ttft_slo=promised[0], tpot_slo=promised[1], filler=filler)  # fmt: skip

    def snapshot(self) -> Snapshot:
        return self.fleet.snapshot(self.now)

    def open(self, aborted: int = 0, prompt: float = 2000.0) -> list[int]:
        found = self.filler.open_rows(self.ask(prompt=prompt), self.snapshot(), self.now, aborted)
        return [] if found is None else found.rows.tolist()

    def send(self, row: int, filler: bool = True, started: bool = True, aborted: int = 0, slo: bool = True,
             prompt: float = 2000.0) -> Reservation:  # fmt: skip
        """Take a place, whatever the filler says; with `started` its first token comes at once."""
        request, fleet = self.ask(filler, prompt, slo=slo), self.fleet
        forecast = None
        if fleet.predictor is not None:
            forecast = fleet.predictor.forecast(fleet.predictor.predict(request, self.snapshot()), row)
        reservation = fleet.reserve(Decision(row, "test", forecast=forecast), request, self.now)
        if filler:
            self.filler.admitted(reservation, request, self.now, aborted)
        else:
            self.filler.taken(reservation, request, self.now)
        if started:
            reservation.first_token(self.now)
        return reservation

    def fill(self, each: int, aborted: int = 0) -> None:
        """So many on every endpoint, decoding."""
        for _ in range(each):
            for row, _ in self.fleet.members():
                self.send(row, aborted=aborted)
        self.now += 60.0  # what their prompts took is long ago

    def end(self, reservation: Reservation, ttft: float = 0.05, pace: float = 0.01, tokens: float = 100.0) -> None:
        request = self.ask(filler=False)
        outcome = Outcome(request, reservation.endpoint, reservation.row, 200, "complete", ttft + pace * (tokens - 1.0),
                          ttft, 1000.0, 0.0, tokens)  # fmt: skip
        reservation.settle(self.now, outcome)
        self.filler.ended(reservation, outcome, self.now)

    def drop(self, reservation: Reservation) -> None:
        reservation.settle(self.now)
        self.filler.ended(reservation, None, self.now)

    def victims(self) -> list[Reservation]:
        self.now += 0.05
        return self.filler.victims(self.fleet, self.now)

    def scraped(self, row: int, waiting: float) -> None:
        running = self.fleet.ours.item(row) - waiting
        self.fleet.observe(row, Load(self.now, waiting, running, 0.1, 450_000.0), self.fleet.ours.item(row))
