"""Triton over REST: any model, and the TensorRT-LLM backend where its metrics are there.

Metrics have a port of their own: two above the HTTP port, as its defaults 8000 and 8002 are. Of the general metrics
only `nv_inference_pending_request_count` is live (the counters and durations stand still while requests wait), and
nothing says how many run: unknown, not zero. All models of the server share its machine, so their queues are summed.

`generate` can answer 200 with `{"error": …}`. One of these says that the model streams and wants `generate_stream`.
That, and malformed JSON or a wrong shape (a 500 there), is the client's fault all the same: it must not eject a server.
Seen on Triton 2.51.0; the TensorRT-LLM names were not tried.
"""

from __future__ import annotations

from collections.abc import Callable

from backends.base import Backend, Meaning, count, optional, port_of, share
from backends.samples import Samples
from gateway.core.types import UNKNOWN, Endpoint, Load

PORTS_APART = 2
_PENDING = "nv_inference_pending_request_count"
_REQUESTS = "nv_trt_llm_request_metrics"
_BLOCKS = "nv_trt_llm_kv_cache_block_metrics"


class Triton(Backend):
    name = "triton"
    wanted = (_PENDING, _REQUESTS, _BLOCKS)
    health_path = "/v2/health/ready"
    errors = (
        (503, r"Exceeds maximum queue size$", Meaning.SATURATED),
        (500, r"^failed to parse the request JSON|^Unable to parse '|^generate expects model", Meaning.CLIENT),
    )
    orca_header = "JSON"
    errs_in_ok_body = True

    def port_of_metrics(self, endpoint: Endpoint) -> int:
        return port_of(endpoint.url) + PORTS_APART

    def load(self, samples: Samples, now: float) -> Load:
        if _REQUESTS not in samples:
            return Load(at=now, waiting=count(samples, _PENDING))
        return Load(
            at=now,
            waiting=count(samples, _REQUESTS, request_type="waiting"),
            running=count(samples, _REQUESTS, request_type="scheduled"),
            kv_used=_kv_used(samples),
            kv_capacity=_blocks(samples, "max") * _blocks(samples, "tokens_per", Samples.highest),
        )

    def in_body_error(self, body: bytes) -> bool:
        return body[:64].lstrip().startswith(b'{"error":')


def _kv_used(samples: Samples) -> float:
    fraction = share(samples, _BLOCKS, kv_cache_block_type="fraction")
    if fraction == fraction:
        return fraction
    used, most = _blocks(samples, "used"), _blocks(samples, "max")
    return used / most if 0.0 <= used <= most and most > 0.0 else UNKNOWN


def _blocks(samples: Samples, kind: str, read: Callable[..., float] = Samples.total) -> float:
    return optional(samples, _BLOCKS, read=read, kv_cache_block_type=kind)
