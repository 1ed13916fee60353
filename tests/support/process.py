"""The installed command as a process: `headway serve` on free ports, its output, and its end."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]


async def run(*arguments: str) -> tuple[int, str]:
    """A verb that ends by itself: its exit status and all it said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", *arguments, cwd=ROOT,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


class Serving:
    """`async with Serving("-c", file) as gateway:`; its greeting tells the ports. Killed at the end if it runs."""

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self.said: list[str] = []
        self.processes: list[int] = []

    async def __aenter__(self) -> Serving:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", "serve", *self._arguments, cwd=ROOT,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        self._reading = asyncio.create_task(self._read())
        await self.greeting(1)
        return self

    async def greeting(self, number: int) -> None:
        """Wait for the greeting of this many processes, the one started by a restart included."""
        for _ in range(3000):
            if len(self.processes) >= number:
                return
            if self.process.returncode is not None and number == 1:
                raise AssertionError("".join(self.said))
            await asyncio.sleep(0.01)
        raise AssertionError("".join(self.said))

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            text = line.decode()
            self.said.append(text)
            found = re.search(r"serving \w+://[\d.]+:(\d+), admin http://[\d.]+:(\d+), process (\d+)", text)
            if found:
                self.port, self.admin_port = int(found[1]), int(found[2])
                self.processes.append(int(found[3]))

    async def end(self) -> int:
        """Wait for the first process to end by itself."""
        return await asyncio.wait_for(self.process.wait(), 20.0)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:  # fmt: skip
        for process in self.processes:
            if process != self.process.pid or self.process.returncode is None:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        if self.process.returncode is None:
            await self.process.wait()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
