"""Data capture: which requests, what is kept of their answers as they pass, and that nothing is held for long."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from gateway.captures.captures import Captures
from gateway.config.types import Capture, Config, Model
from gateway.jobs.collected import Collected
from gateway.records import RequestRecord
from tests.support.gateway import config, pool

JSON = b"application/json"
RECORD = RequestRecord("r1", 1_700_000_000.0, 200, "complete", model="m", pool="p")
FIELDS = b"x-request-id: r1\r\nContent-Type: application/json\r\n"


def configured(tmp_path: Path, *others: Model, **rule: Any) -> Config:
    capture = Capture(str(tmp_path / "c"), **{"share": 1.0, **rule})
    return config(pool(["http://127.0.0.1:1"]), models=[model("m", capture), *others])


def model(name: str, capture: Capture | None) -> Model:
    return Model(name, config(pool(["http://127.0.0.1:1"])).models["m"].routes, capture=capture)


def captures(made: Config, **more: Any) -> Captures:
    found = Captures(Random(1), **more)
    found.reconfigure(made)
    return found


def play(all_: Captures, answer: Callable[[Any], None], body: bytes = b'{"model": "m"}') -> Collected:
    """One request of model `m`, answered like this."""
    taking, inner = all_.take("m"), Collected()
    assert taking is not None
    outlet = taking.outlet(inner)
    answer(outlet)
    taking.ended(RECORD, "stop", JSON, body)
    taking.ended(RECORD, "stop", JSON, body)
    return inner


def whole(outlet: Any) -> None:
    outlet.send(200, FIELDS, b'{"choices": []}')


def written(all_: Captures, tmp_path: Path) -> list[dict[str, Any]]:
    assert all_.wait_for_idle(10.0)
    file = tmp_path / "c"
    return [json.loads(line) for line in file.read_bytes().splitlines()] if file.exists() else []


def test_a_request_and_its_answer_are_written_and_the_answer_passes_unchanged(tmp_path: Path) -> None:
    all_ = captures(configured(tmp_path))
    inner = play(all_, whole)
    assert (inner.body, inner.status, inner.fields, inner.whole) == (b'{"choices": []}', 200, FIELDS, True)
    [found] = written(all_, tmp_path)
    assert found["request"] == {"type": "application/json", "bytes": 14, "data": {"model": "m"}}
    assert found["answer"] == {"type": "application/json", "bytes": 15, "data": {"choices": []}}
    assert found["finish"] == "stop" and all_.counts() == {"taken": 1, "dropped": 0}
    all_.close()


@pytest.mark.parametrize("last", ["end", "break_off", "cut"])
def test_an_answer_in_pieces_passes_as_it_comes_and_is_kept_up_to_the_cap(tmp_path: Path, last: str) -> None:
    all_ = captures(configured(tmp_path, body=10, redact=False))

    def answer(outlet: Any) -> None:
        assert not outlet.started
        outlet.start(200, b"content-type: text/plain\r\n", None, b"abcd")
        outlet.write(b"efgh")
        outlet.on_pause = outlet.on_resume = print
        said = outlet.started, outlet.ended, outlet.gone, outlet.paused, outlet.status
        assert said == (True, False, False, False, 200)
        outlet.write(b"ijkl")
        outlet.write(b"mnop")
        outlet.cut() if last == "cut" else getattr(outlet, last)(b"qr")
        assert outlet.ended

    inner = play(all_, answer)
    assert inner.body == b"abcdefghijklmnop" + (b"" if last == "cut" else b"qr")
    assert inner.bytes_out == len(inner.body) and inner.on_pause is print
    [found] = written(all_, tmp_path)
    assert found["answer"] == {"type": "text/plain", "bytes": len(inner.body), "data": "abcdefghij", "truncated": True}
    assert found["request"]["truncated"] and found["request"]["data"] == {}
    all_.close()


def test_off_by_default_and_a_share_is_a_share(tmp_path: Path) -> None:
    made = configured(tmp_path, model("other", None), share=0.25)
    all_ = captures(made)
    assert all_.take("other") is None and all_.take("unknown") is None
    taken = [all_.take("m") for _ in range(400)]
    assert abs(sum(one is not None for one in taken) - 100) <= 3
    assert all_.counts() == {"taken": 0, "dropped": 0} and not (tmp_path / "c").exists()


def test_what_is_held_of_answers_that_are_coming_is_bounded_and_given_back(tmp_path: Path) -> None:
    all_ = captures(configured(tmp_path, body=60), held=100)
    first, second, third = (all_.take("m") for _ in range(3))
    assert first is not None and second is not None and third is not None
    outlets = [taking.outlet(Collected()) for taking in (first, second, third)]
    assert all_.left == 0
    for outlet in outlets:
        outlet.send(200, b"content-type: text/plain\r\n", b"x" * 50)
    for taking in (first, second, third):
        taking.ended(RECORD, "", JSON, b"{}")
    assert all_.left == 100
    found = written(all_, tmp_path)
    assert [len(one["answer"]["data"]) for one in found] == [50, 40, 0]
    assert [one["answer"].get("truncated", False) for one in found] == [False, True, True]
    all_.close()


def test_a_reload_keeps_what_has_not_changed_and_lets_go_of_what_has_left(tmp_path: Path) -> None:
    made = configured(tmp_path)
    all_ = captures(made)
    play(all_, whole)
    late = all_.take("m")
    assert late is not None
    outlet = late.outlet(Collected())
    all_.reconfigure(configured(tmp_path, fields=("nothing",)))
    play(all_, whole)
    assert [one["request"]["data"] for one in written(all_, tmp_path)] == [{"model": "m"}, {}]
    assert all_.view() == [{"model": "m", "file": str(tmp_path / "c"), "share": 1.0, "layout": "headway", "taken": 2,
                            "dropped": 0}]  # fmt: skip
    all_.reconfigure(config(pool(["http://127.0.0.1:1"])))
    assert all_.take("m") is None and all_.view() == []
    whole(outlet)
    late.ended(RECORD, "", JSON, b"{}")  # its file is closed: it costs the record
    assert all_.counts() == {"taken": 2, "dropped": 0}
    all_.close()


def test_two_models_may_share_a_file(tmp_path: Path) -> None:
    capture = Capture(str(tmp_path / "c"), 1.0)
    all_ = captures(configured(tmp_path, model("n", capture)))
    for name in ("m", "n"):
        taking = all_.take(name)
        assert taking is not None
        whole(taking.outlet(Collected()))
        taking.ended(RECORD, "", JSON, b"{}")
    assert len(written(all_, tmp_path)) == 2
    all_.close()


def test_a_file_that_cannot_be_written_costs_records_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    all_ = captures(configured(tmp_path))
    assert play(all_, whole).whole
    assert all_.wait_for_idle(10.0) and all_.counts() == {"taken": 1, "dropped": 1}
    all_.close()
