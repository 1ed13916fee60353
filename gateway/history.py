"""Which configurations were in use: the last few, as they were written, to look back at and to go back to.

The idea: after every configuration that was applied, the file as it was read is kept beside what was learnt, under its
digest. Going back loads that text again and applies it in memory; the operator's file is never written, and counts
again as soon as it changes. References to the environment (`${NAME}`) are kept as they were written, so what they stand
for is that of the moment of going back; so is what the file names (lists of endpoints, certificates). A file may hold
a key in plain text all the same, so only the gateway's own user can read what is kept.

    <state>/history/index.json        every time a configuration was applied, the oldest first
    <state>/history/<digest>.yaml     the text, once for each digest

Left to others: loading and applying (`app`), who may ask (`admin`). All of it reads or writes a disk but `entries`,
`current` and `earlier`: call the rest from a thread.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from gateway.state import replace_whole

MOST = 20
LARGEST = 1 << 20  # bytes; no configuration may be larger
VERSION = 1
FILE, ROLLBACK = "file", "rollback"
"""Who applied it: the file was read (at the start, after a change, on request), or somebody went back."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LEAST_PREFIX = 4


class Applied(NamedTuple):
    """One time a configuration was applied. `at` is Unix time; `file` is where it had been read from."""

    digest: str
    at: float
    by: str
    file: str
    size: int


class HistoryError(ValueError):
    """There is nothing to go back to, or not that; the message says what there is."""


class History:
    """Kept in `folder` (made when needed), or in memory alone where there is none.

    A folder that cannot be read or written costs the history and nothing else: `add` raises OSError after it has noted
    the configuration in memory.
    """

    def __init__(self, folder: Path | str | None):
        self._folder = None if folder is None else Path(folder) / "history"
        self._texts: dict[str, bytes] = {}
        self._applied: list[Applied] = []
        if self._folder is not None:
            self._applied = [one for one in _read_index(self._folder / "index.json")
                             if _path(self._folder, one.digest).is_file()]  # fmt: skip

    # --- what was -----------------------------------------------------------------------------------------------

    @property
    def entries(self) -> tuple[Applied, ...]:
        """The oldest first; the last one is in use."""
        return tuple(self._applied)

    @property
    def current(self) -> Applied | None:
        """What was applied last."""
        return self._applied[-1] if self._applied else None

    def earlier(self, wanted: str = "") -> Applied:
        """What to go back to: by a digest or the beginning of one, else what was in use before this one.

        Who goes back twice gets two steps back, not the one that was left. Raises HistoryError.
        """
        if wanted:
            return self._named(wanted.lower())
        stack = _stack(self._applied)
        if len(stack) < 2:
            raise HistoryError("there is no earlier configuration to go back to")
        return stack[-2]

    def _named(self, wanted: str) -> Applied:
        found = {one.digest: one for one in self._applied if one.digest.startswith(wanted)}
        kept = ", ".join(dict.fromkeys(one.digest[:12] for one in reversed(self._applied)))
        if len(wanted) < _LEAST_PREFIX or not found:
            raise HistoryError(f"no configuration is kept under {wanted[:64]!r}; there are: {kept or 'none'}")
        if len(found) > 1:
            raise HistoryError(f"{wanted[:64]!r} is the beginning of {len(found)} digests; there are: {kept}")
        return next(iter(found.values()))

    def text(self, digest: str) -> bytes:
        """The configuration with this digest as it was written. Raises HistoryError where it is not kept."""
        found = self._texts.get(digest)
        if found is not None:
            return found
        try:
            if self._folder is None or not _DIGEST.fullmatch(digest):
                raise FileNotFoundError
            with open(_path(self._folder, digest), "rb") as file:
                return file.read(LARGEST)
        except OSError as error:
            raise HistoryError(f"the configuration {digest[:12]} is no longer kept ({error.strerror})") from None

    # --- keeping ------------------------------------------------------------------------------------------------

    def add(self, digest: str, text: bytes, at: float, by: str = FILE, file: str = "") -> None:
        """This configuration is in use from now on. Applied again right after itself, it is not noted again.

        Raises OSError where it could not be written, ValueError for what is no configuration's digest or text.
        """
        if not _DIGEST.fullmatch(digest) or len(text) > LARGEST:
            raise ValueError("not a configuration's digest, or more than a configuration may be")
        if self._applied and self._applied[-1].digest == digest:
            return
        self._applied = [*self._applied, Applied(digest, at, by, file, len(text))][-MOST:]
        kept = {one.digest for one in self._applied}
        self._texts[digest] = text
        self._texts = {name: held for name, held in self._texts.items() if name in kept}
        if self._folder is not None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_whole(_path(self._folder, digest), text)  # (a new file is its owner's alone)
            index = {"version": VERSION, "applied": [one._asdict() for one in self._applied]}
            replace_whole(self._folder / "index.json", json.dumps(index, indent=1).encode() + b"\n")
            self._forget(kept)

    def _forget(self, kept: set[str]) -> None:
        assert self._folder is not None
        for path in self._folder.glob("*.yaml"):
            if path.stem not in kept:
                path.unlink(missing_ok=True)


def view(entries: Iterable[Applied], in_use: str) -> dict[str, object]:
    """What `GET /api/history` answers, the newest first; `in_use` is the running configuration's digest."""
    return {"in_use": in_use, "applied": [one._asdict() for one in entries][::-1]}


def _stack(applied: Iterable[Applied]) -> list[Applied]:
    """The steps that can be taken back, the last one in use: what was gone back from is none of them.

    What was gone back to and was never applied before is the old text with another environment: it stands for itself,
    in the place of what was left.
    """
    stack: list[Applied] = []
    known: set[str] = set()
    for one in applied:
        places = [place for place, other in enumerate(stack) if other.digest == one.digest]
        if one.by == ROLLBACK and places:
            del stack[places[-1] + 1 :]
        elif one.by == ROLLBACK and one.digest not in known:
            stack[-1:] = [one]
        elif not stack or stack[-1].digest != one.digest:
            stack.append(one)
        known.add(one.digest)
    return stack


def _path(folder: Path, digest: str) -> Path:
    return folder / f"{digest}.yaml"


def _read_index(path: Path) -> list[Applied]:
    """Nothing where there is none, or where it is not what was written here: it is a help, and no reason to fail."""
    try:
        with open(path, "rb") as file:
            found = json.loads(file.read(LARGEST))
        if found["version"] != VERSION:
            return []
        read = [Applied(str(one["digest"]), float(one["at"]), str(one["by"]), str(one["file"]), int(one["size"]))
                for one in found["applied"]]  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    return [one for one in read if _DIGEST.fullmatch(one.digest)][-MOST:]
