"""The short forms of what canaries must show: the commands work, and two runs of each kind say nothing against it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.bench.subjects import ROOT


@pytest.mark.slow
@pytest.mark.parametrize("name", ["canary_aa", "canary_detection"])
def test_what_is_counted_holds_in_the_short_form(name: str) -> None:
    command = [sys.executable, "-m", f"tests.evidence.{name}", "--short"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert done.stdout.endswith("PASS\n")
