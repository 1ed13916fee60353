"""The short form of the mirror's evidence: everything is copied, compared, and nobody's request fails."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.bench.subjects import ROOT


@pytest.mark.slow
def test_a_mirror_of_everything_copies_everything_and_fails_nobody() -> None:
    command = [sys.executable, "-m", "tests.evidence.mirror", "--short"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert done.stdout.endswith("PASS\n")
