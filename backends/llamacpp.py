"""llama.cpp's server (`--metrics`; without it `/metrics` is 404 or 501).

No labels at all. Recent builds no longer show KV usage; older ones have `llamacpp:kv_cache_usage_ratio`. Its
`prompt_tokens_total` leaves out the tokens that the cache held, unlike everybody else's, so both counters are added.
`/health` stays 200 under load and is 503 while the model loads. Seen on b11434.
"""

from __future__ import annotations

from backends.base import Backend, Meaning, count, optional, share
from backends.samples import Samples
from gateway.core.types import Load


class LlamaCpp(Backend):
    name = "llamacpp"
    wanted = (
        "llamacpp:requests_deferred",
        "llamacpp:requests_processing",
        "llamacpp:kv_cache_usage_ratio",
        "llamacpp:prompt_tokens_total",
        "llamacpp:prompt_tokens_cached_total",
    )
    errors = ((503, r"^no slot available", Meaning.SATURATED),)
    injects_usage = True

    def load(self, samples: Samples, now: float) -> Load:
        cached = optional(samples, "llamacpp:prompt_tokens_cached_total")
        return Load(
            at=now,
            waiting=count(samples, "llamacpp:requests_deferred"),
            running=count(samples, "llamacpp:requests_processing"),
            kv_used=share(samples, "llamacpp:kv_cache_usage_ratio"),
            prompt_tokens=optional(samples, "llamacpp:prompt_tokens_total") + cached,
            cached_tokens=cached,
        )
