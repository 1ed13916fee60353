"""What is known of canaries, on disk: the state of each in one file, what was judged as lines of JSON beside it.

The idea: `<state>/canaries/NAME.json` is replaced whole (written beside, synced, renamed) by a thread of its own, since
a disk may take seconds; who asks for it gets a future, so that what must not be lost can wait until it is there. What
must outlive a kill in the very next moment (a rollback) is appended to `NAME.jsonl` at once with one small write:
a process that is killed does not lose what the kernel has. Lines are bounded: a file begins anew after `ROTATE`
bytes, `KEPT` old ones stay, and of canaries that are no more the latest `FORMER` keep theirs.

During a hand-over two processes use one folder. Each writes the number of its generation: one that finds a later
one's file leaves it alone, and is told so. A file that is cut or foreign is left out with the reason in `problems`.

Left to others: what is written, and when (`canaries`, `rollout`).
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from hashlib import blake2b
from pathlib import Path
from threading import Condition, Thread
from typing import Any

from gateway.state import prepare, read_kept, write_kept

ROTATE = 2 << 20  # bytes: about two days of a line a minute
KEPT = 2
FORMER = 50
NEWEST = 4000  # lines that are read back
LAST_WRITE = 2.0  # seconds the end waits for the disk

Line = Mapping[str, object]


class CanaryStore:
    """The folder of one gateway's canaries; None: nothing is kept. Raises OSError where it cannot be written to.

    Writing never raises: a future has the error, or the error is in `problems` until somebody takes it from there.
    """

    def __init__(self, folder: str | None, generation: int | None = None):
        self._folder = None if folder is None else Path(folder) / "canaries"
        self._generation = time.time_ns() if generation is None else generation
        self.problems: list[str] = []
        self._jobs: deque[Callable[[], None]] = deque()
        self._wake = Condition()
        self._busy = self._closed = False
        self._thread: Thread | None = None
        if self._folder is not None:
            try:
                prepare(self._folder)
            except OSError as error:
                raise OSError(error.errno, f"canaries cannot be kept ({error.strerror})", str(self._folder)) from error

    @property
    def keeps(self) -> bool:
        """Whether anything outlives the process."""
        return self._folder is not None

    # --- reading: at the start, or in a thread -------------------------------------------------------------------

    def load(self) -> dict[str, Mapping[str, Any]]:
        """The state of every canary that was kept, by name."""
        found: dict[str, Mapping[str, Any]] = {}
        for path in sorted(self._folder.glob("*.json")) if self._folder is not None else ():
            try:
                kept = read_kept(path)
                name = kept.learnt["name"]
                if not isinstance(name, str) or self._path(name) != path:
                    raise ValueError("not the canary that its name says")
            except (OSError, ValueError, KeyError) as error:
                self.problems.append(f"{path}: {error}")
                continue
            # Two clocks may disagree; whoever reads a file comes after who wrote it.
            self._generation = max(self._generation, kept.generation + 1)
            found[name] = kept.learnt
        self._prune(found)
        return found

    def read(self, name: str) -> Mapping[str, Any]:
        """One canary's state, whoever wrote it. Raises OSError or ValueError."""
        return read_kept(self._path(name)).learnt

    def history(self, name: str) -> list[dict[str, Any]]:
        """The newest `NEWEST` lines, the oldest first; one that was torn is left out."""
        lines: list[dict[str, Any]] = []
        for number in range(KEPT, -1, -1):
            try:
                data = self._lines(name, number).read_bytes() if self._folder is not None else b""
            except OSError:
                continue
            for text in data.splitlines()[-NEWEST:]:
                try:
                    line = json.loads(text)
                except (ValueError, RecursionError):
                    continue
                if isinstance(line, dict):
                    lines.append(line)
        return lines[-NEWEST:]

    # --- writing -------------------------------------------------------------------------------------------------

    def save(self, name: str, state: Mapping[str, object]) -> Future[bool]:
        """Replace a canary's state. True: it is on disk; False: a later process writes it now. Else an OSError."""
        done: Future[bool] = Future()
        if self._folder is None:
            done.set_result(True)
            return done
        try:
            text = json.dumps({"name": name, **state}, separators=(",", ":"), allow_nan=False)
        except ValueError as error:  # a bug of ours: it costs what was counted, not the tick that called
            done.set_exception(error)
            return done
        self._run(lambda: self._save(name, text, done))
        return done

    def note(self, name: str, line: Line) -> None:
        """Append a line, some time soon."""
        if self._folder is not None:
            text = _text(line)
            self._run(lambda: self._try(lambda: self._append(name, text)))

    def note_now(self, name: str, line: Line) -> None:
        """Append a line before this returns, and sync it soon after."""
        if self._folder is not None:
            # (A line of its own, also after one that lost its end with the machine's power.)
            self._try(lambda: _write(self._lines(name, 0), b"\n" + _text(line)))
            self._run(lambda: self._try(lambda: _sync(self._lines(name, 0))))

    def forget(self, name: str) -> None:
        """Remove a canary's state; its lines stay."""
        if self._folder is not None:
            self._run(lambda: self._try(lambda: self._path(name).unlink(missing_ok=True)))

    def run(self, work: Callable[[], object]) -> Future[Any]:
        """Have something read by the thread."""
        done: Future[Any] = Future()

        def do() -> None:
            try:
                done.set_result(work())
            except Exception as error:  # whoever asked gets it
                done.set_exception(error)

        self._run(do)
        return done

    def wait_for_idle(self, timeout: float = LAST_WRITE) -> bool:
        """Wait until all is written; False if that took longer than `timeout` seconds."""
        with self._wake:
            return self._wake.wait_for(lambda: not self._jobs and not self._busy, timeout)

    def close(self, timeout: float = LAST_WRITE) -> None:
        """Write what is left, for at most `timeout` seconds: a disk that hangs does not hold up the end."""
        self.wait_for_idle(timeout)
        with self._wake:
            self._closed = True
            self._wake.notify_all()

    # --- the thread ----------------------------------------------------------------------------------------------

    def _run(self, job: Callable[[], None]) -> None:
        with self._wake:
            self._jobs.append(job)
            if self._thread is None:
                self._thread = Thread(target=self._work, name="headway-canaries", daemon=True)
                self._thread.start()
            self._wake.notify_all()

    def _work(self) -> None:
        while True:
            with self._wake:
                self._busy = False
                self._wake.notify_all()
                self._wake.wait_for(lambda: self._jobs or self._closed)
                if not self._jobs:
                    return
                job = self._jobs.popleft()
                self._busy = True
            job()

    def _save(self, name: str, text: str, done: Future[bool]) -> None:
        try:
            if self._is_anothers(name):
                done.set_result(False)
                return
            write_kept(self._path(name), name, self._generation, text)
        except OSError as error:
            done.set_exception(error)
        else:
            done.set_result(True)

    def _is_anothers(self, name: str) -> bool:
        try:
            return read_kept(self._path(name)).generation > self._generation
        except (OSError, ValueError):
            return False

    def _append(self, name: str, text: bytes) -> None:
        path = self._lines(name, 0)
        if path.exists() and path.stat().st_size + len(text) > ROTATE:
            for number in range(KEPT, 0, -1):
                older = self._lines(name, number - 1)
                if older.exists():
                    os.replace(older, self._lines(name, number))
        _write(path, text)

    def _try(self, work: Callable[[], object]) -> None:
        try:
            work()
        except OSError as error:
            self.problems = [*self.problems[-9:], str(error)]

    # --- names ---------------------------------------------------------------------------------------------------

    def _path(self, name: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{file_name(name)}.json"

    def _lines(self, name: str, number: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{file_name(name)}.jsonl{f'.{number}' if number else ''}"

    def _prune(self, present: Mapping[str, object]) -> None:
        """Remove the lines of canaries that are long gone."""
        assert self._folder is not None or not present
        stems = {file_name(name) for name in present}
        former = [path for path in self._folder.glob("*.jsonl*") if path.name.split(".jsonl")[0] not in stems] \
            if self._folder is not None else []  # fmt: skip
        former.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for path in former[FORMER * (KEPT + 1) :]:
            self._try(path.unlink)


def file_name(name: str) -> str:
    """A name of letters, digits and `._-` that no other canary's has."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:60]
    return f"{readable}-{blake2b(name.encode(), digest_size=4).hexdigest()}"


def _text(line: Line) -> bytes:
    return json.dumps(line, separators=(",", ":"), default=str).encode() + b"\n"


def _write(path: Path, text: bytes) -> None:
    """Append whole lines. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, text)
    finally:
        os.close(fd)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
