"""A file of captured records that begins anew when it is full: `file`, then `file.1` (the last full one) to `file.N`.

The idea: the logs' writer (`logs.Output`) has the thread, the bounded wait and the counting of what was given up, so a
disk that hangs or is full costs records and nobody's time. Here is what is done in that thread with a record: it is
made, the folder is there, the file is its owner's alone, and a full one has moved away. The file is opened once for
all of that and never through a symbolic link, so that in a folder that others write to too, none of them can have
another file written to or its mode changed.

Left to others: what a record says (`record`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from gateway.logs import Output

WAITING = 16 << 20  # bytes of bodies that wait to be written
_HOW = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class Writer:
    """One file; `rotate` bytes and `keep` full ones. Starts its thread with the first record."""

    def __init__(self, file: str, rotate: int, keep: int, *, limit: int = WAITING):
        self.file = file
        self.rotate = rotate
        self.keep = keep
        self.failed = 0  # records that could not be made
        self._output = _File(file, rotate, keep, limit)

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
        """In the thread. Raises ValueError, by which the record is given up."""
        try:
            return make()
        except Exception as error:  # whatever a client sent must not end the thread
            self.failed += 1
            raise ValueError("a record could not be made") from error


class _File(Output):
    """What a record goes through in the thread."""

    def __init__(self, file: str, rotate: int, keep: int, limit: int):
        self._path = Path(file)
        super().__init__(self._path, limit=limit)
        self._rotate = rotate
        self._keep = keep

    def _open(self, file: Path, size: int) -> int:
        """The file, open, its owner's alone and with room for so many bytes. Raises OSError."""
        fd = self._opened()
        try:
            now = os.fstat(fd)
            is_file = stat.S_ISREG(now.st_mode)  # a pipe, a device: nobody's to change or move
            if is_file and now.st_mode & 0o077:
                os.fchmod(fd, 0o600)
            if not (is_file and now.st_size and now.st_size + size > self._rotate):
                return fd
            self._move_away()
        except OSError:
            os.close(fd)
            raise
        os.close(fd)
        return self._opened()

    def _opened(self) -> int:
        try:
            return os.open(self._path, _HOW, 0o600)
        except FileNotFoundError:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            return os.open(self._path, _HOW, 0o600)

    def _move_away(self) -> None:
        if not self._keep:
            self._path.unlink()
            return
        for number in range(self._keep - 1, 0, -1):
            older = Path(f"{self._path}.{number}")
            if os.path.lexists(older):
                os.replace(older, f"{self._path}.{number + 1}")
        os.replace(self._path, f"{self._path}.1")
