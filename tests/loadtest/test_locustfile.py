"""Tests of loadtest/locustfile.py, each in a process of its own: locust patches the standard library."""

from __future__ import annotations

import csv
import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.workload import arrivals, constant
from tests.loadtest.serving import ROOT, SseProcess

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("locust") is None, reason="the `load` extra is not installed"),
]
LENGTHS = ("--tokens", "40,5", "--model")


def locust(tmp_path: Path, url: str, *options: str) -> tuple[int, str, dict[str, dict[str, str]]]:
    """Exit code, log, and the rows of the CSV by name."""
    command = [
        sys.executable,
        "-m",
        "locust",
        "-f",
        "loadtest/locustfile.py",
        "--headless",
        "-H",
        url,
        "--only-summary",
    ]
    files = ["--csv", str(tmp_path / "l"), "--html", str(tmp_path / "l.html")]
    # Locust's pytest plugin sets LOCUST_SKIP_MONKEY_PATCH for this process; a program of its own needs the patches.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LOCUST_")}
    done = subprocess.run([*command, *files, *options], cwd=ROOT, capture_output=True, text=True, timeout=60, env=clean)
    path = tmp_path / "l_stats.csv"
    rows = {row["Name"]: row for row in csv.DictReader(path.open())} if path.exists() else {}
    return done.returncode, done.stdout + done.stderr, rows


def test_open_loop_sends_the_whole_schedule_and_reports_each_latency_in_its_own_row(tmp_path: Path) -> None:
    with SseProcess(gap=0.01) as url:
        code, text, rows = locust(tmp_path, url, "--rate", "20", "--shape", "ramp", "-t", "2s", *LENGTHS, "good")
    assert code == 0, text
    sent = int(rows["/v1/chat/completions"]["Request Count"])
    assert sent > 5
    for name in ("TTFT", "TPOT", "output tokens/s (not ms)", "start lag", "TTFT<=1000ms TPOT<=100ms"):
        assert int(rows[name]["Request Count"]) == sent, name
    assert int(rows["gap between tokens"]["Request Count"]) == 4 * sent
    assert int(rows["Aggregated"]["Request Count"]) == sent
    assert "goodput:" in text
    assert "gap between tokens" in (tmp_path / "l.html").read_text()


def test_a_broken_stream_is_a_failure_and_never_good(tmp_path: Path) -> None:
    with SseProcess() as url:
        code, text, rows = locust(tmp_path, url, "-u", "2", "--think", "100ms", "-t", "2s", *LENGTHS, "cut")
    assert code == 1, text
    row = rows["/v1/chat/completions"]
    assert row["Failure Count"] == row["Request Count"] != "0"
    assert rows["TTFT<=1000ms TPOT<=100ms"]["Failure Count"] == row["Request Count"]
    assert "TTFT" not in rows and "broken stream" in text


def test_bad_options_stop_it_before_anything_is_sent(tmp_path: Path) -> None:
    code, text, rows = locust(tmp_path, "http://127.0.0.1:1", "--tokens", "40", "-t", "2s")
    assert code != 0 and "is not PROMPT,OUTPUT" in text and not rows


def test_two_processes_send_one_schedule_between_them(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    processes = [
        "--processes",
        "2",
        "--master-bind-port",
        port,
        "--master-port",
        port,
        "--master-bind-host",
        "127.0.0.1",
    ]
    with SseProcess(gap=0.01) as url:
        code, text, rows = locust(tmp_path, url, "--rate", "20", "-t", "2s", *LENGTHS, "good", *processes)
    assert code == 0, text
    assert int(rows["/v1/chat/completions"]["Request Count"]) == len(list(arrivals(constant(20.0), 2.0, 0)))
