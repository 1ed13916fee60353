"""The file of captured records: whose it is, when it begins anew, and what a bad disk or a bad record costs."""

import os
import stat
import threading
from pathlib import Path

import pytest

from gateway.captures.writer import Writer


def write(writer: Writer, *lines: bytes) -> None:
    for line in lines:
        writer.offer(lambda line=line: line, len(line))  # type: ignore[misc]
    assert writer.wait_for_idle(10.0)


def test_a_file_its_folder_and_its_old_ones_are_their_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "new" / "capture.jsonl"
    writer = Writer(str(file), rotate=10, keep=2)
    write(writer, b"one\n", b"two\n", b"three\n")
    writer.close(5.0)
    assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE(Path(f"{file}.1").stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700 and writer.dropped == 0


def test_a_file_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    file = tmp_path / "capture.jsonl"
    file.write_bytes(b"old\n")
    file.chmod(0o644)
    writer = Writer(str(file), rotate=1000, keep=1)
    write(writer, b"new\n")
    assert (file.read_bytes(), stat.S_IMODE(file.stat().st_mode)) == (b"old\nnew\n", 0o600)
    writer.close(5.0)


@pytest.mark.parametrize("keep", [0, 1, 3])
def test_a_full_file_moves_away_and_so_many_stay(tmp_path: Path, keep: int) -> None:
    file = tmp_path / "c"
    writer = Writer(str(file), rotate=8, keep=keep)
    write(writer, *[b"%d..\n" % number for number in range(10)])  # two fit
    writer.close(5.0)
    found = [path.read_bytes() for path in (file, *(Path(f"{file}.{n}") for n in range(1, keep + 1)))]
    assert found == [b"8..\n9..\n", b"6..\n7..\n", b"4..\n5..\n", b"2..\n3..\n"][: keep + 1]
    assert len(list(tmp_path.iterdir())) == keep + 1 and writer.dropped == 0


def test_a_record_larger_than_a_file_gets_one_of_its_own(tmp_path: Path) -> None:
    writer = Writer(str(tmp_path / "c"), rotate=4, keep=1)
    write(writer, b"much more\n", b"x\n")
    assert (tmp_path / "c").read_bytes() == b"x\n" and (tmp_path / "c.1").read_bytes() == b"much more\n"
    writer.close(5.0)


def test_what_fails_costs_its_record_and_is_counted(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_bytes(b"")
    nowhere = Writer(str(blocker / "c"), rotate=100, keep=1)
    write(nowhere, b"x\n", b"y\n")
    assert nowhere.dropped == 2
    nowhere.close(5.0)
    full = Writer("/dev/full", rotate=1, keep=1)
    write(full, b"x\n")
    assert full.dropped == 1 and stat.S_ISCHR(os.stat("/dev/full").st_mode)
    full.close(5.0)

    def broken() -> bytes:
        raise RuntimeError("a bug")

    fine = Writer(str(tmp_path / "c"), rotate=100, keep=1)
    fine.offer(broken, 1)
    write(fine, b"x\n")
    assert (fine.dropped, fine.failed, (tmp_path / "c").read_bytes()) == (1, 1, b"x\n")
    fine.close(5.0)


def test_a_symbolic_link_is_not_followed_and_what_it_leads_to_stays_as_it_is(tmp_path: Path) -> None:
    other, file = tmp_path / "other", tmp_path / "c"
    other.write_bytes(b"mine\n")
    other.chmod(0o644)
    file.symlink_to(other)
    writer = Writer(str(file), rotate=1, keep=1)
    write(writer, b"x\n")
    assert (other.read_bytes(), stat.S_IMODE(other.stat().st_mode), writer.dropped) == (b"mine\n", 0o644, 1)
    file.unlink()
    file.symlink_to(tmp_path / "nothing")
    write(writer, b"y\n")
    assert writer.dropped == 2 and not (tmp_path / "nothing").exists()
    file.unlink()
    write(writer, b"z\n")
    assert (writer.dropped, file.read_bytes()) == (2, b"z\n")
    writer.close(5.0)


def test_a_disk_that_hangs_costs_records_beyond_what_may_wait(tmp_path: Path) -> None:
    hanging, entered = threading.Event(), threading.Event()

    def slow() -> bytes:
        entered.set()
        hanging.wait(10.0)
        return b"first\n"

    writer = Writer(str(tmp_path / "c"), rotate=1000, keep=1, limit=100)
    writer.offer(slow, 40)
    assert entered.wait(10.0)
    for _ in range(10):
        writer.offer(lambda: b"x\n", 40)
    assert writer.dropped == 9
    hanging.set()
    assert writer.wait_for_idle(10.0)
    assert (tmp_path / "c").read_bytes() == b"first\nx\n"
    writer.close(5.0)
