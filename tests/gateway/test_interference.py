"""What the log hears of filler: a line a minute while some runs, with what it does to the others."""

import json
import math

from gateway.gauges import Filled
from gateway.interference import EVERY, InterferenceLog
from gateway.logs import Events
from tests.support.held_output import HeldOutput


class Looking:
    def __init__(self) -> None:
        self.log = HeldOutput()
        self.watch = InterferenceLog(Events(self.log, clock=lambda: 0.0))

    def at(self, now: float, inflight: int, aborted: int = 0, ttft: float = 1.02) -> list[dict]:
        self.log.data = b""
        self.watch.look({"gpu": Filled(inflight, aborted, ttft, 1.01, 1.1, 0.8)}, now)
        return [json.loads(line) for line in self.log.data.splitlines()]


def test_a_line_a_minute_while_some_runs() -> None:
    pool = Looking()
    assert pool.at(0.0, 0) == []
    (line,) = pool.at(1.0, 5)
    assert (line["event"], line["pool"], line["inflight"], line["slowdown_ttft"]) == ("filler", "gpu", 5, 1.02)
    assert pool.at(EVERY, 7) == []
    assert len(pool.at(1.0 + EVERY, 7)) == 1
    assert pool.at(9.0 + 2 * EVERY, 0) == []


def test_what_was_displaced_since_the_last_line_is_told_also_when_nothing_runs_any_more() -> None:
    pool = Looking()
    assert pool.at(0.0, 3, aborted=4, ttft=math.nan)[0]["slowdown_ttft"] is None
    (line,) = pool.at(EVERY, 0, aborted=9)
    assert line["displaced"] == 5
    assert pool.at(2 * EVERY, 0, aborted=9) == []
    pool.watch.look({}, 3 * EVERY)  # gone, and there again
    assert pool.at(4 * EVERY, 1, aborted=2)[0]["displaced"] == 2
