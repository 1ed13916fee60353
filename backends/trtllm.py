"""TensorRT-LLM's own server (`trtllm-serve`). Behind Triton it is another one: see `triton`.

Its Prometheus page is at `/prometheus/metrics` (`/metrics` gives JSON statistics); it shows rates of cache hits, not
counters, so the cached tokens stay unknown. Not tried on the real server; names from its documentation.
"""

from __future__ import annotations

from backends.base import Backend, count, optional, share
from backends.samples import Samples
from gateway.core.types import Load


class TensorRTLLM(Backend):
    name = "trtllm"
    wanted = (
        "trtllm_num_requests_waiting",
        "trtllm_num_requests_running",
        "trtllm_kv_cache_utilization",
        "trtllm_kv_cache_tokens_per_block",
        "trtllm_kv_cache_max_blocks",
    )
    metrics_path = "/prometheus/metrics"
    injects_usage = True

    def load(self, samples: Samples, now: float) -> Load:
        block = optional(samples, "trtllm_kv_cache_tokens_per_block", read=Samples.highest)
        return Load(
            at=now,
            waiting=count(samples, "trtllm_num_requests_waiting"),
            running=count(samples, "trtllm_num_requests_running"),
            kv_used=share(samples, "trtllm_kv_cache_utilization"),
            kv_capacity=block * optional(samples, "trtllm_kv_cache_max_blocks"),
        )
