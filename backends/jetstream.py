"""JetStream on TPUs. Its metrics are at `/` on a port of their own (`--prometheus_port`, commonly 9100).

A queue before the prefill, and the share of decode slots in use, which stands in for KV usage: each slot owns its part
of the cache. Nothing says how many requests run. Not tried on the real server; names from its source.
"""

from __future__ import annotations

from backends.base import Backend, count, share
from backends.samples import Samples
from gateway.core.types import Load


class JetStream(Backend):
    name = "jetstream"
    wanted = ("jetstream_prefill_backlog_size", "jetstream_slots_used_percentage")
    metrics_path = "/"
    metrics_port = 9100

    def load(self, samples: Samples, now: float) -> Load:
        return Load(
            at=now,
            waiting=count(samples, "jetstream_prefill_backlog_size"),
            # Called a percentage, it is a share: 1 - free slots / slots.
            kv_used=share(samples, "jetstream_slots_used_percentage", read=Samples.mean),
        )
