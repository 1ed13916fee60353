"""LMDeploy (`--enable-metrics`). vLLM's names under a prefix of its own, one series per engine.

Its counter of generated tokens was incremented twice in the version read; no counter of it is used. Not tried on the
real server; names from its documentation.
"""

from __future__ import annotations

from backends.base import Backend, count, share
from backends.samples import Samples
from gateway.core.types import Load


class LMDeploy(Backend):
    name = "lmdeploy"
    wanted = ("lmdeploy:num_requests_waiting", "lmdeploy:num_requests_running", "lmdeploy:gpu_cache_usage_perc")
    injects_usage = True

    def load(self, samples: Samples, now: float) -> Load:
        return Load(
            at=now,
            waiting=count(samples, "lmdeploy:num_requests_waiting"),
            running=count(samples, "lmdeploy:num_requests_running"),
            kv_used=share(samples, "lmdeploy:gpu_cache_usage_perc"),
        )
