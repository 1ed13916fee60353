"""What a simulated engine counts about itself, and how it says so on `/metrics`: vLLM V1's names, labels and buckets.

Fed with the engine's steps, so it knows exactly what happened and when. Gauges are those of the last iteration that
ended, as in vLLM: while a long one runs, whoever has come since is on no page. Names, label order and buckets are those
of a recorded vLLM 0.32; each counter has its `_created` series, as there. Lying about all this on demand is the faults'
business.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from backends.sim.engine import Engine
from backends.sim.generation import Generation, Step

_TIMES: tuple[float, ...] = (
    0.3,
    0.5,
    0.8,
    1.0,
    1.5,
    2.0,
    2.5,
    5.0,
    10.0,
    15.0,
    20.0,
    30.0,
    40.0,
    50.0,
    60.0,
    120.0,
    240.0,
    480.0,
)
_TIMES += (960.0, 1920.0, 7680.0)
_LENGTHS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0)
_FIRST: tuple[float, ...] = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    40.0,
)
_FIRST += (80.0, 160.0, 640.0, 2560.0)
_GAPS: tuple[float, ...] = (
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.4,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    40.0,
    80.0,
)
_STEPS = (1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0)
_BUCKETS: dict[str, tuple[float, ...]] = {
    "request_prompt_tokens": _LENGTHS,
    "request_generation_tokens": _LENGTHS,
    "iteration_tokens_total": _STEPS,
    "request_max_num_generation_tokens": _LENGTHS,
    "request_params_n": (1.0, 2.0, 5.0, 10.0, 20.0),
    "request_params_max_tokens": _LENGTHS,
    "time_to_first_token_seconds": _FIRST,
    "inter_token_latency_seconds": _GAPS,
    "request_time_per_output_token_seconds": _GAPS,
    "e2e_request_latency_seconds": _TIMES,
    "request_queue_time_seconds": _TIMES,
    "request_inference_time_seconds": _TIMES,
    "request_prefill_time_seconds": _TIMES,
    "request_decode_time_seconds": _TIMES,
    "request_num_preemptions": (1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0),
    "request_prefill_kv_computed_tokens": _LENGTHS,
}


class Histogram:
    """Counts per bucket, the last one without a bound."""

    __slots__ = ("bounds", "counts", "total", "_last", "_bucket")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self._last = -1.0
        self._bucket = 0

    def observe(self, value: float) -> None:
        """Add one value. Tokens of one step come with one gap, so the last bucket is remembered."""
        if value != self._last:
            self._last = value
            self._bucket = bisect_left(self.bounds, value)
        self.counts[self._bucket] += 1
        self.total += value


@dataclass(frozen=True, slots=True)
class Gauges:
    """What an engine says of its load: requests, and the share of the KV cache in use."""

    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0


class Stats:
    """Counters and histograms of one engine since its start, and the gauges it last published."""

    def __init__(self, model: str, created: float) -> None:
        self.model = model
        self.created = created
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.output_tokens = 0
        self.successes = {"stop": 0, "length": 0, "abort": 0, "error": 0, "repetition": 0}
        self.rejections = 0
        self.gauges = Gauges()
        self._queued = 0  # left waiting when the iteration under way was scheduled
        self.histograms = {name: Histogram(bounds) for name, bounds in _BUCKETS.items()}

    def observe(self, step: Step, engine: Engine) -> None:
        """Count what a step of `engine` did."""
        queued, self._queued = self._queued, len(engine.waiting)
        if not step.tokens:
            return
        self.gauges = Gauges(step.running, min(queued, step.waiting), engine.pool.usage)
        self.histograms["iteration_tokens_total"].observe(step.tokens)
        self.output_tokens += len(step.emitted)
        gaps = self.histograms["inter_token_latency_seconds"]
        at = step.at
        for g in step.emitted:
            if g.last_token_at >= 0:
                gaps.observe(at - g.last_token_at)
            g.last_token_at = at
        for g in step.first:
            self.prompt_tokens += g.prompt_tokens
            self.cached_tokens += g.cached_tokens
            self.histograms["time_to_first_token_seconds"].observe(at - g.arrived_at)

    def finished(self, g: Generation, reason: str, max_tokens: int, copies: int) -> None:
        """Count a request that came to its end; `reason` is `stop` or `length`."""
        self.successes[reason] += 1
        at, decode = g.last_token_at, g.last_token_at - g.first_token_at
        values = {
            "request_prompt_tokens": g.prompt_tokens,
            "request_generation_tokens": g.generated,
            "request_max_num_generation_tokens": g.generated,
            "request_params_n": copies,
            "request_params_max_tokens": max_tokens,
            "request_time_per_output_token_seconds": decode / max(1, g.generated - 1),
            "e2e_request_latency_seconds": at - g.arrived_at,
            "request_queue_time_seconds": g.started_at - g.arrived_at,
            "request_inference_time_seconds": at - g.started_at,
            "request_prefill_time_seconds": g.first_token_at - g.started_at,
            "request_decode_time_seconds": decode,
            "request_num_preemptions": g.preemptions,
            "request_prefill_kv_computed_tokens": g.prompt_tokens - g.cached_tokens,
        }
        for name, value in values.items():
            self.histograms[name].observe(value)

    def text(self, engine: Engine, idle: bool = False) -> bytes:
        """The body of `/metrics`. With `idle` the gauges are zero: what a frozen engine leaves behind."""
        lines: list[str] = []
        labels = f'engine="0",model_name="{self.model}"'
        for name, text, series in self._gauge_series(Gauges() if idle else self.gauges, labels):
            lines += [f"# HELP vllm:{name} {text}", f"# TYPE vllm:{name} gauge"]
            lines += [f"vllm:{name}{{{label}}} {float(value)!r}" for label, value in series]
        for name, text, series in self._counters(engine, labels):
            lines += [f"# HELP vllm:{name}_total {text}", f"# TYPE vllm:{name}_total counter"]
            lines += [f"vllm:{name}_total{{{label}}} {float(value)!r}" for label, value in series]
            lines += [f"# HELP vllm:{name}_created {text}", f"# TYPE vllm:{name}_created gauge"]
            lines += [f"vllm:{name}_created{{{label}}} {self.created!r}" for label, _ in series]
        for name, histogram in self.histograms.items():
            lines += self._histogram(name, histogram, labels)
        lines += self._configuration(engine)
        return ("\n".join(lines) + "\n").encode()

    def _gauge_series(self, gauges: Gauges, labels: str) -> Iterable[tuple[str, str, list[tuple[str, float]]]]:
        waiting = float(gauges.waiting)
        reasons = [(f'{labels},reason="capacity"', waiting), (f'{labels},reason="deferred"', 0)]
        states = [(f'{labels},sleep_state="{s}"', float(s == "awake")) for s in _SLEEP_STATES]
        yield "num_requests_running", "Number of requests in model execution batches.", [(labels, gauges.running)]
        yield "num_requests_waiting", "Number of requests waiting to be processed.", [(labels, waiting)]
        yield "num_requests_waiting_by_reason", "Number of waiting requests by reason.", list(reasons)
        yield "engine_sleep_state", "Engine sleep state; awake = 1 means engine is awake.", states
        yield "kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", [(labels, gauges.kv_usage)]

    def _counters(self, engine: Engine, labels: str) -> Iterable[tuple[str, str, list[tuple[str, float]]]]:
        computed = self.prompt_tokens - self.cached_tokens
        sources = {"local_compute": computed, "local_cache_hit": self.cached_tokens, "external_kv_transfer": 0}
        yield "prefix_cache_queries", "Prefix cache queries, in tokens.", [(labels, engine.queried_tokens)]
        yield "prefix_cache_hits", "Prefix cache hits, in tokens.", [(labels, engine.hit_tokens)]
        yield "external_prefix_cache_queries", "Queries of caches shared between instances.", [(labels, 0)]
        yield "external_prefix_cache_hits", "Hits of caches shared between instances.", [(labels, 0)]
        yield "num_preemptions", "Cumulative number of preemption from the engine.", [(labels, engine.preemptions)]
        yield "prompt_tokens", "Number of prefill tokens processed.", [(labels, self.prompt_tokens)]
        by_source = [(f'{labels},source="{source}"', float(count)) for source, count in sources.items()]
        yield "prompt_tokens_by_source", "Number of prompt tokens by source.", by_source
        cached = [(labels, float(self.cached_tokens))]
        yield "prompt_tokens_cached", "Number of cached prompt tokens (local + external).", cached
        yield "generation_tokens", "Number of generation tokens processed.", [(labels, self.output_tokens)]
        ends = [
            (f'engine="0",finished_reason="{reason}",model_name="{self.model}"', float(count))
            for reason, count in self.successes.items()
        ]
        yield "request_success", "Count of successfully processed requests.", ends
        refused = {"max_num_queued_reqs": self.rejections, "max_num_queued_tokens": 0}
        series = [(f'model_name="{self.model}",reason="{reason}"', float(count)) for reason, count in refused.items()]
        yield "admission_rejections", "Count of admission attempts rejected by a queue limit, by reason.", series

    def _histogram(self, name: str, histogram: Histogram, labels: str) -> Iterator[str]:
        yield f"# HELP vllm:{name} Histogram of {name}."
        yield f"# TYPE vllm:{name} histogram"
        count = 0
        for bound, here in zip((*map(repr, histogram.bounds), "+Inf"), histogram.counts, strict=True):
            count += here
            yield f'vllm:{name}_bucket{{engine="0",le="{bound}",model_name="{self.model}"}} {float(count)!r}'
        yield f"vllm:{name}_count{{{labels}}} {float(count)!r}"
        yield f"vllm:{name}_sum{{{labels}}} {histogram.total!r}"
        yield f"# HELP vllm:{name}_created Histogram of {name}."
        yield f"# TYPE vllm:{name}_created gauge"
        yield f"vllm:{name}_created{{{labels}}} {self.created!r}"

    def _configuration(self, engine: Engine) -> Iterator[str]:
        blocks, size = engine.pool.capacity, engine.options.block_size
        caching = engine.options.prefix_caching
        yield "# HELP vllm:cache_config_info Information of the LLMEngine CacheConfig"
        yield "# TYPE vllm:cache_config_info gauge"
        yield (
            f'vllm:cache_config_info{{block_size="{size}",cache_dtype="auto",enable_prefix_caching="{caching}",engine="0",'
            f'gpu_memory_utilization="0.9",kv_cache_size_tokens="{blocks * size}",num_gpu_blocks="{blocks}"}} 1.0'
        )


_SLEEP_STATES = ("awake", "weights_offloaded", "discard_all")
