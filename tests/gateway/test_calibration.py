"""What the log hears of a predictor: changes, once each, with the figures."""

import json
import random

from gateway.calibration import ENOUGH, CalibrationWatch
from gateway.core.fleet import Fleet
from gateway.core.health import Rule
from gateway.core.intervals import FEW
from gateway.core.prediction import PredictorReport
from gateway.logs import Events
from tests.support.held_output import HeldOutput


class Predictor:
    """As much of a predictor as the watch looks at."""

    def __init__(self, calibrated: bool, samples: int = 0):
        self.calibrated, self.samples = calibrated, samples

    def report(self) -> PredictorReport:
        return PredictorReport(0.08, 0.9, 0.11, float("nan"), self.calibrated, self.samples)


class Looking:
    """A pool that is looked at; `after` changes it, looks again and returns the events that came of it."""

    def __init__(self) -> None:
        self.log = HeldOutput()
        self.watch = CalibrationWatch(Events(self.log, clock=lambda: 0.0))
        self.fleet = Fleet("gpu", Rule(), random.Random(1))

    def after(self, predictor: Predictor | None) -> list[str]:
        self.fleet.predictor = predictor  # type: ignore[assignment]
        self.log.data = b""
        self.watch.look({"gpu": self.fleet})
        return [json.loads(line)["event"] for line in self.log.data.splitlines()]


def test_each_change_is_told_once_with_the_pool_and_the_figures() -> None:
    pool = Looking()
    assert pool.after(Predictor(True, 120)) == ["predictor_calibrated"]
    line = json.loads(pool.log.data)
    assert (line["level"], line["pool"], line["samples"]) == ("info", "gpu", 120)
    assert (line["ttft_error"], line["ttft_coverage"], line["tpot_error"]) == (0.08, 0.9, 0.11)
    assert line["tpot_coverage"] is None
    assert pool.after(Predictor(True, 130)) == []
    assert pool.after(Predictor(False, 140)) == ["predictor_uncalibrated"]
    assert json.loads(pool.log.data)["level"] == "warning"
    assert pool.after(Predictor(False, 150)) == []
    assert pool.after(Predictor(True, 160)) == ["predictor_calibrated"]


def test_one_that_has_only_begun_is_no_news_and_one_that_never_gets_there_is() -> None:
    pool = Looking()
    assert pool.after(Predictor(True, 0)) == pool.after(Predictor(True, FEW - 1)) == []
    assert pool.after(Predictor(False, 0)) == []
    assert pool.after(Predictor(False, ENOUGH - 1)) == []
    assert pool.after(Predictor(False, ENOUGH)) == ["predictor_uncalibrated"]
    assert pool.after(Predictor(False, ENOUGH + 1)) == []


def test_a_pool_without_a_predictor_or_one_that_left_begins_anew() -> None:
    pool = Looking()
    assert pool.after(None) == []
    assert pool.after(Predictor(True, FEW)) == ["predictor_calibrated"]
    assert pool.after(None) == []
    assert pool.after(Predictor(True, FEW)) == ["predictor_calibrated"]
    pool.watch.look({})
    assert pool.after(Predictor(True, FEW)) == ["predictor_calibrated"]
