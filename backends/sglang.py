"""SGLang (`--enable-metrics`; without it `/metrics` is 404).

Requests wait in several queues (grammar, and the prefill and decode queues of a disaggregated node); all are summed.
With metrics from every scheduler, each tensor- and pipeline-parallel rank repeats the same requests: those are one, the
data-parallel ranks are not. `sglang:cache_hit_rate` is reset at each report, so the counters are read. `utilization`
may be -1, which is not believed. A server whose `max_total_num_tokens` is 0 has not made a forward pass: not ready.

Not tried on the real server. Names from its documentation and the endpoint-picker's defaults; `--max-queued-requests`
answers 503, on a stream as an error event with that code in a 200.
"""

from __future__ import annotations

import math

from backends.base import MAX_REQUESTS, Backend, Meaning, pair, share
from backends.samples import Samples, ScrapeError
from gateway.core.types import UNKNOWN, Load

_QUEUE = "sglang:num_queue_reqs"
_OTHER_QUEUES = (
    "sglang:num_grammar_queue_reqs",
    "sglang:num_prefill_prealloc_queue_reqs",
    "sglang:num_prefill_inflight_queue_reqs",
    "sglang:num_decode_prealloc_queue_reqs",
    "sglang:num_decode_transfer_queue_reqs",
)
_RUNNING = "sglang:num_running_reqs"
_CAPACITY = "sglang:max_total_num_tokens"
_TOKENS = ("sglang:prompt_tokens_total", "sglang:cached_tokens_total")
# Ranks that work on the same requests.
_SAME = ("tp_rank", "pp_rank")


class SGLang(Backend):
    name = "sglang"
    wanted = (_QUEUE, *_OTHER_QUEUES, _RUNNING, _CAPACITY, *_TOKENS, "sglang:full_token_usage", "sglang:token_usage")
    errors = ((503, r"queue is full|aborted by a higher priority", Meaning.SATURATED),)
    injects_usage = True

    def priority(self, own: int, highest: int) -> int:
        return own  # the higher, the earlier; one that says nothing comes last

    def load(self, samples: Samples, now: float) -> Load:
        capacity = _once_per_rank(samples, _CAPACITY) if samples.has(_CAPACITY) else UNKNOWN
        if capacity == 0.0:
            raise ScrapeError("the server has not made its first forward pass", "not_ready")
        waiting = _requests(samples, _QUEUE)
        waiting += sum(_requests(samples, name) for name in _OTHER_QUEUES if samples.has(name))
        prompt, cached = pair(samples, _TOKENS)
        return Load(
            at=now,
            waiting=waiting,
            running=_requests(samples, _RUNNING),
            kv_used=share(samples, "sglang:full_token_usage", "sglang:token_usage"),
            kv_capacity=capacity,
            prompt_tokens=prompt,
            cached_tokens=cached,
        )


def _requests(samples: Samples, name: str) -> float:
    value = _once_per_rank(samples, name)
    if value > MAX_REQUESTS:
        raise ScrapeError(f"{name} says {value:g} requests", "bad_value")
    return value


def _once_per_rank(samples: Samples, name: str) -> float:
    """The sum over all series, those that differ only in ranks of one model replica counted once (the highest)."""
    highest: dict[tuple[tuple[str, str], ...], float] = {}
    for labels, value in samples.each(name):
        key = tuple(sorted(item for item in labels.items() if item[0] not in _SAME))
        highest[key] = max(value, highest.get(key, 0.0))
    return math.fsum(highest.values())
