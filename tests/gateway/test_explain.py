"""The verb `explain`: asked of a real admin listener, and what it prints."""

import asyncio
import random
import socket
from argparse import ArgumentParser
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway import explain
from gateway.admin import Admin
from gateway.config.types import Admin as AdminConfig
from gateway.config.types import Config, Secret
from gateway.core.fleet import Fleet
from gateway.decisions import DecisionRing, describe
from gateway.logs import Events, Output
from gateway.metrics import Metrics
from gateway.records import Candidates, Forecast, RequestRecord

TOKEN = "the-token"
RECORD = RequestRecord(
    "r1", 1_700_000_000.25, 200, "complete", model="llama", pool="gpu", arm="stable", endpoint="b",
    policy="least_tokens", reason="80 tokens left to do there, least of 3", tries=1, queued=0.0, overhead=0.00012,
    ttft=0.31, tpot=0.02, duration=1.5, prompt_tokens=1200.0, cached_tokens=800.0, completion_tokens=60.0,
    candidates=Candidates(
        ("a", "b", "c"),
        np.array([[2, 1, 9], [200, 80, 4000], [0, 30, 900], [0.5, np.nan, 0.25], [0.2, np.inf, 1.0]], np.float32),
        np.array([200, 80, 4000], np.float32),
    ),
)  # fmt: skip


class View:
    """A gateway that has kept one decision."""

    def __init__(self) -> None:
        self.config = Config(pools={}, models={}, admin=AdminConfig(token=Secret(TOKEN)))
        self.metrics = Metrics()
        self.decisions = DecisionRing(5)
        self.decisions.put(RECORD)
        self.events = Events(Output(2))

    def fleets(self) -> Mapping[str, Fleet]:
        return {}

    def is_ready(self) -> bool:
        return True

    def now(self) -> float:
        return 0.0

    async def reload(self) -> tuple[bool, Sequence[str]]:
        return True, []


Run = Callable[..., Any]


def call(*words: str) -> int:
    parser = ArgumentParser()
    explain.add_arguments(parser)
    return explain.run(parser.parse_args(words))


@pytest.fixture
async def ask() -> AsyncIterator[Run]:
    """Runs the verb in a thread, against a listener on a port of its own."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    admin = Admin(View())
    await admin.start(sock)
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"

    async def ask(*words: str, token: str | None = TOKEN) -> int:
        more = () if token is None else ("--token", token)
        return await asyncio.to_thread(call, *words, "--admin", url, *more)

    yield ask
    await admin.stop()


def show(**changes: Any) -> str:
    return explain.render(describe(replace(RECORD, **changes)))


def scored(*scores: float) -> Candidates:
    assert RECORD.candidates is not None
    return replace(RECORD.candidates, scores=np.array(scores, np.float32))


# --- asked of a listener -------------------------------------------------------------------------------------


async def test_it_prints_where_the_request_went_and_why(ask: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert await ask("r1") == 0
    printed = capsys.readouterr().out
    assert "request r1 at 2023-11-14T22:13:20.250Z" in printed
    assert "chosen: b, because: 80 tokens left to do there, least of 3" in printed
    assert "second best: a, by 120 tokens" in printed


async def test_as_json_it_prints_the_record_itself(ask: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert await ask("r1", "--json") == 0
    assert '"chosen": "b"' in capsys.readouterr().out


async def test_an_id_that_is_not_kept_is_exit_1_and_says_how_many_are(
    ask: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await ask("gone/../x") == 1
    assert "the last 5 are" in capsys.readouterr().err


@pytest.mark.parametrize("token", [None, "wrong"])
async def test_without_the_right_token_it_says_how_to_give_it(
    ask: Run, capsys: pytest.CaptureFixture[str], token: str | None
) -> None:
    assert await ask("r1", token=token) == 1
    assert "--token T" in capsys.readouterr().err


def test_when_nobody_listens_it_says_where_it_asked_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    assert call("r1", "--admin", f"http://127.0.0.1:{port}") == 1
    said = capsys.readouterr().err
    assert f"http://127.0.0.1:{port}" in said
    assert "--admin URL" in said


@pytest.mark.parametrize("url", ["127.0.0.1:9090", "file:///etc/passwd", "http://", "nonsense"])
def test_an_address_that_is_no_url_is_bad_usage(capsys: pytest.CaptureFixture[str], url: str) -> None:
    assert call("r1", "--admin", url) == 2
    assert "--admin wants a URL" in capsys.readouterr().err


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"v": 2}', b"\xff"])
async def test_an_answer_that_is_no_record_is_named_as_such(capsys: pytest.CaptureFixture[str], body: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + body)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    assert await asyncio.to_thread(call, "r1", "--admin", f"http://127.0.0.1:{port}") == 1
    assert "not with a decision record" in capsys.readouterr().err
    server.close()


async def test_the_token_follows_no_redirect(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.0 302 Found\r\nLocation: /elsewhere\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    assert await asyncio.to_thread(call, "r1", "--token", "t", "--admin", f"http://127.0.0.1:{port}") == 1
    assert len(seen) == 1
    assert "302" in capsys.readouterr().err
    server.close()


# --- what is printed -----------------------------------------------------------------------------------------


def test_the_table_has_the_best_first_marks_the_choice_and_says_what_is_not_known() -> None:
    lines = show().splitlines()
    table = [line.split() for line in lines if line.split()[:1] in (["->"], ["a"], ["c"])]
    assert table == [
        ["->", "b", "1", "80", "30", "?", "never", "80"],
        ["a", "2", "200", "0", "50.0%", "0.20s", "200"],
        ["c", "9", "4,000", "900", "25.0%", "1.00s", "4,000"],
    ]


def test_the_outcome_has_its_times_and_tokens() -> None:
    text = show()
    assert "outcome: status 200, complete" in text
    assert "gateway 0.12 ms, first token 310 ms, per token 20 ms, in all 1.50 s" in text
    assert "prompt 1,200, of it cached 800, written 60" in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"candidates": scored(80.0, 80.0, 90.0)}, "a scored the same: the tie was broken"),
        ({"candidates": scored(10.0, 80.0, 90.0)}, "a scored lower by 70 tokens; something other than the score"),
        ({"policy": "mine", "candidates": scored(0.5, 0.25, 0.75)}, "second best: a, by 0.25"),
        ({"candidates": scored(np.nan, 1.0, np.nan)}, "compared no scores"),
        ({"candidates": replace(scored(1.0, 2.0, 3.0), scores=None)}, "compared no scores"),
        ({"candidates": replace(scored(200.0, 80.0, 90.0), left_out=40)}, "and 40 more candidates"),
        ({"candidates": Candidates(("b",), np.ones((5, 1)), None)}, "it was the only candidate"),
        ({"tries": 2}, "this is the choice of try 2"),
        ({"status": 502, "ended": "upstream_failed", "code": "upstream_failed"}, "status 502, upstream_failed (ups"),
    ],
)
def test_it_says_what_would_have_had_to_be_different(changes: dict[str, Any], words: str) -> None:
    assert words in show(**changes)


PREDICTED = replace(
    RECORD, policy="predicted_latency", stream=True, ttft_slo=0.5, ttft_there=0.3, reason="least cost of 2",
    predicted=Forecast(0.31, 0.25, 0.4, 0.02, 0.018, np.nan),
    candidates=Candidates(
        ("a", "b"),
        np.array([[4, 3], [2000, 900], [1930, 30], [0.5, 0.5], [0.2, 0.1],
                  [0.345, 0.31], [0.0214, 0.02], [0.02, 0.02], [0.3, 0.18], [0.0, 800.0]], np.float32),
        np.array([0.32 + 0.345 * 0.8, 0.2 + 0.31 * 0.8]),
        terms=("ttft", "tpot", "ttft_risk", "harm", "cached"),
    ),
)  # fmt: skip


def test_what_was_predicted_and_of_what_each_score_was_made_is_in_the_table() -> None:
    lines = explain.render(describe(PREDICTED)).splitlines()
    title, chosen, other = (line for line in lines if "score" in line or line[:4] in ("-> b", "   a"))
    assert title.split("KV used")[1].split() == [
        "age", "first", "token", "per", "token", "ttft_risk", "harm", "cached", "score"]  # fmt: skip
    assert chosen.split()[6:] == ["0.10s", "310", "ms", "20", "ms", "0.02", "0.18", "800", "0.448"]
    assert other.split()[5:] == ["0.20s", "345", "ms", "21.4", "ms", "0.02", "0.3", "0", "0.596"]
    assert "first token predicted 310 ms (90 %: 250 ms to 400 ms), promised 500 ms; per token predicted 20 ms" in lines
    assert any("first token 310 ms, from the dispatch 300 ms" in line for line in lines)


def test_what_would_have_had_to_be_different_is_told_in_the_policys_terms() -> None:
    lines = explain.render(describe(PREDICTED)).splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith("second best"))
    assert lines[start : start + 4] == [
        "second best: a, by 0.148",
        "the difference: harm +0.12, its first token +0.028",
        "with `harm` 0.152 instead of 0.3 there, or its first token predicted 185 ms sooner, it would have been chosen",
        "there: 35 ms later first token, 1.4 ms more per token, 800 fewer tokens of it cached, "
        "1,900 more prompt tokens waiting, 1 more request",
    ]


def terms(names: tuple[str, ...], rows: list[list[float]], scores: list[float]) -> str:
    """What is said of two candidates, `b` chosen."""
    columns = np.concatenate((np.ones((5, 2)), np.array(rows)))
    table = Candidates(("a", "b"), columns.astype(np.float32), np.array(scores), terms=names)
    return explain.render(describe(replace(PREDICTED, candidates=table)))


def test_one_part_that_made_the_whole_difference_is_named_with_what_would_have_been_enough() -> None:
    text = terms(("wait", "harm"), [[0.2, 0.2], [0.5, 0.1]], [0.7, 0.3])
    assert "second best: a, by 0.4\nthe difference: harm +0.4\n" in text
    assert "with `harm` 0.1 instead of 0.5 there, it would have been chosen" in text


def test_parts_that_do_not_add_up_are_shown_and_nothing_is_promised_of_them() -> None:
    text = terms(("wait", "harm"), [[0.2, 0.2], [0.5, 0.1]], [7.0, 3.0])
    assert "the difference: the rest +3.6, harm +0.4" in text
    assert "it would have been chosen" not in text


def test_of_two_that_are_nearly_the_same_nothing_is_said_to_have_been_needed() -> None:
    text = terms(("wait", "harm"), [[0.2, 0.2], [0.102, 0.1]], [0.302, 0.3])
    assert "second best: a, by 0.002; so near, it could have been either\nthe difference: harm +0.002\n" in text
    assert "it would have been chosen" not in text


def test_a_term_that_is_the_score_gives_it_its_unit() -> None:
    text = terms(("ttft", "tpot"), [[0.345, 0.31], [0.02, 0.02]], [0.345, 0.31])
    assert "by 35 ms of predicted first token; with that much less there, it would have been chosen" in text
    text = terms(("blocks",), [[40.0, 30.0]], [40.0, 30.0])
    assert "by 10 blocks; with that many fewer there, it would have been chosen" in text
    text = show(policy="predicted_ttft", candidates=scored(0.345, 0.31, 0.4))
    assert "second best: a, by 35 ms of predicted first token" in text


@given(st.lists(st.lists(st.sampled_from([0.0, -1.0, 1e-9, 0.3, 1e9, np.nan, np.inf]), min_size=2, max_size=2),
                min_size=4, max_size=4))  # fmt: skip
def test_any_terms_can_be_printed(rows: list[list[float]]) -> None:
    for names in (("ttft", "tpot", "harm"), ("a", "b", "c"), ("cached", "ttft", "ttft_risk")):
        assert "outcome: " in terms(names, rows[:3], rows[3])


def test_a_request_that_went_nowhere_is_explained_too() -> None:
    text = explain.render(describe(RequestRecord("r", 0.0, 404, "rejected", code="model_not_found")))
    assert "not sent to any endpoint: model_not_found" in text


def test_nothing_that_a_terminal_would_obey_is_printed() -> None:
    text = show(reason="\x1b]0;owned\x07", model="a\x9bm")
    assert "\x1b" not in text
    assert "\x9b" not in text
    assert "\\x1b]0;owned" in text


def test_any_record_of_a_random_fleet_can_be_printed() -> None:
    draw = random.Random(4)
    for _ in range(200):
        count = draw.randrange(1, 6)
        values = [[draw.choice((0.0, 1e9, 0.001, np.nan, np.inf, -5.0)) for _ in range(count)] for _ in range(6)]
        table = Candidates(
            tuple(f"e{i}" for i in range(count)), np.array(values[:5]), draw.choice((None, np.array(values[5])))
        )
        assert show(candidates=table, endpoint=f"e{draw.randrange(count)}")
