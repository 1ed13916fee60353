"""The demo's work that can wait: a file of requests and the commands that send it, as anybody would send a batch.

Left to others: what became of it (`demo_table`).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from random import Random

from gateway.demo_traffic import text

PATH = "/v1/chat/completions"
LINES = 200
_SYSTEM_BYTES, _QUESTION_BYTES = 2_000, 600  # about 500 and 150 tokens
_WRITTEN = 60  # tokens


def lines(model: str, random: Random) -> Iterator[str]:
    """The lines of the file: one task, given again and again."""
    system = {"role": "system", "content": text(random, _SYSTEM_BYTES)}
    for number in range(LINES):
        question = {"role": "user", "content": text(random, _QUESTION_BYTES)}
        body = {"model": model, "max_tokens": _WRITTEN, "messages": [system, question]}
        yield json.dumps({"custom_id": f"line-{number}", "method": "POST", "url": PATH, "body": body})


def write(where: Path, url: str, model: str) -> Path:
    """Write the file, and a script that sends it. Returns the script."""
    file, script = where / "batch.jsonl", where / "batch.sh"
    file.write_text("\n".join(lines(model, Random(1))) + "\n")
    asked = f'{{"input_file_id": "\'"$id"\'", "endpoint": "{PATH}", "completion_window": "24h"}}'
    script.write_text(
        f"# Written by `headway demo`: {LINES} requests that can wait, by OpenAI's files and batches.\n"
        f"id=$(curl -s {url}/v1/files -F purpose=batch -F file=@{shlex.quote(str(file))}"
        f""" | sed 's/.*"id":"\\([^"]*\\)".*/\\1/')\n"""
        f"curl -s {url}/v1/batches -H 'content-type: application/json' -d '{asked}'\necho\n"
    )
    return script
