"""What plans are tried against: records, traces, and lines that are neither."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.decisions import describe
from gateway.plan.records import NO_RECORD, NO_TIME, PlanError, past_of, read
from gateway.records import RequestRecord, Routed

RECORD = RequestRecord(
    "r1", 1.7e9, 200, "complete", model="m", pool="p", arm="next", klass="async", tenant="acme", stream=True,
    endpoint="e1", policy="least_tokens", tries=1, ttft=0.3, ttft_there=0.2, tpot=0.02, duration=1.5, ttft_slo=0.5,
    prompt_tokens=120.0, cached_tokens=16.0, completion_tokens=60.0,
    route=Routed(asked="gpt", rule="routes[0]", arm="next", drawn=0.25, share=0.05, forced=False, pools=("p", "q"),
                 path="/v1/chat/completions", key="sha256:aa", klass="async", user="0123", headers={"x-team": "a"},
                 prompt_tokens=110.0, limit=64, shadowed=("s",)),
)  # fmt: skip


def line(record: RequestRecord = RECORD) -> bytes:
    return msgspec.json.encode(describe(record)) + b"\n"


def write(path: Path, *lines: bytes) -> str:
    path.write_bytes(b"".join(lines))
    return str(path)


def test_a_record_is_read_as_it_was_written() -> None:
    past = past_of(json.loads(line()))
    route = past.route
    assert route is not None and past.is_whole and past.prompt == 120.0
    assert (past.model, past.pool, past.klass, past.tenant, past.chosen) == ("m", "p", "async", "acme", "e1")
    assert (past.ttft_slo, past.duration, past.cached_tokens) == (0.5, 1.5, 16.0) and math.isnan(past.tpot_slo)
    assert (route.asked, route.drawn, route.share, route.user, route.pools) == ("gpt", 0.25, 0.05, "0123", ("p", "q"))
    assert (route.headers, route.limit, route.klass, route.shadowed) == ({"x-team": "a"}, 64, "async", ("s",))


def test_requests_are_in_the_order_of_their_arrival(tmp_path: Path) -> None:
    later = msgspec.structs.replace(RECORD, request_id="r2", at=1.7e9 + 5.0)
    history = read(write(tmp_path / "f", line(later), line()))
    assert [one.id for one in history.requests] == ["r1", "r2"] and history.seconds == 5.0


def test_what_cannot_be_used_is_counted_with_its_reason(tmp_path: Path) -> None:
    other = line().replace(b'"v":1', b'"v":7')
    timeless = line().replace(b'"at":1700000000.0', b'"at":null')
    history = read(write(tmp_path / "f", line(), b"{cut", b"\n[]\n\n", b'{"v":1}\n', other, timeless))
    assert len(history.requests) == len(history.lines) == 1
    assert history.unused == {NO_RECORD: 3, "of another version than 1": 1, NO_TIME: 1}


def test_of_more_records_than_are_used_the_newest_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.plan.records.MOST", 10)
    lines = [line(msgspec.structs.replace(RECORD, request_id=f"r{n}", at=1.7e9 + n)) for n in range(37)]
    history = read(write(tmp_path / "f", *lines))
    assert [one.id for one in history.requests] == [f"r{n}" for n in range(27, 37)]
    assert len(history.lines) == 10 and sum(history.unused.values()) == 27


def test_a_trace_asks_for_the_model_that_is_named(tmp_path: Path) -> None:
    rows = [{"arrival_s": at, "prompt_tokens": 9, "output_tokens": 4, "session_id": "s"} for at in (1.0, 0.5)]
    path = tmp_path / "t.jsonl.gz"
    path.write_bytes(gzip.compress(b"".join(json.dumps(row).encode() + b"\n" for row in rows)))
    history = read(str(path), model="m")
    assert history.is_trace and [one.at for one in history.requests] == [0.5, 1.0]
    first = history.requests[0]
    assert first.route is not None and (first.route.asked, first.route.session) == ("m", "s")
    with pytest.raises(PlanError, match="--model"):
        read(str(path))


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(PlanError, match="cannot be read"):
        read(str(tmp_path / name))


def test_a_file_without_a_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no recorded request"):
        read(write(tmp_path / "f", b"hello\n"))


_NAMES = st.text(max_size=4)
_JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | _NAMES,
                     lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3),
                     max_leaves=6)  # fmt: skip


@given(st.sampled_from(["at", "candidates", "slo", "route", "left_out"]), _JSON,
       st.sampled_from(["status", "tries", "ttft", "stream"]), _JSON)  # fmt: skip
def test_no_value_of_a_foreign_record_breaks_the_reading(
    tmp_path_factory: pytest.TempPathFactory, name: str, value: Any, inner: str, other: Any
) -> None:
    record = json.loads(line())
    record[name], record["outcome"][inner] = value, other
    path = tmp_path_factory.mktemp("f") / "f"
    history = read(write(path, line(), json.dumps(record).encode() + b"\n"))
    assert 1 <= len(history.requests) <= 2
