"""How long a request will be, before and while the engine tells: tokens of its prompt, and of its answer.

Prompts: tokens are bytes over the bytes per token of all that this tenant sent, since languages differ by a factor of
three in it, and what is sent is JSON.

Answers: one small histogram of lengths per (route, tenant), which borrows from its route's, which borrows from the
model's, which borrows from a guess: each level weighs its own n answers against `BORROWED` of the level above, so a
tenant's first answer counts a little and its hundredth is nearly all there is. Old answers fade, so a shift of workload
is followed. From the histogram come the mean, the mean under a client's limit (E min(X, limit), not min(E X, limit)),
and the mean residual life: lengths are heavy-tailed, so the longer an answer has been, the more of it is to be
expected. Bins are half octaves that also keep the sum of what fell into them: at their edges all three are exact.

Source: partial pooling as in James and Stein (1961); mean residual life as in the renewal literature. No model reads
the prompt: for choosing an endpoint the running mean is nearly as good as knowing.

Left to others: counting tokens (`meter`), and who is asked about (one `Lengths` per model).
"""

from __future__ import annotations

import math

import numpy as np

from gateway.core.types import Floats

BORROWED = 5.0  # answers of the level above that count with one's own
MEMORY = 200.0  # answers after which an older one counts for 1/e
MEAN = 200.0  # tokens of an answer of which nothing is known
SPREAD = 1.0  # ... and the deviation of its logarithm
TENANTS = 512  # (route, tenant) pairs that are remembered, the longest unused goes first
ROUTES = 64
BYTES_PER_TOKEN = 4.0
BORROWED_TOKENS = 2000.0  # of prompts, at the ratio of the level above, that count with one's own
_BINS = 35  # from 1 to 131,072 tokens; the last holds all that is longer
_LARGEST = 1e100  # a weight at which the histogram is scaled back
_EVERY = 0.25  # a share of new answers after which the derived figures are made again


class Lengths:
    """What one model's requests are like. Lengths are tokens, sizes are bytes of prompt JSON."""

    def __init__(self) -> None:
        self._edges = 2.0 ** (np.arange(_BINS) / 2.0)
        self._model = _Level(_guess(self._edges), self._edges, BYTES_PER_TOKEN)
        self._routes: dict[str, _Level] = {}
        self._tenants: dict[tuple[str, str], _Level] = {}

    def prompt_tokens(self, size: int, route: str = "", tenant: str = "") -> float:
        """Tokens of a prompt of `size` bytes; of anybody's where nobody is named."""
        return size / self._level(route, tenant).bytes_per_token + 1.0

    def expected(self, route: str, tenant: str, limit: int | None = None) -> float:
        """Expected tokens of one answer, under the client's limit."""
        level = self._level(route, tenant)
        if limit is None or limit >= level.longest:
            return level.mean if limit is None else min(level.mean, limit)
        return min(level.mean_below(float(limit)), limit) if limit > 1 else 1.0

    def remaining(self, route: str, tenant: str, written: float, limit: int | None = None) -> float:
        """Expected further tokens of an answer of which `written` have come and the end has not; at least 1."""
        level = self._level(route, tenant)
        most = level.mean
        if limit is not None and limit < level.longest:
            if limit <= written + 1:
                return 1.0
            most = level.mean_below(float(limit))
        return max(1.0, (most - level.mean_below(written)) / level.share_above(written))

    def learn(self, route: str, tenant: str, size: int, prompt: float, output: float) -> None:
        """What the engine counted of one request; NaN or negative where it did not."""
        tells_prompt = prompt > 0.0 and 0.5 <= size / prompt <= 16.0  # beyond, a template or an image: no measure
        tells_output = 0.0 < output < math.inf
        if not tells_prompt and not tells_output:
            return
        of_route = self._routes.pop(route, None) or _Level(self._model, self._edges, self._model.bytes_per_token)
        self._routes[route] = of_route
        of_tenant = self._tenants.pop((route, tenant), None) or _Level(of_route, self._edges, of_route.bytes_per_token)
        self._tenants[route, tenant] = of_tenant
        if len(self._routes) > ROUTES:
            del self._routes[next(iter(self._routes))]
        if len(self._tenants) > TENANTS:
            del self._tenants[next(iter(self._tenants))]
        if tells_prompt:
            self._model.learn_prompt(size, prompt, BYTES_PER_TOKEN)
            of_route.learn_prompt(size, prompt, self._model.bytes_per_token)
            of_tenant.learn_prompt(size, prompt, of_route.bytes_per_token)
        if not tells_output:
            return
        at = min(_BINS - 1, int(2.0 * math.log2(output))) if output > 1.0 else 0
        self._model.learn(at, output)
        of_route.learn(at, output)
        of_tenant.learn(at, output)

    def _level(self, route: str, tenant: str) -> _Level:
        return self._tenants.get((route, tenant)) or self._routes.get(route) or self._model


class _Shape:
    """A distribution over the bins: `shares` sum to 1, `means` (each bin's share of the mean) to the mean."""

    __slots__ = ("means", "shares")

    def __init__(self, shares: Floats, means: Floats):
        self.shares = shares
        self.means = means


class _Level:
    """Lengths seen at one level, and what follows from them and from the level above."""

    __slots__ = ("_above", "_counts", "_due", "_edges", "_fresh", "_prompt_size", "_prompt_tokens", "_seen", "_shape",
                 "_sums", "_tables", "_weight", "bytes_per_token", "longest", "mean")  # fmt: skip

    def __init__(self, above: _Level | _Shape, edges: Floats, bytes_per_token: float):
        self._above = above
        self.bytes_per_token = bytes_per_token
        self._prompt_size = self._prompt_tokens = 0.0
        self._edges = edges
        self._counts = np.zeros(_BINS)
        self._sums = np.zeros(_BINS)
        self._weight = 1.0  # of the next answer: it grows, which is cheaper than letting all others fade
        self._seen = 0.0
        self._tables: tuple[list[float], list[float]] | None = None
        self.longest = edges.item(-1)
        self._derive()

    @property
    def shape(self) -> _Shape:
        """What is believed here."""
        return self._shape

    def learn_prompt(self, size: float, tokens: float, above: float) -> None:
        """One more prompt; `above` is the bytes per token of the level above."""
        self._prompt_size += size - self._prompt_size / MEMORY
        self._prompt_tokens += tokens - self._prompt_tokens / MEMORY
        borrowed = BORROWED_TOKENS * above
        self.bytes_per_token = (self._prompt_size + borrowed) / (self._prompt_tokens + BORROWED_TOKENS)

    def learn(self, at: int, output: float) -> None:
        """One more answer, which falls into bin `at`."""
        self._counts[at] += self._weight
        self._sums[at] += self._weight * output
        self._weight *= 1.0 + 1.0 / MEMORY
        if self._weight > _LARGEST:
            self._counts /= self._weight
            self._sums /= self._weight
            self._weight = 1.0
        self._seen = min(self._seen + 1.0, MEMORY)
        self._fresh += 1.0
        if self._fresh >= self._due:
            self._derive()

    def _derive(self) -> None:
        above = self._above.shape if isinstance(self._above, _Level) else self._above
        own = BORROWED * self._weight + float(self._counts.sum())
        borrowed = BORROWED * self._weight / own
        self._shape = _Shape(self._counts / own + borrowed * above.shares, self._sums / own + borrowed * above.means)
        self.mean = float(self._shape.means.sum())
        self._tables = None
        self._fresh = 0.0
        self._due = max(1.0, _EVERY * self._seen)

    def _read(self) -> tuple[list[float], list[float]]:
        """E min(X, edge) and P(X >= edge) at every bin's lower edge; made when first asked for."""
        if self._tables is None:
            means, shares = self._shape.means, self._shape.shares
            reached = shares[::-1].cumsum()[::-1]
            self._tables = ((means.cumsum() - means + self._edges * reached).tolist(), reached.tolist())
        return self._tables

    def mean_below(self, limit: float) -> float:
        """E min(X, limit)."""
        if limit <= 1.0:
            return limit
        limited = self._read()[0]
        if limit >= self.longest:
            return limited[-1] + (self.mean - limited[-1]) * (1.0 - self.longest / limit)
        return _between(limited, self._edges, int(2.0 * math.log2(limit)), limit)

    def share_above(self, written: float) -> float:
        """P(X > written), never 0."""
        if written <= 1.0:
            return 1.0
        reached = self._read()[1]
        if written >= self.longest:
            return max(reached[-1], 1e-12) * self.longest / written
        return max(_between(reached, self._edges, int(2.0 * math.log2(written)), written), 1e-12)


def _between(values: list[float], edges: Floats, at: int, x: float) -> float:
    """The value at `x`, which lies in bin `at`, on the line between the bin's edges."""
    if at + 1 >= len(values):
        return values[-1]
    low = edges.item(at)
    return values[at] + (values[at + 1] - values[at]) * (x - low) / (edges.item(at + 1) - low)


def _guess(edges: Floats) -> _Shape:
    """A lognormal of mean `MEAN` and deviation `SPREAD`, cut into the bins."""
    middle = math.log(MEAN) - SPREAD * SPREAD / 2.0
    marks = (np.log(edges) - middle) / SPREAD
    marks[0] = -math.inf
    below = np.array([*map(_normal, marks.tolist()), 1.0])
    shifted = np.array([*(_normal(mark - SPREAD) for mark in marks.tolist()), 1.0])
    return _Shape(np.diff(below), MEAN * np.diff(shifted))


def _normal(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2.0))
