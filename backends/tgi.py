"""Text Generation Inference. Its queue and the batch that runs; it shows nothing of its KV cache.

It refuses with 429 when it is full (`--max-concurrent-requests`), and a generation that failed inside is a 424: neither
is the client's fault, though both statuses begin with a 4. Not tried on the real server; from its documentation.
"""

from __future__ import annotations

from backends.base import Backend, Meaning, count
from backends.samples import Samples
from gateway.core.types import Load


class TGI(Backend):
    name = "tgi"
    wanted = ("tgi_queue_size", "tgi_batch_current_size")
    errors = ((429, r"overloaded", Meaning.SATURATED), (424, r"", Meaning.FAILED))
    injects_usage = True

    def load(self, samples: Samples, now: float) -> Load:
        return Load(
            at=now,
            waiting=count(samples, "tgi_queue_size"),
            running=count(samples, "tgi_batch_current_size"),
        )
