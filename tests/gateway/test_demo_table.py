"""The demo's table, from log lines and the endpoints' page."""

import math
from typing import Any

from gateway.demo_table import HEADINGS, LATEST, Screen, Tally, render

IDLE: dict[str, Any] = {"queues": []}


def line(endpoint: str = "a:1", **fields: Any) -> dict[str, Any]:
    known = {
        "request_id": "demo-1", "endpoint": endpoint, "status": 200, "ended": "complete", "stream": True, "ttft": 0.1,
        "duration": 1.0, "completion_tokens": 30.0, "reason": "least of 2", "code": "", "class": "interactive",
        "queued": 0.0,
    }  # fmt: skip
    return known | fields


def page(name: str = "a:1", **fields: Any) -> dict[str, Any]:
    known = {"id": name, "labels": {"gpu": "h100"}, "state": "healthy", "inflight": 2}
    return known | fields


def cells(tally: Tally, name: str, now: float, **fields: Any) -> dict[str, str]:
    return dict(zip(HEADINGS, tally.row(page(name, **fields), now), strict=True))


def test_a_row_adds_up_what_the_log_said() -> None:
    tally = Tally(0.0)
    for ttft in (0.1, 0.2, 0.9):
        tally.note(line(ttft=ttft), 5.0)
    tally.note(line("b:1"), 5.0)
    row = cells(tally, "a:1", 10.0)
    assert row == {
        "endpoint": "a:1", "GPU": "h100", "state": "healthy", "requests": "3", "share": "75%", "in flight": "2",
        "TTFT p50": "200 ms", "tokens/s": "9",
    }  # fmt: skip


def test_tokens_a_second_look_back_a_window_and_no_further() -> None:
    tally = Tally(0.0)
    tally.note(line(), 5.0)
    assert cells(tally, "a:1", 20.0)["tokens/s"] == "2"
    assert cells(tally, "a:1", 20.1)["tokens/s"] == "0"


def test_what_is_not_known_is_not_zero() -> None:
    row = cells(Tally(0.0), "a:1", 1.0, labels={})
    assert (row["TTFT p50"], row["GPU"], row["requests"]) == ("-", "", "0")


def test_plain_answers_and_answers_without_a_first_token_do_not_spoil_the_median() -> None:
    tally = Tally(0.0)
    tally.note(line(stream=False, ttft=9.0, completion_tokens=None), 1.0)
    tally.note(line(ttft=None), 1.0)
    assert cells(tally, "a:1", 2.0)["TTFT p50"] == "-"


def test_the_latest_answers_are_shown_with_their_reason() -> None:
    tally = Tally(0.0)
    for number in range(9):
        tally.note(line(request_id=f"demo-{number}", reason=f"reason {number}"), 1.0)
    text = "\n".join(render(tally, [page()], IDLE, 2.0))
    assert sum(f"reason {number}" in text for number in range(9)) == LATEST
    assert text.partition("\n\nWork that can wait")[0].endswith("reason 8")
    assert "failed" not in text


def test_what_an_answer_took_is_its_first_token_or_all_of_it_or_how_it_ended() -> None:
    tally = Tally(0.0)
    tally.note(line(ttft=0.049, reason="why"), 1.0)
    tally.note(line(stream=False, duration=1.26, reason="why"), 1.0)
    tally.note(line(ended="upstream_failed", reason="why"), 1.0)
    text = "\n".join(render(tally, [], IDLE, 2.0))
    assert " 49 ms " in text and " 1.3 s in all " in text and " upstream_failed " in text


def test_a_table_of_usual_names_fits_a_terminal_of_eighty_columns() -> None:
    tally = Tally(0.0)
    tally.note(line("127.0.0.1:40000", ttft=10.0), 1.0)
    assert max(map(len, render(tally, [page("127.0.0.1:40000")], IDLE, 2.0)[:2])) <= 79


def test_failures_are_counted_and_named() -> None:
    tally = Tally(0.0)
    tally.note(line(), 1.0)
    tally.note(line("", request_id="x", status=503, ended="rejected", code="no_endpoint"), 1.0)
    text = "\n".join(render(tally, [page()], IDLE, 2.0))
    assert "1 of 2 requests failed, the last: x 503 no_endpoint" in text


def test_a_client_that_left_is_no_failure() -> None:
    tally = Tally(0.0)
    tally.note(line(ended="client_gone"), 1.0)
    assert tally.failed == 0


def test_nothing_that_a_terminal_obeys_gets_through() -> None:
    tally = Tally(0.0)
    tally.note(line(reason="\x1b[2J", request_id="a\nb"), 1.0)
    assert all(text.isprintable() for text in render(tally, [page(state="\x07")], IDLE, 2.0))


def test_an_empty_table_is_a_table() -> None:
    assert render(Tally(0.0), [], IDLE, 1.0)[0].split() == " ".join(HEADINGS).split()


def test_columns_line_up() -> None:
    tally = Tally(0.0)
    tally.note(line("a-long-name:12345"), 1.0)
    table = render(tally, [page("a-long-name:12345"), page("b:1")], IDLE, 2.0)[:3]
    assert len({text.index("h100") for text in table[1:]}) == 1
    assert len({len(text) for text in table}) == 1


def drawn(is_terminal: bool, *blocks: list[str], columns: int = 80, rows: int = 24) -> str:
    out: list[str] = []
    screen = Screen(out.append, is_terminal)
    for block in blocks:
        screen.show(block, columns, rows)
    return "".join(out)


def test_a_terminal_gets_each_block_in_place_of_the_last() -> None:
    assert drawn(True, ["a", "b"], ["c"]) == "\x1b[Ja\nb\n\x1b[2A\r\x1b[Jc\n"


def test_a_small_terminal_gets_what_fits() -> None:
    assert drawn(True, ["abcdef", "g", "h"], columns=4, rows=3) == "\x1b[Jabc\ng\n"


def test_a_file_gets_blocks_one_after_the_other() -> None:
    assert drawn(False, ["a", "b"], ["c"], columns=1, rows=1) == "a\nb\n\nc\n\n"


def test_unknown_figures_never_reach_arithmetic() -> None:
    tally = Tally(0.0)
    tally.note(line(completion_tokens=None), 1.0)
    assert not math.isnan(float(cells(tally, "a:1", 2.0)["tokens/s"]))


# --- work that can wait ------------------------------------------------------------------------------------------


def waits(tally: Tally, waiting: int = 0, claimed: int = 0, sent: int = 0) -> str:
    here = {"parked": 0, "in_line": claimed - sent, "sent": sent, "done": 0}
    return "\n".join(tally.waits({"queues": [{"waiting": waiting, "claimed": claimed, "here": here}]}, 10.0))


def test_before_any_work_that_can_wait_it_says_how_to_send_some() -> None:
    assert "none yet; the command `batch` above sends some" in waits(Tally(0.0))
    assert "none yet" in render(Tally(0.0), [page()], {"error": {}}, 1.0)[-1]


def test_work_that_can_wait_has_lines_of_its_own_and_no_part_in_the_table() -> None:
    tally = Tally(0.0)
    for number in range(4):
        tally.note(line(stream=False, queued=2.5, request_id=f"job-{number}", **{"class": "async"}), 5.0)
    assert waits(tally, waiting=50, claimed=12, sent=3) == (
        "Work that can wait: 4 done, 3 running in the gaps, 59 waiting, 12 tokens/s; gave way to others: 0\n"
        " its latest: job-3 at a:1, after 2.5 s"
    )
    assert tally.total == 0 and not tally.latest and cells(tally, "a:1", 10.0)["requests"] == "0"


def test_work_that_gave_way_is_counted_and_is_no_failure() -> None:
    tally = Tally(0.0)
    tally.note(line(status=0, ended="cancelled", code="displaced", **{"class": "async"}), 1.0)
    tally.note(line("", status=0, ended="rejected", code="no_endpoint", **{"class": "async"}), 1.0)
    assert waits(tally, waiting=1).startswith("Work that can wait: 0 done") and waits(tally, 1).endswith("others: 1")
    assert tally.failed == 0
