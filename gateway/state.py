"""What was learnt or counted, kept in a folder over a restart: one JSON file for each that has something to keep.

The idea: learning again costs a few hundred badly predicted requests, so what was learnt is written every few seconds
and read at the start. A file is replaced whole (written beside, synced, renamed), by a thread of its own, since a disk
may take seconds. Nothing here is worth a failure: a file that is cut, foreign, of another version or holds a figure
that is not finite is left out with a warning, and a disk that does not write costs only what was learnt.

During a hand-over two processes use one folder. Each writes the number of its generation into its files: a process
that finds a later one's file leaves it alone from then on.

Left to others: what a predictor's state is (`core.predictor`), when it is kept (`app`).
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from threading import Thread
from typing import NamedTuple, Protocol

from gateway.logs import Events

VERSION = 1
EVERY = 10.0  # seconds between two writings
LARGEST = 4 << 20  # bytes; no predictor's state comes near
LAST_WRITE = 2.0  # seconds the end waits for the disk
ABANDONED = 3600.0  # seconds after which a file that was never finished is nobody's


class Keeps(Protocol):
    """What has something to keep. A predictor is one."""

    def to_state(self) -> dict[str, object]:
        """What it has learnt, as JSON's values, with a version of its own in it."""
        ...

    def restore(self, state: Mapping[str, object]) -> None:
        """Go on from there. Raises ValueError, KeyError or TypeError for what is not its own; then nothing changed."""
        ...


class Kept(NamedTuple):
    """One file, read: whose generation wrote it, and what its keeper gave."""

    generation: int
    learnt: dict[str, object]


class StateFolder:
    """The folder of `state:`; without one nothing is kept. Raises OSError where it cannot be written to."""

    def __init__(self, folder: str | None, events: Events, generation: int | None = None):
        self._folder = None if folder is None else Path(folder)
        self._events = events
        self._generation = time.time_ns() if generation is None else generation
        self._written: dict[str, str] = {}
        self._yielded: set[str] = set()
        self._failed: dict[str, str] = {}
        self._writer: Thread | None = None
        self._due = 0.0
        if self._folder is not None:
            try:
                prepare(self._folder)
            except OSError as error:
                raise OSError(error.errno, f"state cannot be kept ({error.strerror})", str(self._folder)) from error

    # --- reading -------------------------------------------------------------------------------------------------

    def restore(self, name: str, keeper: Keeps) -> bool:
        """Give back what was kept under this name. False if there is nothing, or (with a warning) nothing of use."""
        if self._folder is None:
            return False
        path = self._path(name)
        try:
            kept = read_kept(path)
            # Two clocks may disagree; whoever reads a file comes after who wrote it.
            self._generation = max(self._generation, kept.generation + 1)
            keeper.restore(kept.learnt)
        except FileNotFoundError:
            return False
        except Exception as error:  # whatever is in the file, the gateway starts
            self._events.log("warning", "state_ignored", name=name, file=str(path), why=str(error) or repr(error))
            return False
        return True

    # --- writing -------------------------------------------------------------------------------------------------

    def keep(self, keepers: Mapping[str, Keeps], now: float) -> None:
        """Write what has changed, in a thread; at most every `EVERY` seconds, and not while the last one still runs."""
        if self._folder is None:
            return
        self._tell()
        if now >= self._due and (self._writer is None or not self._writer.is_alive()):
            self._due = now + EVERY
            self._start(keepers)

    def close(self, keepers: Mapping[str, Keeps], timeout: float = LAST_WRITE) -> None:
        """Write once more, for at most `timeout` seconds: a disk that hangs does not hold up the end."""
        if self._folder is None:
            return
        until = time.monotonic() + timeout
        if self._writer is not None:
            self._writer.join(timeout)
            if self._writer.is_alive():
                return
        self._start(keepers)
        if self._writer is not None:
            self._writer.join(max(0.0, until - time.monotonic()))
        self._tell()

    def _start(self, keepers: Mapping[str, Keeps]) -> None:
        texts = {}
        for name, keeper in keepers.items():
            if name in self._yielded:
                continue
            try:
                text = json.dumps(keeper.to_state(), separators=(",", ":"), allow_nan=False)
            except Exception as error:  # a bug of ours: it costs what was learnt, not the tick that called
                self._failed[name] = repr(error)
                continue
            if text != self._written.get(name):
                texts[name] = text
        if texts:
            self._writer = Thread(target=self._write_all, args=(texts,), name="headway-state", daemon=True)
            self._writer.start()

    def _write_all(self, texts: Mapping[str, str]) -> None:
        """Runs in the writer's thread; `_tell` speaks for it."""
        for name, text in texts.items():
            try:
                if self._is_anothers(name):
                    self._yielded.add(name)
                else:
                    write_kept(self._path(name), name, self._generation, text)
                    self._written[name] = text
            except OSError as error:
                self._failed[name] = str(error)

    def _is_anothers(self, name: str) -> bool:
        try:
            return read_kept(self._path(name)).generation > self._generation
        except (OSError, ValueError):
            return False

    def _tell(self) -> None:
        """What the thread met, said where it may be said."""
        for name in list(self._failed):
            self._events.log("warning", "state_not_written", name=name, why=self._failed.pop(name))

    def _path(self, name: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{name}.json"


def write_kept(path: Path, name: str, generation: int, text: str) -> None:
    """Replace the file by what was learnt (`text`, in JSON), under the number of the process that writes."""
    head = {"version": VERSION, "name": name, "generation": generation, "at": time.time()}
    replace_whole(path, f'{json.dumps(head)[:-1]}, "learnt": {text}}}\n'.encode())


def replace_whole(path: Path, data: bytes) -> None:
    """Write beside, sync, rename: whoever reads finds the old file or this one, whatever happens. Raises OSError."""
    descriptor, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError:
        os.unlink(beside)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def prepare(folder: Path) -> None:
    """Make the folder, see that it can be written to, and remove what a process left that was killed while it wrote."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
    for cut in folder.glob(".*.json.*"):
        if time.time() - cut.stat().st_mtime > ABANDONED:
            cut.unlink(missing_ok=True)


def read_kept(path: Path) -> Kept:
    """Raises OSError or ValueError with what is wrong with the file."""
    with open(path, "rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError(f"larger than {LARGEST} bytes")
    try:
        found = json.loads(data, parse_constant=_refuse, parse_float=_parse_float)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise ValueError(f"not of version {VERSION}")
    generation, learnt = found.get("generation"), found.get("learnt")
    if type(generation) is not int or not isinstance(learnt, dict):
        raise ValueError("not what was written here")
    return Kept(generation, learnt)


def _refuse(word: str) -> float:
    raise ValueError(f"a figure is {word}")


def _parse_float(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)
