"""Canaries on disk: whole or not at all, in order, bounded, and never a failure of the gateway."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from threading import Event

import pytest

from gateway.rollouts import store as canary_store
from gateway.rollouts.store import KEPT, CanaryStore, file_name


def states(folder: Path) -> dict[str, object]:
    return {name: state["count"] for name, state in CanaryStore(str(folder)).load().items()}


def test_a_state_that_was_saved_is_there_for_the_next_process(tmp_path: Path) -> None:
    store = CanaryStore(str(tmp_path))
    assert store.save("llama/routes[1]", {"count": 7, "share": 0.05}).result(5) is True
    found = CanaryStore(str(tmp_path)).load()
    assert found == {"llama/routes[1]": {"name": "llama/routes[1]", "count": 7, "share": 0.05}}


def test_names_that_differ_only_in_odd_characters_have_files_of_their_own(tmp_path: Path) -> None:
    names = ["a/b", "a-b", "a b", "../../etc/passwd", "ä/ö", "x" * 300, ".hidden"]
    assert len({file_name(name) for name in names}) == len(names)
    store = CanaryStore(str(tmp_path))
    for number, name in enumerate(names):
        assert store.save(name, {"count": number}).result(5)
    assert states(tmp_path) == {name: number for number, name in enumerate(names)}
    assert all(path.parent == tmp_path / "canaries" for path in tmp_path.rglob("*.json"))


def test_only_the_gateways_own_user_can_read_what_is_kept(tmp_path: Path) -> None:
    store = CanaryStore(str(tmp_path))
    store.save("a/b", {"count": 1})
    store.note("a/b", {"at": 1.0})
    assert store.wait_for_idle()
    for path in (tmp_path / "canaries").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_line_that_must_not_wait_is_there_before_the_call_returns(tmp_path: Path) -> None:
    store = CanaryStore(str(tmp_path))
    held, go = Event(), Event()

    def hang() -> None:
        held.set()
        go.wait(10)

    store.run(hang)
    assert held.wait(5)
    store.note("a/b", {"at": 1.0, "kind": "judgement"})
    store.note_now("a/b", {"at": 2.0, "kind": "rolled_back"})
    assert [line["kind"] for line in CanaryStore(str(tmp_path)).history("a/b")] == ["rolled_back"]
    go.set()
    assert store.wait_for_idle()


def test_a_torn_line_costs_only_itself(tmp_path: Path) -> None:
    store = CanaryStore(str(tmp_path))
    store.note_now("a/b", {"at": 1.0})
    (path,) = (tmp_path / "canaries").glob("*.jsonl")
    with path.open("ab") as file:
        file.write(b'{"at": 2.0, "ki')
    store.note_now("a/b", {"at": 3.0})
    with path.open("ab") as file:
        file.write(b"[1, 2]\n" + b"[" * 100_000 + b"\n")
    assert [line["at"] for line in store.history("a/b")] == [1.0, 3.0]


def test_lines_are_bounded_and_the_newest_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary_store, "ROTATE", 2000)
    store = CanaryStore(str(tmp_path))
    for number in range(1000):
        store.note("a/b", {"number": number})
    assert store.wait_for_idle()
    files = list((tmp_path / "canaries").glob("*.jsonl*"))
    assert len(files) == KEPT + 1
    assert sum(path.stat().st_size for path in files) <= 2000 * (KEPT + 1)
    numbers = [line["number"] for line in store.history("a/b")]
    assert numbers == list(range(numbers[0], 1000)) and len(numbers) > 100


def test_a_process_that_finds_a_later_ones_state_leaves_it_alone(tmp_path: Path) -> None:
    old, new = CanaryStore(str(tmp_path), 1), CanaryStore(str(tmp_path), 2)
    assert old.save("a/b", {"count": 1}).result(5) is True
    new.load()
    assert new.save("a/b", {"count": 2}).result(5) is True
    assert old.save("a/b", {"count": 3}).result(5) is False
    assert states(tmp_path) == {"a/b": 2}
    assert old.read("a/b")["count"] == 2


def test_a_process_whose_clock_is_behind_still_comes_after_what_it_read(tmp_path: Path) -> None:
    CanaryStore(str(tmp_path), 10**30).save("a/b", {"count": 1}).result(5)
    late = CanaryStore(str(tmp_path), 5)
    late.load()
    assert late.save("a/b", {"count": 2}).result(5) is True


@pytest.mark.parametrize("content", [b"", b"{", b'{"version":1,"generation":1,"learnt":{}}', b"\xff\xfe", b"[]",
                                     b'{"version":1,"generation":1,"learnt":{"name":"of another"}}'])  # fmt: skip
def test_a_file_that_is_not_ours_is_left_out_with_the_reason(tmp_path: Path, content: bytes) -> None:
    store = CanaryStore(str(tmp_path))
    store.save("a/b", {"count": 1}).result(5)
    (tmp_path / "canaries" / "x-12345678.json").write_bytes(content)
    fresh = CanaryStore(str(tmp_path))
    assert list(fresh.load()) == ["a/b"]
    assert len(fresh.problems) == 1 and "x-12345678.json" in fresh.problems[0]


def test_a_disk_that_does_not_write_fails_the_future_and_nothing_else(tmp_path: Path) -> None:
    store = CanaryStore(str(tmp_path))
    folder = tmp_path / "canaries"
    folder.rmdir()
    with pytest.raises(OSError):
        store.save("a/b", {"count": 1}).result(5)
    store.note("a/b", {"at": 1.0})
    store.note_now("a/b", {"at": 2.0})
    assert store.wait_for_idle()
    assert store.problems
    folder.mkdir()
    assert store.save("a/b", {"count": 1}).result(5) is True


def test_a_figure_that_is_not_finite_is_refused_before_it_reaches_the_disk(tmp_path: Path) -> None:
    store = CanaryStore(str(tmp_path))
    with pytest.raises(ValueError):
        store.save("a/b", {"count": float("nan")}).result(5)
    assert store.load() == {}


def test_without_a_folder_nothing_is_kept_and_everything_works() -> None:
    store = CanaryStore(None)
    assert not store.keeps
    assert store.save("a/b", {"count": 1}).result(0) is True
    store.note("a/b", {})
    store.note_now("a/b", {})
    store.forget("a/b")
    assert store.load() == {} and store.history("a/b") == []
    store.close()


def test_what_is_forgotten_leaves_its_lines(tmp_path: Path) -> None:
    store = CanaryStore(str(tmp_path))
    store.save("a/b", {"count": 1})
    store.note("a/b", {"at": 1.0})
    store.forget("a/b")
    store.close()
    assert store.load() == {}
    assert store.history("a/b") == [{"at": 1.0}]


def test_lines_of_canaries_that_are_long_gone_go_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary_store, "FORMER", 2)
    store = CanaryStore(str(tmp_path))
    for number in range(20):
        store.note(f"gone/{number}", {"at": number})
    store.note("here/1", {"at": 1.0})
    store.save("here/1", {"count": 1})
    assert store.wait_for_idle()
    store.load()
    assert len(list((tmp_path / "canaries").glob("*.jsonl"))) == 2 * (KEPT + 1) + 1
    assert store.history("here/1")


def test_a_folder_that_cannot_be_written_to_is_said_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "canaries").write_text("a file in its place")
    with pytest.raises(OSError, match="canaries cannot be kept"):
        CanaryStore(str(tmp_path))


def test_a_line_is_json_whatever_is_in_it(tmp_path: Path) -> None:
    store = CanaryStore(str(tmp_path))
    store.note("a/b", {"told": 'quotes " and \n newlines   and \ud800'})
    store.close()
    (path,) = (tmp_path / "canaries").glob("*.jsonl")
    assert len(path.read_bytes().splitlines()) == 1
    assert json.loads(path.read_bytes())["told"].startswith("quotes")
