"""The short form of every evidence: the commands work, and what they count is as promised, also on a busy machine."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.bench.subjects import ROOT
from tests.evidence.strictness import RUNNER

NAMES = ("hung", "outage", "memory", "reload", "reloads", "restart", "keepalive_race", "killed", "replay", "strictness",
         "predict", "plan")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_what_is_counted_holds_in_the_short_form(name: str) -> None:
    if name == "strictness" and not RUNNER.exists():
        pytest.skip("the corpus is not on this machine")
    command = [sys.executable, "-m", f"tests.evidence.{name}", "--short"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert done.stdout.endswith("PASS\n")
