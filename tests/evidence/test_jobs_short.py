"""The short forms of the evidence about durable work: a few kills of each kind, and a small large file."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.bench.subjects import ROOT
from tests.support.redis_server import needed

# Redis under kills of the gateway is left to `two` here: leases have to end there, which takes half a minute each time.
COMMANDS = (("jobs_killed", "--kind", "sqlite"), ("jobs_killed", "--kind", "redis-itself"),
            ("jobs_killed", "--kind", "two"), ("jobs_size",))  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_what_is_counted_holds_in_the_short_form(command: tuple[str, ...]) -> None:
    if {"redis-itself", "two"} & set(command):
        needed()
    name, *more = command
    done = subprocess.run([sys.executable, "-m", f"tests.evidence.{name}", *more, "--short"], cwd=ROOT,
                          capture_output=True, text=True, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert done.stdout.endswith("PASS\n")
