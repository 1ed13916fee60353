"""What has ended reaches metrics, log and ring, once, in order, at the latest when somebody looks."""

from __future__ import annotations

from gateway.decisions import DecisionRing
from gateway.ledger import MOST, Ledger
from gateway.metrics import Metrics
from gateway.records import Admission, RequestRecord


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, record: RequestRecord) -> None:
        self.lines.append(record.request_id)


def make():
    metrics, ring, log = Metrics(), DecisionRing(10_000), Log()
    return metrics, ring, log, Ledger(metrics, ring, log)  # type: ignore[arg-type]


def record(name: str = "r", **more) -> RequestRecord:
    return RequestRecord(name, 0.0, **{"status": 200, "ended": "complete", "model": "m", "tries": 1, **more})


def test_records_wait_until_they_are_settled_and_keep_their_order():
    _, ring, log, ledger = make()
    for name in "abc":
        ledger.note(record(name))
    assert log.lines == [] and ring.find("a") is None
    ledger.settle()
    ledger.settle()
    assert log.lines == ["a", "b", "c"]
    assert ring.find("b") is not None


def test_many_records_do_not_wait():
    _, _, log, ledger = make()
    for number in range(MOST):
        ledger.note(record(str(number)))
    assert len(log.lines) == MOST


def test_a_request_that_never_had_a_model_leaves_no_decision():
    _, ring, log, ledger = make()
    ledger.note(record("x", model="", tries=0, status=404))
    ledger.settle()
    assert log.lines == ["x"] and ring.find("x") is None


def test_our_refusals_and_clients_that_left_are_counted():
    metrics, _, _, ledger = make()
    ledger.note(record(status=503, tries=0, ended="rejected", code="no_endpoint"))
    ledger.note(record(status=429, tries=1, code=""))  # the engine's own
    ledger.note(record(status=0, ended="client_gone"))
    why = Admission((), why="no room")
    ledger.note(record(status=0, tries=0, ended="rejected", code="tenant_limit", klass="async", admission=why))
    ledger.note(record(status=0, tries=0, ended="rejected", code="model_not_found", klass="async"))
    ledger.settle()
    page = metrics.text().decode()
    assert 'headway_refused_total{class="interactive",reason="no_endpoint"} 1.0' in page
    assert 'headway_refused_total{class="async",reason="tenant_limit"} 1.0' in page and "model_not_found" not in page
    assert page.count("headway_refused_total{") == 2
    assert 'headway_client_gone_total{class="interactive"} 1.0' in page
