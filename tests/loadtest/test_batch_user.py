"""Tests of loadtest/batch_user.py: locust, in a process of its own, against the real gateway."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from tests.e2e.stack import KEY, MODEL, Stack, stack
from tests.loadtest.test_locustfile import locust

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("locust") is None, reason="the `load` extra is not installed"),
]
PEOPLE = ("--rate", "3", "--tokens", "40,5", "--model", MODEL)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack(tmp_path_factory.mktemp("stack")) as found:
        yield found


def batches(url: str) -> list[dict[str, Any]]:
    with urlopen(Request(f"{url}/v1/batches", headers={"authorization": f"Bearer {KEY}"}), timeout=30) as answer:
        found: list[dict[str, Any]] = json.loads(answer.read())["data"]
    return found


def test_batches_run_beside_the_people_and_have_rows_of_their_own(running: Stack, tmp_path: Path) -> None:
    work = ("--batches", "1", "--batch-lines", "20", "--batch-tokens", "40,5", "--api-key", KEY)
    code, text, rows = locust(tmp_path, running.gateway, *PEOPLE, *work, "-t", "5s")
    assert code == 0, text
    done = [batch for batch in batches(running.gateway) if batch["status"] == "completed"]
    assert done and int(rows["whole batch"]["Request Count"]) == len(done)
    assert int(rows["line (x 1)"]["Request Count"]) >= 20 * len(done)
    assert rows["whole batch"]["Failure Count"] == "0" and "lines that failed" not in rows
    assert int(rows["/v1/chat/completions"]["Request Count"]) > 5


def test_what_is_under_way_when_time_is_over_is_cancelled_and_no_whole_batch(running: Stack, tmp_path: Path) -> None:
    work = ("--batches", "1", "--batch-lines", "2000", "--batch-tokens", "40,400", "--api-key", KEY)
    code, text, rows = locust(tmp_path, running.gateway, *PEOPLE, *work, "-t", "2s")
    assert code == 0, text
    assert "whole batch" not in rows
    assert batches(running.gateway)[0]["status"] in ("cancelling", "cancelled")


def test_a_server_that_takes_no_files_makes_failures_that_say_so(running: Stack, tmp_path: Path) -> None:
    code, text, rows = locust(
        tmp_path, running.servers[0], *PEOPLE, "--batches", "1", "--api-key", "sk-engine", "-t", "2s"
    )
    assert code == 1, text
    assert rows["whole batch"]["Failure Count"] == rows["whole batch"]["Request Count"] != "0"
    assert rows["/v1/chat/completions"]["Failure Count"] == "0"
    assert "/v1/files: 404" in text
