"""The HTTP corpus against a running gateway, where the corpus is there; the project's own strict cases stand alone.

The corpus is both ends: it sends raw bytes, plays a strict recording model server, and judges what was forwarded and
whether the next client still gets its own answer. Its groups that take long are left to a run by hand.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ROOT.parent / "shared" / "http_corpus"
QUICK = ["control", "smuggling", "headers", "shield", "responses", "json", "guardian"]
FILE = """version: 1
listen: 127.0.0.1:{port}
admin: 127.0.0.1:{admin}
pools:
  p: {{engine: http, endpoints: ["http://localhost:{upstream}"]}}
models:
  corpus-model: {{to: p}}
keys:
  "sk-corpus": {{tenant: corpus}}
"""

pytestmark = pytest.mark.skipif(not (CORPUS / "run_cases.py").is_file(), reason="the corpus is not beside this clone")


@pytest.mark.slow
@pytest.mark.parametrize("group", QUICK)
def test_every_case_of_a_quick_group_passes(group: str, tmp_path: Path) -> None:
    port, admin, upstream = free_ports(3)
    file = tmp_path / "headway.yaml"
    file.write_text(FILE.format(port=port, admin=admin, upstream=upstream))
    command = f"{sys.executable} -m gateway serve -c {file}"
    ran = subprocess.run(
        [sys.executable, str(CORPUS / "run_cases.py"), "-q", "--gateway", f"127.0.0.1:{port}",
         "--upstream-port", str(upstream), "--group", group, "--cmd", command],
        cwd=ROOT, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert re.search(r"[1-9]\d* passed, 0 failed", ran.stdout), ran.stdout[-4000:] + ran.stderr[-2000:]
    assert ran.returncode == 0
