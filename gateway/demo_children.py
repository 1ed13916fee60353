"""The demo's programs: each in a process group of its own, and none of them outlives the demo.

The idea: a terminal sends Ctrl-C to every program in its foreground; in groups of their own the children do not get it,
and the demo can stop them in its own order. A group, not a process, is what is watched and stopped: a gateway that was
told to restart (SIGUSR2) lives on in its successor, which is in the same group. On Linux the kernel kills the children
if the demo is killed without a chance to stop them itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GRACE = 5.0  # seconds a child has to stop by itself
_LINE = 1 << 20  # the longest line that is read whole
_PDEATHSIG = 1  # prctl(2): the signal to get when the parent dies

OnLine = Callable[[str], None]


class DemoError(Exception):
    """The demo cannot go on. The message says what stopped and its last words."""


class Child:
    """One program of ours, `python -m gateway WORDS`, whose output is read line by line."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, on_line: OnLine):
        self.name = name
        self.last_words: deque[str] = deque(maxlen=15)
        self._process = process
        self._on_line = on_line
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for raw in self._process.stdout:
            line = raw.decode(errors="replace").rstrip()
            self.last_words.append(line)
            self._on_line(line)

    async def wait_for_death(self) -> None:
        """Raises DemoError when the whole group is gone, or when its output could not be read any more."""
        while not self._reading.done() and self._signal(0):  # noqa: ASYNC110 (a group of processes has no event)
            await asyncio.sleep(0.2)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._reading, 1.0)
        words = "\n  ".join(self.last_words) or "(it said nothing)"
        raise DemoError(f"{self.name} stopped:\n  {words}")

    def _signal(self, number: int) -> bool:
        """Send a signal to the group; False when nobody is left in it."""
        try:
            os.killpg(self._process.pid, number)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    async def stop(self) -> None:
        """Ask, wait, then make sure. Safe to call when it has ended already."""
        self._signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), GRACE)
        self._signal(signal.SIGKILL)
        await self._process.wait()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)


async def start(name: str, words: Sequence[str], on_line: OnLine, descriptors: Collection[int] = (),
                environment: Mapping[str, str] | None = None) -> Child:  # fmt: skip
    """Start `python -m gateway WORDS`, which inherits `descriptors`."""
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", *words, cwd=ROOT, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, start_new_session=True, limit=_LINE,
        pass_fds=tuple(descriptors), env={**os.environ, "PYTHONPATH": paths, **(environment or {})},
        preexec_fn=_die_with_parent(),
    )  # fmt: skip
    return Child(name, process, on_line)


def _die_with_parent() -> Callable[[], None] | None:
    """What a child does before it becomes its program. All but the call itself is done here, before the fork."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # nobody is left to wait for a graceful end


async def wait_for_byte(descriptor: int) -> bool:
    """True when a byte comes through a pipe, False when its other end closes without one. Closes this end."""
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", 0)
    )
    try:
        return await reader.read(1) == b"1"
    finally:
        transport.close()
