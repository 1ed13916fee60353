"""Metrics that look at a fleet, and what they say as Prometheus itself would read it."""

from __future__ import annotations

import random

from prometheus_client.parser import text_string_to_metric_families

from gateway.core.fleet import Fleet
from gateway.core.health import Rule
from gateway.core.prediction import PredictorReport
from gateway.core.types import Endpoint
from gateway.gauges import Filled, Gauges, Queued
from gateway.jobs.model import Queue, Stats
from gateway.metrics import Metrics
from gateway.records import Forecast, RequestRecord

RECORD = RequestRecord(
    "r1", 1_700_000_000.0, 200, "complete", model="llama", pool="gpu", arm="stable", tenant="acme", endpoint="a",
    tries=1, overhead=0.0001, ttft=0.3, tpot=0.02, duration=1.5, prompt_tokens=100.0, cached_tokens=40.0,
    completion_tokens=60.0,
)  # fmt: skip

FORECAST = Forecast(0.2, 0.15, 0.3, 0.02, 0.018, 0.023)
NOW = 10.0


def make_fleet(*names: str) -> Fleet:
    fleet = Fleet("gpu", Rule(), random.Random(1))
    fleet.update([Endpoint(name, f"http://{name}", "gpu", "vllm") for name in names], NOW, fresh=True)
    return fleet


def watching(fleet: Fleet) -> Metrics:
    metrics = Metrics()
    metrics.watch(Gauges(
        lambda: {"gpu": fleet}, lambda: {"gpu": {"interactive": Queued(2, 0.1, 900.0, 4)}},
        lambda: {"gpu": Filled(3, 1, 1.02, 1.01, 1.0, 0.8)},
        lambda: Stats((Queue("async", "llama", 40, 8, NOW), Queue("async", "qwen", 2, 0, NOW))),
        lambda: {"async": 5}, lambda: 7, clock=lambda: NOW,
    ))  # fmt: skip
    return metrics


def read(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of ours by name and labels, as Prometheus itself would read them."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
        if sample.name.startswith("headway_")
    }


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return read(metrics).get((name, tuple(sorted((key.rstrip("_"), label) for key, label in labels.items()))))


class Predictor:
    """As much of a predictor as the metrics look at."""

    def __init__(self, **more: object):
        figures = {"ttft_error": 0.08, "ttft_coverage": 0.9, "tpot_error": 0.12, "tpot_coverage": 0.88,
                   "calibrated": True, "samples": 700, "paces": {0: 1.0, 1: 3.1}}  # fmt: skip
        self.figures = {**figures, **more}

    def report(self) -> PredictorReport:
        return PredictorReport(**self.figures)  # type: ignore[arg-type]

    def told(self, row: int, capacity: float) -> None:
        """A scrape; nothing here."""

    def see_others(self, others: object) -> None:
        """Nor this."""
