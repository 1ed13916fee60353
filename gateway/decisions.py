"""Decision records: why a request went where it went, kept for the last so many requests.

The idea: what a pick was made from is gone with the next event, so it is copied while it is there: one small float32
table per request, and one tuple of endpoint ids that all picks of an unchanged fleet share (`capture`). The record's
JSON, the costly part, is made only when somebody asks, or in the writer thread where a file was configured. Ring and
index are bounded by `keep`; a request id that comes again (a client may choose its own) hides the older record.

Left to others: serving and printing (`admin`, `explain`), writing the bytes (`logs.Output`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec
import numpy as np

from gateway.core.snapshot import Snapshot
from gateway.core.types import Decision, Floats, Rows
from gateway.logs import Output
from gateway.records import Candidates, Forecast, RequestRecord, Routed, Stretch, Work
from gateway.told import described

# More candidates than this are not all kept: the best `BEST` of them are.
MANY = 64
BEST = 32
# Tuples of ids that are shared between records while the fleet keeps changing.
SHARED = 256
# Records that wait for the file's writer; about what one costs in bytes there.
RECORD_BYTES = 4096
WAITING = 10_000


class DecisionRing:
    """The last `keep` records, found by request id; with `file`, each is also appended there as a line of JSON."""

    def __init__(self, keep: int, file: str | None = None):
        self._ids: dict[str, tuple[Rows, tuple[str, ...]]] = {}
        self._shared: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._pending: list[RequestRecord] = []
        self._file: str | None = None
        self._output: Output | None = None
        self._clear(keep)
        self._write_to(file)

    def _clear(self, keep: int) -> None:
        self.keep = keep
        self._ring: list[RequestRecord | None] = [None] * keep
        self._next = 0
        self._slot: dict[str, int] = {}

    def _write_to(self, file: str | None) -> None:
        self._file = file
        self._output = None if file is None else Output(Path(file), limit=RECORD_BYTES * WAITING)

    def __len__(self) -> int:
        return len(self._slot)

    @property
    def dropped(self) -> int:
        """Records that the file did not get."""
        return 0 if self._output is None else self._output.dropped

    # --- the hot path ------------------------------------------------------------------------------------------

    def capture(self, snapshot: Snapshot, decision: Decision, terms: tuple[str, ...] = ()) -> Candidates:
        """Copy what `decision` was made from. Call it before the reservation changes the columns.

        `terms` are the names of the rows of `decision.terms` (the policy's `TERMS`). Returns at most `MANY` candidates,
        else the `BEST` with the lowest scores (evenly spaced ones where there are no scores), the chosen one always
        among them.
        """
        rows, scores = snapshot.rows, decision.scores
        pool = snapshot.fleet.pool
        known = self._ids.get(pool)
        if known is not None and known[0] is rows:
            ids = known[1]
        else:
            # The fleet makes a new array whenever its members or their states change, so the array itself is the key.
            ids = self._share(tuple(snapshot.ids()))
            self._ids[pool] = (rows, ids)
        table, more = snapshot.picture(), decision.terms
        left_out = 0
        if len(rows) > MANY:
            kept = _best(rows, scores, decision.row)
            ids = self._share(tuple([ids[i] for i in kept.tolist()]))
            table, left_out = table[:, kept], len(rows) - BEST
            scores = None if scores is None else scores[kept]
            more = None if more is None else more[:, kept]
        if more is None or more.shape != (len(terms), len(ids)):  # somebody else's policy may promise other rows
            return Candidates(ids, table, scores, left_out)
        table = np.concatenate((table, more), dtype=np.float32, casting="same_kind")
        return Candidates(ids, table, scores, left_out, terms)

    def put(self, record: RequestRecord) -> None:
        """Keep a record; the oldest goes when the ring is full."""
        self._keep(record)
        if self._output is not None:
            self._pending.append(record)

    def _keep(self, record: RequestRecord) -> None:
        if self.keep:
            slot = self._next
            old = self._ring[slot]
            if old is not None and self._slot.get(old.request_id) == slot:
                del self._slot[old.request_id]
            self._ring[slot] = record
            self._slot[record.request_id] = slot
            self._next = slot + 1 if slot + 1 < self.keep else 0

    def _share(self, ids: tuple[str, ...]) -> tuple[str, ...]:
        if len(self._shared) >= SHARED:
            self._shared.clear()
        return self._shared.setdefault(ids, ids)

    # --- off the hot path --------------------------------------------------------------------------------------

    def find(self, request_id: str) -> RequestRecord | None:
        """The newest record of that id, if it is still kept."""
        slot = self._slot.get(request_id)
        return None if slot is None else self._ring[slot]

    def all(self) -> list[RequestRecord]:
        """Every record that is kept, the oldest first."""
        return [record for record in (*self._ring[self._next :], *self._ring[: self._next]) if record is not None]

    def flush(self) -> None:
        """Hand what is new to the file's writer. Call it about every 100 ms and before the end."""
        if self._pending and self._output is not None:
            batch, self._pending = self._pending, []
            self._output.offer(lambda: _lines(batch), RECORD_BYTES * len(batch), len(batch))

    def reconfigure(self, keep: int, file: str | None) -> None:
        """Another size or file from now on; does not wait. What fits is kept, the old file gets what it has coming."""
        if keep != self.keep:
            records = self._ring[self._next :] + self._ring[: self._next]
            self._clear(keep)
            for record in records:
                if record is not None:
                    self._keep(record)
        if file != self._file:
            self.close(0.0)
            self._write_to(file)

    def close(self, timeout: float = 1.0) -> None:
        """Flush, and give the writer `timeout` seconds to finish."""
        self.flush()
        if self._output is not None:
            self._output.close(timeout)


def _best(rows: Rows, scores: Floats | None, chosen_row: int) -> Rows:
    """Which positions are kept of many."""
    chosen = int(np.flatnonzero(rows == chosen_row)[0])
    if scores is None:
        kept = np.linspace(0, len(rows) - 1, BEST).astype(np.intp)
    else:
        kept = np.argpartition(scores, BEST)[:BEST]
    if chosen not in kept:
        kept[-1] = chosen
    kept.sort()
    return kept


def describe(record: RequestRecord) -> dict[str, object]:
    """The record as the contract's JSON: names, numbers and None where a figure is not known."""
    return {
        "v": 1,
        "request_id": record.request_id,
        "at": record.at,
        "model": record.model,
        "pool": record.pool,
        "arm": record.arm,
        "class": record.klass,
        "tenant": record.tenant,
        "seed": record.seed,
        "policy": record.policy,
        "candidates": [] if record.candidates is None else _candidates(record.candidates),
        "left_out": 0 if record.candidates is None else record.candidates.left_out,
        "chosen": record.endpoint,
        "reason": record.reason,
        "slo": {"ttft": _known(record.ttft_slo), "tpot": _known(record.tpot_slo)},
        "predicted": None if record.predicted is None else _plain(record.predicted),
        "work": None if record.work is None else _work(record.work),
        "admission": None if record.admission is None else described(record.admission),
        "route": None if record.route is None else _route(record.route),
        "outcome": {
            "status": record.status,
            "ended": record.ended,
            "code": record.code,
            "stream": record.stream,
            "finish": record.finish,
            "tries": record.tries,
            **{name: _known(getattr(record, name)) for name in _FIGURES},
        },
    }


_FIGURES = (
    "queued",
    "overhead",
    "ttft",
    "ttft_there",
    "tpot",
    "duration",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
)


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _plain(figures: Forecast | Work | Stretch, but: str = "") -> dict[str, object]:
    return {name: _known(getattr(figures, name)) for name in figures.__struct_fields__ if name != but}


def _work(work: Work) -> dict[str, object]:
    return {**_plain(work, but="after"), "after": None if work.after is None else _plain(work.after)}


def _route(route: Routed) -> dict[str, object]:
    found = msgspec.structs.asdict(route)
    return {**found, "drawn": _known(route.drawn), "share": _known(route.share),
            "prompt_tokens": _known(route.prompt_tokens)}


def _candidates(table: Candidates) -> list[dict[str, object]]:
    scores = [None] * len(table.ids) if table.scores is None else [_known(s) for s in table.scores.tolist()]
    columns = [[_known(value) for value in column] for column in table.columns.tolist()]
    known = len(Candidates.NAMES)
    found: list[dict[str, object]] = []
    for endpoint, score, *values in zip(table.ids, scores, *columns, strict=True):
        one: dict[str, object] = {"endpoint": endpoint, **dict(zip(Candidates.NAMES, values[:known], strict=True))}
        if table.terms:
            one["terms"] = dict(zip(table.terms, values[known:], strict=True))
        found.append({**one, "score": score})
    return found


def _lines(records: Iterable[RequestRecord]) -> bytes:
    """Runs in the writer thread. Between two records it lets the event loop have the interpreter's lock."""
    encode = msgspec.json.Encoder().encode
    lines = bytearray()
    for record in records:
        lines += encode(describe(record)) + b"\n"
        time.sleep(0)
    return bytes(lines)
