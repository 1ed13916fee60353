"""Enters what has ended into metrics, log and decision ring, many at once.

The idea: entering one record touches much code that the next request has pushed out of the processor's caches again;
entering a batch costs about half as much for each. So records wait here for at most one tick, or until somebody looks:
whoever reads the metrics or the ring through the gateway gets them with everything entered.
"""

from __future__ import annotations

from gateway.decisions import DecisionRing
from gateway.logs import RequestLog
from gateway.metrics import Metrics
from gateway.records import RequestRecord

MOST = 256  # records that wait before they are entered without being asked


class Ledger:
    """`note` a record, `settle` what was noted."""

    def __init__(self, metrics: Metrics, decisions: DecisionRing, log: RequestLog):
        self._metrics = metrics
        self._decisions = decisions
        self._log = log
        self._waiting: list[RequestRecord] = []

    def note(self, record: RequestRecord) -> None:
        waiting = self._waiting
        waiting.append(record)
        if len(waiting) >= MOST:
            self.settle()

    def settle(self) -> None:
        """Enter everything that waits."""
        if not self._waiting:
            return
        records, self._waiting = self._waiting, []
        finished, put, write = self._metrics.finished, self._decisions.put, self._log.write
        for record in records:
            finished(record)
        for record in records:
            write(record)
        for record in records:
            if record.model or record.route is not None:
                put(record)
            if record.ended == "client_gone":
                self._metrics.client_gone(record.klass or "none")
            elif not record.tries and (record.status in (429, 503) or _is_refused_job(record)):
                self._metrics.refused(record.klass or "none", record.code)


def _is_refused_job(record: RequestRecord) -> bool:
    """A run of a job has no client that gets a status."""
    return not record.status and record.admission is not None and bool(record.admission.why)
