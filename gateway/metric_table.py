"""Every metric, declared once: its name, labels, help and histogram bounds. No counting happens here.

The names and labels are the contract's; a label takes only names of the configuration and words of ours. Bounds are in
seconds and closest together where SLOs are usually set. Metrics whose part of the gateway comes later stand here too,
so that a dashboard made today needs no change then.
"""

from __future__ import annotations

from typing import NamedTuple

_PER_MODEL = ("model", "pool", "class")
_PER_ENDPOINT = ("pool", "endpoint")
TTFT = (0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0)
TPOT = (0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0)
E2E = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0, 900.0)
QUEUE = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
OVERHEAD = (2.5e-5, 5e-5, 0.0001, 0.0002, 0.0003, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)
RATIO = (0.1, 0.2, 0.33, 0.5, 0.67, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
LAG = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class Declared(NamedTuple):
    """One metric: its name as it is scraped, counter, gauge or histogram, its labels, its help, its bounds."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str
    bounds: tuple[float, ...] = ()


TABLE: tuple[Declared, ...] = (
    Declared("headway_requests_total", "counter", ("model", "pool", "arm", "class", "code"),
             "Requests that have ended, refused ones included, by the status the client got."),
    Declared("headway_ttft_seconds", "histogram", _PER_MODEL,
             "From the request's last byte to the first event with content.", TTFT),
    Declared("headway_tpot_seconds", "histogram", _PER_MODEL, "Mean time per output token after the first.", TPOT),
    Declared("headway_e2e_seconds", "histogram", _PER_MODEL,
             "From the request's last byte to the answer's last, of requests that were sent to an endpoint.", E2E),
    Declared("headway_tokens_total", "counter", ("model", "tenant", "class", "kind"),
             "Tokens as the engines counted them; kind is prompt, cached (a part of prompt) or completion."),
    Declared("headway_queue_seconds", "histogram", ("class",), "Time requests waited here for their turn.", QUEUE),
    Declared("headway_queue_requests", "gauge", ("class",), "Requests waiting here for their turn."),
    Declared("headway_overhead_seconds", "histogram", (),
             "What the gateway itself added before the upstream got the request.", OVERHEAD),
    Declared("headway_prediction_ratio", "histogram", ("pool", "what"),
             "Observed / predicted; what is ttft (from the dispatch, of streams) or tpot.", RATIO),
    Declared("headway_prediction_error", "gauge", ("pool", "what"),
             "Mean absolute error of recent predictions, as a share of what was observed."),
    Declared("headway_prediction_coverage", "gauge", ("pool", "what"),
             "Share of recent observations inside the interval that should hold 90 % of them."),
    Declared("headway_prediction_calibrated", "gauge", ("pool",),
             "1 while predictions are good enough to pick by, else 0."),
    Declared("headway_endpoint_waiting", "gauge", _PER_ENDPOINT, "Waiting requests, as the server last said."),
    Declared("headway_endpoint_running", "gauge", _PER_ENDPOINT, "Running requests, as the server last said."),
    Declared("headway_endpoint_kv_used", "gauge", _PER_ENDPOINT, "Share of KV cache in use, as the server last said."),
    Declared("headway_endpoint_inflight", "gauge", _PER_ENDPOINT, "Our requests in flight."),
    Declared("headway_endpoint_inflight_tokens", "gauge", _PER_ENDPOINT,
             "Tokens still to be worked off of our requests: prompts not yet prefilled, outputs not yet written."),
    Declared("headway_endpoint_age_seconds", "gauge", _PER_ENDPOINT, "How old the server's own figures are."),
    Declared("headway_endpoint_pace", "gauge", _PER_ENDPOINT,
             "How many times as long as predicted for its pool the endpoint takes; 1 is as the others."),
    Declared("headway_endpoint_state", "gauge", _PER_ENDPOINT,
             "0 healthy, 1 suspect, 2 on trial, 3 ejected, 4 down, 5 leaving the pool."),
    Declared("headway_refused_total", "counter", ("class", "reason"), "Requests refused by policy."),
    Declared("headway_routed_total", "counter", ("model", "rule"), "Requests by the rule that decided where they go."),
    Declared("headway_canary_share", "gauge", ("model", "rule"), "The share of its rule's requests a canary gets."),
    Declared("headway_canary_phase", "gauge", ("model", "rule"), "0 running, 1 paused, 2 promoted, 3 rolled back."),
    Declared("headway_shadow_total", "counter", ("what", "name"),
             "What was only looked at would have done: requests that a rule would have taken, or a class or a tenant's "
             "limit refused. The name is model/rule, class/reason or the tenant."),
    Declared("headway_mirror_total", "counter", ("model", "pool", "outcome"),
             "Requests drawn for a mirror, by what became of their copies."),
    Declared("headway_captures_total", "counter", ("outcome",),
             "Captured requests: taken, and of them dropped since the disk was full or slow."),
    Declared("headway_retries_total", "counter", ("pool", "reason"), "Further tries, by why the one before failed."),
    Declared("headway_client_gone_total", "counter", ("class",), "Clients that left before their answer ended."),
    Declared("headway_upstream_failures_total", "counter", _PER_ENDPOINT, "Tries that the endpoint failed."),
    Declared("headway_scrape_failures_total", "counter", ("pool", "endpoint", "cause"),
             "Readings of an endpoint's load that failed."),
    Declared("headway_loop_lag_seconds", "histogram", (), "How late the event loop ran a timer.", LAG),
    Declared("headway_connections", "gauge", (), "Client connections open."),
    Declared("headway_build_info", "gauge", ("version",), "Always 1."),
    Declared("headway_config_info", "gauge", ("digest",), "Always 1; the digest of the configuration in use."),
    Declared("headway_config_reload_failures_total", "counter", (), "Reloads refused; the last good stayed."),
    Declared("headway_jobs", "gauge", ("class", "state"),
             "Asynchronous requests that have not ended: waiting in the store, or claimed by a gateway."),
    Declared("headway_jobs_ended_total", "counter", ("class", "how"),
             "How runs of asynchronous requests ended here: completed, failed, retried, put_off, displaced, stopped or "
             "late."),
    Declared("headway_jobs_at_risk", "gauge", ("class",),
             "Asynchronous requests that are expected to miss their deadline."),
    Declared("headway_filler_inflight", "gauge", ("pool",), "Filler in flight."),
    Declared("headway_filler_slowdown", "gauge", ("pool", "what"),
             "Mean ttft or tpot of protected requests with filler beside them, over that without."),
    Declared("headway_log_dropped_total", "counter", (), "Log lines dropped: full disk, blocked pipe."),
)  # fmt: skip
"""The contract's metrics, and a few more. Those whose part comes later have no samples yet."""
