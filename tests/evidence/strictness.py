"""The whole HTTP corpus against a gateway: framing, limits, smuggling, JSON, odd answers, odd clients.

The corpus (`../shared/http_corpus`) plays both ends; this starts it, with the gateway it is to judge, and prints its
closing line. Bar: all cases pass.

    python -m tests.evidence.strictness [--short] [--only REGEX]
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence

from tests.bench.rounds import Bar
from tests.bench.subjects import ROOT
from tests.evidence.support import SHARED, conclude, folder, parse
from tests.support.ports import free_ports

RUNNER = SHARED / "http_corpus" / "run_cases.py"


def configuration(port: int, admin: int, upstream: int) -> dict[str, object]:
    """As the corpus asks for it: one plain server by name, its model, its key; times as they are by default."""
    return {
        "version": 1,
        "listen": f"127.0.0.1:{port}",
        "admin": f"127.0.0.1:{admin}",
        "drain": {"delay": "0s", "timeout": "1s"},
        "pools": {"main": {"engine": "http", "endpoints": [f"http://localhost:{upstream}"],
                           "health": {"path": "/health"}}},
        "models": {"corpus-model": {"to": "main"}},
        "keys": {"sk-corpus": {"tenant": "corpus"}},
    }


def main(argv: Sequence[str] | None = None) -> int:
    def add(parser: object) -> None:
        parser.add_argument("--only", help="regular expression on the cases' ids")  # type: ignore[attr-defined]

    options = parse(__doc__ or "", argv, add)
    if not RUNNER.exists():
        print("the corpus is not on this machine: nothing was judged")
        return conclude([Bar("cases not judged", 1, 0)])
    port, admin, upstream = free_ports(3)
    with folder() as where:
        file = where / "headway.yaml"
        file.write_text(json.dumps(configuration(port, admin, upstream), indent=1))
        serve = shlex.join([sys.executable, "-m", "gateway", "serve", "-c", str(file)])
        command = [sys.executable, str(RUNNER), "--gateway", f"127.0.0.1:{port}", "--upstream-port", str(upstream),
                   "--cmd", serve, "-q"]  # fmt: skip
        command += ["--group", "control", "--group", "smuggling"] if options.short else []
        command += ["--only", options.only] if options.only else []
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    lines = [line for line in done.stdout.splitlines() if not line.startswith("{")]  # the gateway's log shares the pipe
    print("\n".join(lines))
    closing = re.findall(r"^(\d+) passed, (\d+) failed", done.stdout, re.MULTILINE)
    passed, failed = map(int, closing[-1]) if closing else (0, 1)
    if not closing:
        print(done.stderr[-2000:])
    return conclude([Bar(f"cases failed ({passed} passed)", failed, 0)], short=options.short)


if __name__ == "__main__":
    sys.exit(main())
