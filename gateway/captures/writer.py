"""A file of captured records that begins anew when it is full: `file`, then `file.1` (the last full one) to `file.N`.

The idea: the logs' writer (`logs.Output`) has the thread, the bounded wait and the counting of what was given up, so a
disk that hangs or is full costs records and nobody's time. Here is what is done in that thread before a record is
written: it is made, the folder is there, the file is its owner's alone, and a full one has moved away.

Left to others: what a record says (`record`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from gateway.logs import Output

WAITING = 16 << 20  # bytes of bodies that wait to be written


class Writer:
    """One file; `rotate` bytes and `keep` full ones. Starts its thread with the first record."""

    def __init__(self, file: str, rotate: int, keep: int, *, limit: int = WAITING):
        self.file = file
        self.rotate = rotate
        self.keep = keep
        self.failed = 0  # records that could not be made
        self._path = Path(file)
        self._output = Output(self._path, limit=limit)

    @property
    def dropped(self) -> int:
        """Records that were given up: the disk was full or slow, or they could not be made."""
        return self._output.dropped

    def offer(self, make: Callable[[], bytes], size: int) -> None:
        """Take what makes a record (called in the thread), which holds about `size` bytes until then."""
        self._output.offer(lambda: self._made(make), size, 1)

    def wait_for_idle(self, timeout: float) -> bool:
        """Wait until everything was written or given up; False if that took longer than `timeout` seconds."""
        return self._output.wait_for_idle(timeout)

    def close(self, timeout: float) -> None:
        """Write what waits, for at most `timeout` seconds."""
        self._output.close(timeout)

    def _made(self, make: Callable[[], bytes]) -> bytes:
        """In the thread. Raises OSError or ValueError, by which the record is given up."""
        try:
            data = make()
        except Exception as error:  # whatever a client sent must not end the thread
            self.failed += 1
            raise ValueError("a record could not be made") from error
        self._make_room(len(data))
        return data

    def _make_room(self, size: int) -> None:
        try:
            now = self._path.stat()
        except FileNotFoundError:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            return
        if not stat.S_ISREG(now.st_mode):  # a pipe, a device: nobody's to move
            return
        if now.st_mode & 0o077:
            os.chmod(self._path, 0o600)
        if now.st_size and now.st_size + size > self.rotate:
            self._move_away()

    def _move_away(self) -> None:
        if not self.keep:
            self._path.unlink()
            return
        for number in range(self.keep - 1, 0, -1):
            older = Path(f"{self.file}.{number}")
            if older.exists():
                os.replace(older, f"{self.file}.{number + 1}")
        os.replace(self._path, f"{self.file}.1")
