"""A predictor whose predictions a test sets: what a policy does with them, without what they are made from."""

from types import SimpleNamespace

import numpy as np

from gateway.core.types import Forecast


class FakePredictor:
    """Answers with `ttft` and `tpot` (seconds, by fleet row) if they are set, else with something simple.

    `asked` is what was handed in as cached, newest last.
    """

    def __init__(self, ttft=None, tpot=None):
        self.ttft, self.tpot, self.asked = ttft, tpot, []

    def predict(self, request, snapshot, cached=None):
        count = len(snapshot)
        cached = np.zeros(count) if cached is None else cached
        self.asked.append(cached)
        work = np.maximum(request.prompt_tokens - cached, 1.0) / 20_000.0
        waits = snapshot.prefill / 20_000.0
        ttft = 0.02 + waits + work if self.ttft is None else np.array(self.ttft)[snapshot.rows]
        tpot = 0.01 + 1e-4 * snapshot.requests if self.tpot is None else np.array(self.tpot)[snapshot.rows]
        return SimpleNamespace(
            ttft=ttft, tpot=tpot, tpot_now=tpot, work=work, batch=snapshot.requests, rho=np.zeros(count)
        )

    def forecast(self, prediction, position):
        forecast = Forecast()
        forecast.ttft = float(prediction.ttft[position])
        forecast.tpot = float(prediction.tpot[position])
        return forecast

    def told(self, row, capacity):
        pass

    def see_others(self, others):
        pass

    def dispatched(self, reservation, request, now):
        pass

    def started(self, reservation, now):
        pass

    def progressed(self, reservation, written, now):
        pass

    def ended(self, reservation, now, outcome):
        pass

    def forget(self, row):
        pass
