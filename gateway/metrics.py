"""Every metric, counted; the only door of prometheus_client.

The idea: a request touches a handful of plain lists. The first request with a given set of names finds its cells (the
counters and histograms its labels stand for) and keeps them under one key, so every later one costs one look-up, a few
additions and a `bisect` per histogram. Text is made only when somebody asks, family by family (`pages`), so that a big
page never holds the event loop for long. What a fleet knows is read from the fleet at that moment and kept nowhere:
the gauges of an endpoint that has left are gone with it, and its counters follow after one more scrape.

Labels take only names of the configuration and words of ours; "none" where a request never came to one. As a last
line of defence the number of label sets is bounded: beyond `MAX_SETS` requests count under "other".

Left to others: names, labels and bounds (`metric_table`), which moment is which (`proxy`, `prober`), serving the text
(`admin`).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator
from http import HTTPStatus

from prometheus_client import ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from gateway.gauges import Gauges, Samples
from gateway.metric_table import E2E, LAG, OVERHEAD, QUEUE, RATIO, TABLE, TPOT, TTFT, Declared
from gateway.records import Forecast, RequestRecord

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
MAX_SETS = 20_000
# A token count above this is a model server's nonsense, not a count.
MAX_TOKENS = 1e12

_CODES = {status.value: str(status.value) for status in HTTPStatus} | {499: "499", 0: "none"}

Cell = list[float]
"""A counter: its value. A histogram: one count per bucket, the one above the last bound, then the sum."""
Labels = tuple[str, ...]
_Cells = tuple[Cell, Cell, Cell, Cell, Cell, Cell, Cell, Cell]


class _Page(Collector):
    """One family as something `generate_latest` accepts."""

    def __init__(self, family: Metric):
        self.family = family

    def collect(self) -> Iterator[Metric]:
        yield self.family


class Metrics(Collector):
    """All counters of one process. Not thread-safe; one event loop owns it."""

    def __init__(self, *, version: str = "unknown"):
        self._info: dict[str, Samples] = {"headway_build_info": [((version,), 1.0)]}
        self._cells: dict[str, dict[Labels, Cell]] = {d.name: {} for d in TABLE if d.kind != "gauge"}
        self._bounds = {d.name: d.bounds for d in TABLE if d.bounds}
        self._of: dict[tuple[object, ...], _Cells] = {}
        self._overhead = self._histogram("headway_overhead_seconds", ())
        self._lag = self._histogram("headway_loop_lag_seconds", ())
        self._reloads = self._counter("headway_config_reload_failures_total", ())
        self._dropped = self._counter("headway_log_dropped_total", ())
        self._gone: set[tuple[str, str]] = set()
        self._gauges = Gauges()
        self._process = ProcessCollector(registry=None)

    # --- what happened -----------------------------------------------------------------------------------------

    def finished(self, record: RequestRecord) -> None:
        """Count one request that has ended. Called exactly once for each; figures that make no sense are left out."""
        key = (record.model, record.pool, record.arm, record.klass, record.status, record.tenant)
        cells = self._of.get(key)
        if cells is None:
            cells = self._find_cells(*key)
        requests, ttft, tpot, e2e, queue, prompt, cached, completion = cells
        requests[0] += 1.0
        value = record.queued
        if 0.0 < value < math.inf or (record.tries and value == 0.0):  # who waited in vain has waited too
            queue[bisect_left(QUEUE, value)] += 1.0
            queue[-1] += value
        if not record.tries:
            return
        value = record.duration
        if 0.0 <= value < math.inf:
            e2e[bisect_left(E2E, value)] += 1.0
            e2e[-1] += value
        # Comparing with NaN is false, so what is not known is not counted.
        value = record.overhead
        if 0.0 <= value < math.inf:
            overhead = self._overhead
            overhead[bisect_left(OVERHEAD, value)] += 1.0
            overhead[-1] += value
        value = record.ttft
        if 0.0 <= value < math.inf:
            ttft[bisect_left(TTFT, value)] += 1.0
            ttft[-1] += value
        value = record.tpot
        if 0.0 <= value < math.inf:
            tpot[bisect_left(TPOT, value)] += 1.0
            tpot[-1] += value
        if 0.0 < record.prompt_tokens < MAX_TOKENS:
            prompt[0] += record.prompt_tokens
        if 0.0 < record.cached_tokens < MAX_TOKENS:
            cached[0] += record.cached_tokens
        if 0.0 < record.completion_tokens < MAX_TOKENS:
            completion[0] += record.completion_tokens
        if record.predicted is not None:
            self._compare(record, record.predicted)

    def _compare(self, record: RequestRecord, predicted: Forecast) -> None:
        """Count how near the predictions came. When a plain answer's first token was made, nobody can see."""
        pool, observed = record.pool, record.ttft_there if record.stream else math.nan
        for what, seen, expected in (("ttft", observed, predicted.ttft), ("tpot", record.tpot, predicted.tpot)):
            if 0.0 < seen < math.inf and 0.0 < expected < math.inf:
                cell, ratio = self._histogram("headway_prediction_ratio", (pool, what)), seen / expected
                cell[bisect_left(RATIO, ratio)] += 1.0
                cell[-1] += ratio

    def refused(self, klass: str, reason: str) -> None:
        self._counter("headway_refused_total", (klass, reason or "none"))[0] += 1.0

    def retried(self, pool: str, reason: str) -> None:
        self._counter("headway_retries_total", (pool, reason))[0] += 1.0

    def client_gone(self, klass: str) -> None:
        self._counter("headway_client_gone_total", (klass,))[0] += 1.0

    def job_run(self, klass: str, how: str) -> None:
        """A run of an asynchronous request ended here; `how` is a word of ours."""
        self._counter("headway_jobs_ended_total", (klass, how))[0] += 1.0

    def mirrored(self, model: str, pool: str, outcome: str) -> None:
        """What became of the copy of a request that was drawn for a mirror."""
        self._counter("headway_mirror_total", (model, pool, outcome))[0] += 1.0

    def upstream_failed(self, pool: str, endpoint: str) -> None:
        self._counter("headway_upstream_failures_total", (pool, endpoint))[0] += 1.0

    def scrape_failed(self, pool: str, endpoint: str, cause: str) -> None:
        self._counter("headway_scrape_failures_total", (pool, endpoint, cause))[0] += 1.0

    def reload_failed(self) -> None:
        self._reloads[0] += 1.0

    def config_info(self, digest: str) -> None:
        """The configuration in use from now on; the digest before it is forgotten."""
        self._info["headway_config_info"] = [((digest,), 1.0)]

    def loop_lag(self, seconds: float) -> None:
        seconds = max(0.0, seconds)
        self._lag[bisect_left(LAG, seconds)] += 1.0
        self._lag[-1] += seconds

    def watch(self, gauges: Gauges) -> None:
        """What to look at when somebody asks."""
        self._gauges = gauges

    # --- the page ----------------------------------------------------------------------------------------------

    def pages(self) -> Iterator[bytes]:
        """The text, one metric family at a time, so that a caller can let others run in between."""
        for family in self.collect():
            yield generate_latest(_Page(family))

    def text(self) -> bytes:
        """The whole text at once."""
        return b"".join(self.pages())

    def collect(self) -> Iterator[Metric]:
        """Every family of `TABLE`, those without samples too, then the process's own (memory, CPU, files)."""
        self._forget_departed()
        self._dropped[0] = float(self._gauges.log_dropped())
        for name, labels, value in self._gauges.counts():
            self._counter(name, labels)[0] = value
        for declared in TABLE:
            name, labels = declared.name, declared.labels
            if declared.kind == "gauge":
                gauge = GaugeMetricFamily(name, declared.help, labels=labels)
                for values, value in self._info.get(name) or self._gauges.samples(name):
                    gauge.add_metric(values, value)
                yield gauge
            elif declared.kind == "counter":
                counter = CounterMetricFamily(name, declared.help, labels=labels)
                for values, cell in self._cells[name].items():
                    if cell[0] or not labels:
                        counter.add_metric(values, cell[0])
                yield counter
            else:
                yield self._histogram_family(declared)
        yield from self._process.collect()

    def _histogram_family(self, declared: Declared) -> Metric:
        family = HistogramMetricFamily(declared.name, declared.help, labels=declared.labels)
        edges = [*(repr(bound) for bound in declared.bounds), "+Inf"]
        for values, cell in self._cells[declared.name].items():
            total, buckets = 0.0, []
            for edge, count in zip(edges, cell, strict=False):  # the cell's last value is the sum
                total += count
                buckets.append((edge, total))
            if total or not declared.labels:
                family.add_metric(values, buckets, cell[-1])
        return family

    # --- cells -------------------------------------------------------------------------------------------------

    def _counter(self, name: str, labels: Labels) -> Cell:
        cells = self._cells[name]
        cell = cells.get(labels)
        return cells.setdefault(labels, [0.0]) if cell is None else cell

    def _histogram(self, name: str, labels: Labels) -> Cell:
        cells = self._cells[name]
        cell = cells.get(labels)
        return cells.setdefault(labels, [0.0] * (len(self._bounds[name]) + 2)) if cell is None else cell

    def _find_cells(self, model: str, pool: str, arm: str, klass: str, status: int, tenant: str) -> _Cells:
        names = tuple(name or "none" for name in (model, pool, arm, klass, tenant))
        full = len(self._of) >= MAX_SETS
        if full:
            names = ("other",) * 5
        where = (names[0], names[1], names[3])
        whose = (names[0], names[4], names[3])
        cells = (
            self._counter("headway_requests_total", (*names[:4], _CODES.get(status, "other"))),
            self._histogram("headway_ttft_seconds", where),
            self._histogram("headway_tpot_seconds", where),
            self._histogram("headway_e2e_seconds", where),
            self._histogram("headway_queue_seconds", (names[3],)),
            self._counter("headway_tokens_total", (*whose, "prompt")),
            self._counter("headway_tokens_total", (*whose, "cached")),
            self._counter("headway_tokens_total", (*whose, "completion")),
        )
        if not full:
            self._of[model, pool, arm, klass, status, tenant] = cells
        return cells

    def _forget_departed(self) -> None:
        """Drop the counters of endpoints that left, one scrape after they were last seen to have gone."""
        here = {(pool, endpoint.id) for pool, fleet in self._gauges.fleets().items() for _, endpoint in fleet.members()}
        gone = set()
        for name in ("headway_upstream_failures_total", "headway_scrape_failures_total"):
            cells = self._cells[name]
            for labels in list(cells):
                endpoint = (labels[0], labels[1])
                if endpoint in here:
                    continue
                if endpoint in self._gone:
                    del cells[labels]
                else:
                    gone.add(endpoint)
        self._gone = gone
