"""The history of configurations: what is kept, for whom to read, and what going back means."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.history import FILE, MOST, ROLLBACK, History, HistoryError, view


def digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def applied(history: History, name: str, by: str = FILE) -> None:
    history.add(digest(name), f"# {name}\n".encode(), 1_700_000_000.0, by, "headway.yaml")


def history_of(names: str, folder: Path | None = None) -> History:
    """`A B <A`: A and B were read from the file, then somebody went back to A."""
    history = History(folder)
    for name in names.split():
        applied(history, name.lstrip("<"), ROLLBACK if name.startswith("<") else FILE)
    return history


@pytest.mark.parametrize(
    ("names", "before"),
    [("A B", "A"), ("A B C", "B"), ("A B A", "B"), ("A B C <B", "A"), ("A B <A C", "A"), ("A B C <B <A D", "A"),
     ("A B <A B", "A"), ("A B C <A D", "A"), ("A B C <A <C", "A"), ("A B C <B2", "B")],
)  # fmt: skip
def test_going_back_leads_to_what_was_in_use_before_and_never_to_what_was_gone_back_from(
    names: str, before: str
) -> None:
    assert history_of(names).earlier().digest == digest(before)


@pytest.mark.parametrize("names", ["", "A", "A B <A"])
def test_where_nothing_was_before_there_is_nothing_to_go_back_to(names: str) -> None:
    with pytest.raises(HistoryError, match="no earlier configuration"):
        history_of(names).earlier()


def test_a_configuration_is_found_by_the_beginning_of_its_digest() -> None:
    history = history_of("A B C")
    assert history.earlier(digest("A")[:8]).digest == digest("A")
    assert history.earlier(digest("C").upper()).digest == digest("C")


@pytest.mark.parametrize("wanted", ["ffff0000", "abc", "../etc/passwd", "*"])
def test_a_digest_that_is_not_kept_is_refused_with_those_that_are(wanted: str) -> None:
    with pytest.raises(HistoryError, match=digest("B")[:12]):
        history_of("A B").earlier(wanted)


def test_the_same_configuration_applied_again_is_one_entry() -> None:
    assert len(history_of("A A B B").entries) == 2


def test_what_is_kept_survives_a_restart_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    history_of("A B <A", tmp_path)
    again = History(tmp_path)
    assert [one.by for one in again.entries] == [FILE, FILE, ROLLBACK]
    assert again.text(digest("B")) == b"# B\n"
    folder = tmp_path / "history"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_references_to_the_environment_are_kept_as_they_were_written(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.add(digest("A"), b'admin: {token: "${ADMIN_TOKEN}"}\n', 0.0)
    assert b"${ADMIN_TOKEN}" in History(tmp_path).text(digest("A"))


def test_only_the_last_ones_are_kept_and_their_texts_with_them(tmp_path: Path) -> None:
    history = history_of(" ".join(f"c{n}" for n in range(MOST + 5)), tmp_path)
    assert len(history.entries) == MOST and history.entries[0].digest == digest("c5")
    assert len(list((tmp_path / "history").glob("*.yaml"))) == MOST
    with pytest.raises(HistoryError, match="no longer kept"):
        history.text(digest("c0"))


@pytest.mark.parametrize("text", [b"", b"{", b'{"version": 2}', b'{"version": 1, "applied": [{"digest": "x"}]}',
                                  b'{"version": 1, "applied": 7}', b"[" * 100_000])  # fmt: skip
def test_an_index_that_is_cut_or_foreign_costs_the_history_and_nothing_else(tmp_path: Path, text: bytes) -> None:
    history_of("A B", tmp_path)
    (tmp_path / "history" / "index.json").write_bytes(text)
    history = History(tmp_path)
    assert history.entries == ()
    applied(history, "C")
    assert History(tmp_path).current is not None


def test_a_text_that_somebody_removed_is_no_longer_offered(tmp_path: Path) -> None:
    history_of("A B C", tmp_path)
    (tmp_path / "history" / f"{digest('B')}.yaml").unlink()
    assert [one.digest for one in History(tmp_path).entries] == [digest("A"), digest("C")]


@pytest.mark.parametrize(("name", "text"), [("../evil", b""), ("ab", b""), (digest("A"), b"x" * (1 << 20 | 1))])
def test_what_cannot_be_a_configuration_is_not_kept(tmp_path: Path, name: str, text: bytes) -> None:
    with pytest.raises(ValueError, match="not a configuration"):
        History(tmp_path).add(name, text, 0.0)


def test_without_a_folder_it_is_kept_in_memory() -> None:
    assert history_of("A B").text(digest("A")) == b"# A\n"


def test_a_folder_that_cannot_be_written_costs_only_the_keeping(tmp_path: Path) -> None:
    (tmp_path / "history").write_text("a file is in the way")
    history = History(tmp_path)
    with pytest.raises(OSError, match=r"exists|directory"):
        applied(history, "A")
    assert history.current is not None and history.text(digest("A")) == b"# A\n"


def test_the_view_has_the_newest_first() -> None:
    shown = view(history_of("A B").entries, digest("B"))
    assert shown["in_use"] == digest("B")
    assert [one["digest"] for one in shown["applied"]] == [digest("B"), digest("A")]  # type: ignore[attr-defined]


@given(st.lists(st.tuples(st.sampled_from("ABCD"), st.booleans()), max_size=12))
def test_going_back_again_and_again_always_comes_to_an_end(steps: list[tuple[str, bool]]) -> None:
    history = History(None)
    for name, back in steps:
        applied(history, name, ROLLBACK if back else FILE)
    for _ in range(MOST + 1):
        try:
            target = history.earlier()
        except HistoryError:
            return
        assert target.digest != history.entries[-1].digest
        history.add(target.digest, b"", 0.0, ROLLBACK)
    raise AssertionError("it never came to an end")
