"""Runs the tiny server of `sse_server.py` in another process, for tests of whole programs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class SseProcess:
    """`with SseProcess() as url:`; the server ends when the block does."""

    def __init__(self, gap: float = 0.0) -> None:
        self._command = [sys.executable, "-m", "tests.loadtest.sse_server", "--gap", str(gap)]

    def __enter__(self) -> str:
        self._process = subprocess.Popen(
            self._command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def __exit__(self, *exc: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()  # the server ends with its input
        self._process.wait(10)
        self._process.stdout.close()
