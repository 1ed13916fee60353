"""Where configurations come from: a file that is read again, or URLs on the command line; and texts that were kept.

The idea: a gateway asks for its configuration without knowing what stands behind it. Reading and checking may take a
second, so it happens in a thread.

Left to others: reading and checking (`config.loader`), when to (`app`, `serve`), what was kept (`history`).
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Protocol

from gateway.config.loader import Loaded, for_urls, load_bytes
from gateway.config.tree import read_bytes
from policies.picking import check as check_pick


class Source(Protocol):
    """Whence a gateway's configuration comes."""

    async def read(self) -> Loaded:
        """What it is now. Raises ConfigError with all that is wrong with it, OSError or ValueError."""
        ...

    async def parse(self, text: bytes) -> Loaded:
        """What it was when it read like this. Raises ConfigError."""
        ...


class ConfigSource:
    """A file, or where there is none, URLs of model servers."""

    def __init__(self, file: str | None, urls: Sequence[str] = (), env: Mapping[str, str] = os.environ):
        self._file = file
        self._urls = urls
        self._env = env
        self._used: bytes | None = None

    def used(self) -> bytes | None:
        """The file as it was read last, good or bad; None where it could not be."""
        return self._used

    def load(self) -> Loaded:
        """As `read`, in this thread; warnings go to standard error."""
        if self._file is None:
            return Loaded(for_urls(self._urls))
        self._used = None
        self._used = read_bytes(self._file)
        loaded = self._parse(self._used)
        for warning in loaded.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        return loaded

    async def read(self) -> Loaded:
        return await asyncio.get_running_loop().run_in_executor(None, self.load)

    async def parse(self, text: bytes) -> Loaded:
        return await asyncio.get_running_loop().run_in_executor(None, self._parse, text)

    def _parse(self, text: bytes) -> Loaded:
        return load_bytes(text, self._file or "", self._env, check_pick=check_pick)
