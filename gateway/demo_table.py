"""The demo's table: where requests go and why, from what any operator has: log lines and `GET /api/endpoints`.

The idea: nothing here knows that this is a demo. One log line per request says who answered, how fast and for which
reason; the endpoints' page says what is in flight, the jobs' page what waits. So what a person sends with curl is
counted like anything else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

WINDOW = 15.0  # seconds that tokens/s looks back
KEPT = 200  # first tokens per endpoint that the median is of
LATEST = 5  # decisions shown
ASYNC = "async"  # the class of work that can wait

# A table of 79 columns, so that it fits a terminal of 80.
HEADINGS = ("endpoint", "GPU", "state", "requests", "share", "in flight", "TTFT p50", "tokens/s")


class Tally:
    """What the log lines of requests add up to. `now` is any clock that only goes forward, in seconds."""

    def __init__(self, now: float):
        self.total = 0
        self.failed = 0
        self.last_failure = ""
        self.latest: deque[Mapping[str, Any]] = deque(maxlen=LATEST)
        self.done = 0
        self.gave_way = 0
        self.latest_done: Mapping[str, Any] | None = None
        self._began = now
        self._requests: dict[str, int] = {}
        self._ttft: dict[str, deque[float]] = {}
        self._written: dict[str, deque[tuple[float, float]]] = {}

    def note(self, line: Mapping[str, Any], now: float) -> None:
        """Count one line of the request log."""
        if line["class"] == ASYNC:
            self._note_async(line, now)
            return
        self.total += 1
        if line["ended"] not in ("complete", "client_gone") or line["status"] >= 400:
            self.failed += 1
            self.last_failure = " ".join(filter(None, (line["request_id"], str(line["status"]), line["code"])))
        endpoint = line["endpoint"]
        if not endpoint:
            return
        self.latest.append(line)
        self._requests[endpoint] = self._requests.get(endpoint, 0) + 1
        if line["stream"] and line["ttft"] is not None:
            self._ttft.setdefault(endpoint, deque(maxlen=KEPT)).append(line["ttft"])
        self._written.setdefault(endpoint, deque()).append((now, line["completion_tokens"] or 0.0))

    def _note_async(self, line: Mapping[str, Any], now: float) -> None:
        """A run of work that can wait. One that did not come to its end is run again, so only what is done counts."""
        self.gave_way += line["code"] == "displaced"
        if line["ended"] == "complete" and line["status"] < 400:
            self.done += 1
            self.latest_done = line
            self._written.setdefault(ASYNC, deque()).append((now, line["completion_tokens"] or 0.0))

    def waits(self, jobs: Mapping[str, Any], now: float) -> list[str]:
        """How it stands with work that can wait, as `/api/jobs` and the log tell. Two lines at most."""
        queues = jobs.get("queues", ())
        running = sum(queue["here"]["sent"] for queue in queues)
        waiting = sum(queue["waiting"] + queue["claimed"] for queue in queues) - running
        if not (self.done or waiting or running):
            return ["Work that can wait: none yet; the command `batch` above sends some, to run in the gaps"]
        told = [f"Work that can wait: {self.done} done, {running} running in the gaps, {waiting} waiting, "
                f"{self._speed(ASYNC, now):.0f} tokens/s; gave way to others: {self.gave_way}"]  # fmt: skip
        if self.latest_done is not None:
            line = self.latest_done
            told.append(f" its latest: {line['request_id']} at {line['endpoint']}, after {line['queued']:.1f} s")
        return told

    def row(self, endpoint: Mapping[str, Any], now: float) -> tuple[str, ...]:
        """The cells of one endpoint, as `/api/endpoints` describes it, in the order of `HEADINGS`."""
        name = endpoint["id"]
        requests, ttft = self._requests.get(name, 0), self._ttft.get(name)
        share = requests / max(1, sum(self._requests.values()))
        return (
            name, endpoint["labels"].get("gpu", ""), endpoint["state"], str(requests), f"{share:.0%}",
            str(endpoint["inflight"]), f"{median(ttft) * 1000:.0f} ms" if ttft else "-",
            f"{self._speed(name, now):.0f}",
        )  # fmt: skip

    def _speed(self, name: str, now: float) -> float:
        """Output tokens per second of the answers that ended within the window."""
        written = self._written.get(name, deque())
        while written and written[0][0] < now - WINDOW:
            written.popleft()
        return sum(tokens for _, tokens in written) / max(1.0, min(WINDOW, now - self._began))


def render(tally: Tally, endpoints: Sequence[Mapping[str, Any]], jobs: Mapping[str, Any], now: float) -> list[str]:
    """The table as lines: a row an endpoint, the latest answers, work that can wait, and failures if there are any."""
    lines = _align([HEADINGS, *(tally.row(endpoint, now) for endpoint in endpoints)])
    lines += ["", "The latest answers: who gave it, first token after, and why it was sent there"]
    lines += _align([(line["request_id"], line["endpoint"], _came_of(line), line["reason"])
                     for line in tally.latest], left=4)  # fmt: skip
    lines += ["", *tally.waits(jobs, now)]
    if tally.failed:
        lines += ["", f"{tally.failed} of {tally.total} requests failed, the last: {tally.last_failure}"]
    return [_printable(line) for line in lines]


def _came_of(line: Mapping[str, Any]) -> str:
    if line["ended"] != "complete":
        return str(line["ended"])
    if not line["stream"] or line["ttft"] is None:
        return f"{line['duration']:.1f} s in all"
    return f"{line['ttft'] * 1000:.0f} ms"


def _align(rows: Sequence[Sequence[str]], left: int = 3) -> list[str]:
    """Columns of one width each; the first `left` begin at their left, figures end at their right."""
    if not rows:
        return []
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        " " + "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]  # fmt: skip


def _printable(text: str) -> str:
    """Nothing that a terminal would obey: request ids and reasons may hold what a client or server sent."""
    return "".join(c if c.isprintable() else "?" for c in text)


class Screen:
    """Shows a block of lines: on a terminal in place of the last one, else below it."""

    def __init__(self, write: Callable[[str], object], is_terminal: bool):
        self._write = write
        self._is_terminal = is_terminal
        self._shown = 0

    def show(self, lines: Sequence[str], columns: int, rows: int) -> None:
        """Draw. A line is cut to `columns`, the block to `rows`: a wrapped line could not be taken back."""
        if not self._is_terminal:
            self._write("\n".join(lines) + "\n\n")
            return
        lines = [line[: columns - 1] for line in lines[: rows - 1]]
        up = f"\x1b[{self._shown}A\r" if self._shown else ""
        self._write(f"{up}\x1b[J" + "\n".join(lines) + "\n")
        self._shown = len(lines)
