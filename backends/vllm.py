"""vLLM: the V1 engine's metric names, with those of older versions after them.

One series per engine under data parallelism (label `engine`): queues are summed, the fullest KV cache counts. With its
statistics switched off vLLM answers 200 without a series, which fails the scrape. KV usage counts the blocks that
running requests hold; cached blocks that could be freed look free.

Gauges follow the truth late (by more than a second while a long prefill runs), and a frozen engine shows an idle page:
both are why the fleet counts our own requests first. Seen on vLLM 0.32.0; the older names are from its documentation.
"""

from __future__ import annotations

import math

from backends.base import Backend, Meaning, count, optional, pair, share
from backends.samples import Samples
from gateway.core.types import UNKNOWN, Load

_CONFIG = "vllm:cache_config_info"
_TOKENS = (
    ("vllm:prompt_tokens_total", "vllm:prompt_tokens_cached_total"),
    ("vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total"),
    ("vllm:gpu_prefix_cache_queries_total", "vllm:gpu_prefix_cache_hits_total"),
)


class VLLM(Backend):
    """vLLM's OpenAI server, and whatever speaks its metrics (the simulated one does)."""

    name = "vllm"
    wanted = (
        "vllm:num_requests_waiting",
        "vllm:num_requests_running",
        "vllm:num_requests_swapped",
        "vllm:kv_cache_usage_perc",
        "vllm:gpu_cache_usage_perc",
        _CONFIG,
        *(name for names in _TOKENS for name in names),
    )
    # Its queue limit answers 503; while it drains, every new request gets this 500 and `/health` still says 200.
    errors = (
        (503, r"^The engine is currently busy", Meaning.SATURATED),
        (500, r"^cannot schedule new futures after shutdown", Meaning.LEAVING),
    )
    injects_usage = True
    orca_header = "JSON"
    unsaid_priority = 0

    def priority(self, own: int, highest: int) -> int:
        return highest - own  # the lower, the earlier

    def load(self, samples: Samples, now: float) -> Load:
        # The old engine's swapped requests wait for memory: they are queued, whatever it calls them.
        swapped = optional(samples, "vllm:num_requests_swapped")
        prompt, cached = pair(samples, *_TOKENS)
        return Load(
            at=now,
            waiting=count(samples, "vllm:num_requests_waiting") + (0.0 if math.isnan(swapped) else swapped),
            running=count(samples, "vllm:num_requests_running"),
            kv_used=share(samples, "vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
            kv_capacity=_capacity(samples),
            prompt_tokens=prompt,
            cached_tokens=cached,
        )


def _capacity(samples: Samples) -> float:
    """KV tokens of all engines, from the labels of an info metric whose value is always 1."""
    if not samples.has(_CONFIG):
        return UNKNOWN
    tokens = 0.0
    for labels, _ in samples.each(_CONFIG):
        size = labels.get("kv_cache_size_tokens", "")
        blocks, block = labels.get("num_gpu_blocks", ""), labels.get("block_size", "")
        if size.isdigit():
            tokens += float(size)
        elif blocks.isdigit() and block.isdigit():
            tokens += float(blocks) * float(block)
        else:
            return UNKNOWN
    return tokens
