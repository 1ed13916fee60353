"""Logging: one line of valid JSON per request, harmless whatever is in it, and never a stall or an exception."""

import json
import os
import random
import select
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.config.types import Secret
from gateway.logs import BURST, Events, Output, RequestLog, _pieces
from gateway.records import Forecast, RequestRecord

RECORD = RequestRecord(
    "r1", 1_700_000_000.25, 200, "complete", path="/v1/chat/completions", model="llama", pool="gpu", arm="stable",
    tenant="acme", endpoint="a", policy="least_tokens", reason="12 tokens left to do there, least of 2", tries=1,
    overhead=0.0001, ttft=0.3, duration=1.5, prompt_tokens=100.0,
)  # fmt: skip


class Held(Output):
    """An output that keeps what it is given."""

    def __init__(self) -> None:
        super().__init__(1)
        self.data = b""
        self.batches = 0

    def offer(self, batch: object, size: int, lines: int) -> None:
        assert isinstance(batch, bytes)
        assert batch.count(b"\n") == lines
        self.data += batch
        self.batches += 1

    def lines(self) -> list[dict[str, object]]:
        def refuse(word: str) -> None:
            raise ValueError(f"{word} is not JSON")

        return [json.loads(line, parse_constant=refuse) for line in self.data.splitlines()]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def written(record: RequestRecord) -> dict[str, object]:
    output = Held()
    log = RequestLog(output)
    log.write(record)
    log.flush()
    [line] = output.lines()
    return line


# --- one line per request ------------------------------------------------------------------------------------


def test_a_request_is_one_line_with_its_figures_and_null_where_one_is_not_known() -> None:
    line = written(RECORD)
    assert line["time"] == "2023-11-14T22:13:20.250Z"
    assert (line["level"], line["event"], line["request_id"], line["status"]) == ("info", "request", "r1", 200)
    assert (line["model"], line["pool"], line["class"], line["tenant"]) == ("llama", "gpu", "interactive", "acme")
    assert (line["ttft"], line["tpot"], line["duration"]) == (0.3, None, 1.5)
    assert line["reason"] == "12 tokens left to do there, least of 2"


def test_what_was_predicted_is_in_the_line() -> None:
    line = written(RECORD)
    assert (line["predicted_ttft"], line["predicted_tpot"]) == (None, None)
    line = written(replace(RECORD, predicted=Forecast(0.25, 0.2, 0.3, 0.02, 0.01, 0.03)))
    assert (line["predicted_ttft"], line["predicted_tpot"]) == (0.25, 0.02)


def test_nothing_is_handed_over_before_the_timer_or_a_full_batch() -> None:
    output = Held()
    log = RequestLog(output)
    log.write(RECORD)
    assert output.batches == 0
    for _ in range(200):
        log.write(RECORD)
    assert output.batches == 1
    log.flush()
    log.flush()
    assert output.batches == 2
    assert len(output.lines()) == 201


@pytest.mark.parametrize(("level", "lines"), [("debug", 1), ("info", 1), ("warning", 0), ("error", 0)])
def test_request_lines_are_on_at_info_and_off_above(level: str, lines: int) -> None:
    output = Held()
    log = RequestLog(output)
    log.set_level(level)
    log.write(RECORD)
    log.flush()
    assert len(output.lines()) == lines


def test_a_path_is_cut_short_and_loses_its_query_where_clients_put_keys() -> None:
    assert written(replace(RECORD, path="/v1/models?api_key=sk-secret"))["path"] == "/v1/models"
    assert len(str(written(replace(RECORD, path="/" + "x" * 8000))["path"])) == 257


@pytest.mark.parametrize("bad", ["\x1b[2J", "a\nb", '"}{', "\x7f", "\x9b31m", "\u2028", "\udc9b", "é\x00", "𝄞"])
def test_what_a_terminal_would_obey_is_escaped_and_reads_back_the_same(bad: str) -> None:
    output = Held()
    log = RequestLog(output)
    log.write(replace(RECORD, path="/" + bad, reason=bad))
    log.flush()
    assert output.data.endswith(b"}\n")
    assert all(0x20 <= byte < 0x7F for byte in output.data[:-1])
    [line] = output.lines()
    assert (line["path"], line["reason"]) == ("/" + bad, bad)
    assert line["class"] == "interactive"
    assert line["tpot"] is None


@given(st.text(), st.text(), st.floats())
@settings(deadline=None)
def test_any_text_and_any_number_give_one_line_of_json(path: str, reason: str, figure: float) -> None:
    line = written(replace(RECORD, path=path, reason=reason, ttft=figure))
    assert line["reason"] == reason


# --- everything else -----------------------------------------------------------------------------------------


def make_events(level: str = "info") -> tuple[Events, Held, list[float]]:
    output, now = Held(), [100.0]
    return Events(output, level, clock=lambda: now[0], wall=lambda: 1_700_000_000.0), output, now


def test_an_event_is_one_line_at_once() -> None:
    events, output, _ = make_events()
    events.log("warning", "endpoint_ejected", pool="gpu", endpoint="a", failures=5, share=float("nan"))
    assert output.lines() == [
        {"time": "2023-11-14T22:13:20.000Z", "level": "warning", "event": "endpoint_ejected", "pool": "gpu",
         "endpoint": "a", "failures": 5, "share": None}
    ]  # fmt: skip


def test_what_is_below_the_level_is_not_told() -> None:
    events, output, _ = make_events("warning")
    events.log("info", "started")
    events.log("error", "bug")
    events.set_level("debug")
    events.log("debug", "detail")
    assert [line["event"] for line in output.lines()] == ["bug", "detail"]


def test_a_storm_of_one_event_is_limited_says_how_much_was_left_out_and_hides_no_other() -> None:
    events, output, now = make_events()
    for _ in range(1000):
        events.log("error", "storm")
    events.log("info", "other")
    assert len(output.lines()) == BURST + 1
    now[0] += 1.0
    events.log("error", "storm")
    events.log("error", "storm")
    assert output.lines()[-1]["suppressed"] == 1000 - BURST
    assert len(output.lines()) == BURST + 2


def test_a_secret_shows_only_its_mask_however_deep_it_is() -> None:
    events, output, _ = make_events()
    secret = Secret("sk-secret")
    events.log("info", "loaded", key=secret, all=[secret, {"k": secret}], error=ValueError("bad\x1b[0m"))
    assert b"sk-secret" not in output.data
    assert b"\x1b" not in output.data
    assert output.lines()[0]["all"] == ["Secret(…)", {"k": "Secret(…)"}]


# --- writing -------------------------------------------------------------------------------------------------


def test_what_is_offered_arrives_in_order(pipe: tuple[int, int]) -> None:
    output = Output(pipe[1])
    for number in range(100):
        output.offer(b"%d\n" % number, 3, 1)
    output.close(10.0)
    assert os.read(pipe[0], 1 << 16).split() == [b"%d" % number for number in range(100)]
    assert output.dropped == 0


def test_a_reader_that_stalls_stalls_nobody_and_what_is_too_much_is_dropped_and_counted(
    pipe: tuple[int, int],
) -> None:
    output = Output(pipe[1], limit=1 << 20)
    log = RequestLog(output)
    for _ in range(10_000):  # about 5 MB into a pipe that holds 64 KiB
        log.write(RECORD)
    log.flush()
    lost = output.dropped
    assert 5_000 < lost < 10_000
    assert not output.wait_for_idle(0.01), "the writer hangs, this thread does not"
    received = b""
    os.set_blocking(pipe[0], False)
    while not output.wait_for_idle(0.001):
        received += _read_some(pipe[0])
    output.close(10.0)
    while chunk := _read_some(pipe[0]):
        received += chunk
    lines = received.splitlines()
    assert len(lines) == 10_000 - lost
    assert all(json.loads(line)["request_id"] == "r1" for line in lines)
    assert log.dropped == lost


def _read_some(fd: int) -> bytes:
    try:
        return os.read(fd, 1 << 16)
    except BlockingIOError:
        return b""


def test_a_reader_that_is_gone_costs_the_lines_and_nothing_else() -> None:
    receiver, sender = os.pipe()
    os.close(receiver)
    output = Output(sender)
    log = RequestLog(output)
    log.write(RECORD)
    log.write(RECORD)
    log.flush()
    assert output.wait_for_idle(10.0)
    assert output.dropped == 2
    output.close(10.0)
    os.close(sender)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_costs_the_lines_and_nothing_else() -> None:
    output = Output(Path("/dev/full"))
    for _ in range(3):
        output.offer(b"a line\n", 7, 1)
    assert output.wait_for_idle(10.0)
    output.close(10.0)
    assert output.dropped == 3


def test_a_batch_that_was_cut_leaves_one_torn_line_and_the_next_starts_afresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real, calls = tmp_path / "log", os.write, []

    def short(fd: int, data: memoryview) -> int:
        calls.append(len(data))
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return real(fd, data[:4]) if len(calls) == 1 else real(fd, data)

    monkeypatch.setattr("gateway.logs.os.write", short)
    output = Output(path)
    output.offer(b"first line\n", 11, 1)
    output.offer(b"second line\n", 12, 1)
    output.close(10.0)
    assert path.read_bytes() == b"firs\nsecond line\n"
    assert output.dropped == 1


def test_a_descriptor_that_others_made_non_blocking_is_waited_for(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    output, data = Output(pipe[1]), random.Random(3).randbytes(1 << 18)
    output.offer(data, len(data), 1)
    received = b""
    while len(received) < len(data):
        received += os.read(pipe[0], 1 << 16)
    assert received == data
    output.close(10.0)
    assert output.dropped == 0


def test_lines_of_two_processes_on_one_pipe_are_not_mixed(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    real = os.write

    def write(fd: int, data: memoryview) -> int:
        sizes.append(len(data))
        assert bytes(data[-1:]) == b"\n"
        return real(fd, data)

    monkeypatch.setattr("gateway.logs.os.write", write)
    output = Output(pipe[1])
    lines = b"".join(b"x" * (number * 37 % 900) + b"\n" for number in range(60))
    output.offer(lines, len(lines), 60)
    output.close(10.0)
    assert os.read(pipe[0], 1 << 16) == lines
    assert max(sizes) <= select.PIPE_BUF
    assert len(sizes) < 20
    assert output.dropped == 0


@given(st.lists(st.integers(0, 6000), max_size=30), st.booleans())
def test_pieces_are_whole_lines_and_together_the_data(lengths: list[int], ends: bool) -> None:
    data = b"\n".join(b"x" * length for length in lengths) + b"\n" * ends
    pieces = list(_pieces(data))
    assert b"".join(pieces) == data
    assert all(piece.endswith(b"\n") for piece in pieces[:-1])
    assert all(len(piece) <= select.PIPE_BUF or piece.count(b"\n") <= 1 for piece in pieces)


def test_a_file_that_was_moved_away_is_made_anew_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "log"
    output = Output(path)
    output.offer(b"old\n", 4, 1)
    assert output.wait_for_idle(10.0)
    path.rename(tmp_path / "log.1")
    output.offer(lambda: b"new\n", 4, 1)
    output.close(10.0)
    assert path.read_bytes() == b"new\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_after_the_end_lines_are_counted_as_dropped(tmp_path: Path) -> None:
    output = Output(tmp_path / "log")
    output.close()
    output.offer(b"late\n", 5, 1)
    assert output.dropped == 1
