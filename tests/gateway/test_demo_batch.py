"""The demo's batch: a file that the gateway accepts, and a script that any shell runs."""

import json
import os
import subprocess
from pathlib import Path

from gateway import demo_batch


def test_the_file_is_one_that_a_batch_can_be_made_of(tmp_path: Path) -> None:
    demo_batch.write(tmp_path, "http://h:1", "m")
    lines = [json.loads(line) for line in (tmp_path / "batch.jsonl").read_text().splitlines()]
    assert len({line["custom_id"] for line in lines}) == len(lines) == demo_batch.LINES
    assert {(line["method"], line["url"], line["body"]["model"]) for line in lines} == {("POST", demo_batch.PATH, "m")}
    assert len({line["body"]["messages"][0]["content"] for line in lines}) == 1  # a prefix that all share
    assert len({line["body"]["messages"][1]["content"] for line in lines}) == len(lines)


def test_the_script_uploads_the_file_and_makes_a_batch_of_it(tmp_path: Path) -> None:
    where = tmp_path / "it's a place"
    where.mkdir()
    script = demo_batch.write(where, "http://h:1", "m")
    curl = tmp_path / "curl"
    curl.write_text('#!/bin/sh\necho "$@" >> calls\necho \'{"id":"file-1","object":"file"}\'\n')
    curl.chmod(0o755)
    clean = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["sh", str(script)], cwd=tmp_path, env=clean, capture_output=True, text=True, check=True)
    upload, create = (tmp_path / "calls").read_text().splitlines()
    assert upload == f"-s http://h:1/v1/files -F purpose=batch -F file=@{where / 'batch.jsonl'}"
    assert create.startswith("-s http://h:1/v1/batches ")
    asked = json.loads(create.partition(" -d ")[2])
    assert asked == {"input_file_id": "file-1", "endpoint": demo_batch.PATH, "completion_window": "24h"}
    assert '"id":"file-1"' in done.stdout
