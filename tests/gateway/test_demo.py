"""`headway demo` as people start it: it runs, says what to try, and leaves nothing behind on any way out."""

import argparse
import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from gateway import demo
from gateway.config.loader import load_bytes
from policies.picking import check as check_pick

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def running(*options: str) -> Iterator[subprocess.Popen[str]]:
    with TemporaryDirectory() as temporary:  # one that is killed cannot take its files with it
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "demo", "--rate", "8", *options], text=True,
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "TMPDIR": temporary},
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def read_greeting(process: subprocess.Popen[str]) -> str:
    return read_until(process, "Ctrl-C")


def read_until(process: subprocess.Popen[str], mark: str) -> str:
    lines: list[str] = []
    assert process.stdout is not None
    while not lines or mark not in lines[-1]:
        lines.append(process.stdout.readline())
        assert lines[-1], "".join(lines)
    return "".join(lines)


def read_rest(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    rest = process.stdout.read()
    process.wait()
    return rest


def addresses(greeting: str) -> set[tuple[str, int]]:
    return {(host, int(port)) for host, port in re.findall(r"http://([0-9.]+):(\d+)", greeting)}


def is_open(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=5).close()
    except OSError:
        return False
    return True


def test_for_some_seconds_it_serves_shows_the_table_and_ends_well() -> None:
    with running("--seconds", "8") as process:
        greeting = read_greeting(process)
        assert all(is_open(address) for address in addresses(greeting))
        shown = read_until(process, " demo-")
        asked = re.search(r"(explain.*) demo-1$", greeting, re.MULTILINE)
        assert asked
        words = [*asked[1].split(), shown.splitlines()[-1].split()[0]]
        why = subprocess.run([sys.executable, "-m", "gateway", *words], cwd=ROOT, capture_output=True, text=True)
        assert "chosen: 127.0.0.1:" in why.stdout, why.stderr
        [script] = re.findall(r" sh (\S+)", greeting)
        if shutil.which("curl"):
            sent = subprocess.run(["sh", script], capture_output=True, text=True)
            assert '"object":"batch"' in sent.stdout, sent
        rest = shown + read_rest(process)
    assert process.returncode == 0, rest
    told = re.search(r"stopped\. (\d+) requests answered, (\d+) failed\.", rest)
    assert told and int(told[1]) > 0 and told[2] == "0", rest
    assert "TTFT p50" in rest and ", of 4" in rest
    if shutil.which("curl"):
        assert re.search(r"Work that can wait: \d+ done, \d+ running in the gaps, [1-9]\d* waiting", rest), rest
    assert len(addresses(greeting)) == 3  # clients, operators, the server to freeze
    assert not any(is_open(address) for address in addresses(greeting))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_all_it_started(number: signal.Signals) -> None:
    with running() as process:
        greeting = read_greeting(process)
        process.send_signal(number)
        rest = read_rest(process)
    assert process.returncode == 0, rest
    assert not any(is_open(address) for address in addresses(greeting))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of their parent's death")
def test_even_a_killed_demo_leaves_nothing_running() -> None:
    with running() as process:
        left = addresses(read_greeting(process))
        process.kill()
        process.wait()
        until = time.monotonic() + 30.0
        while any(is_open(address) for address in left) and time.monotonic() < until:
            time.sleep(0.05)
    assert not any(is_open(address) for address in left)


def test_a_program_that_cannot_start_is_named_with_its_own_words() -> None:
    with running("--pick", "nonsense") as process:
        out = read_rest(process)
    assert process.returncode == 1
    assert "the gateway stopped" in out and "unknown policy `nonsense`" in out


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    with running("--seconds", "60") as process:
        left = addresses(read_greeting(process))
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(60) == 0
    assert not any(is_open(address) for address in left)


@pytest.mark.parametrize("option", ["--seconds", "--rate"])
@pytest.mark.parametrize("value", ["0", "-1", "inf", "nan", "soon"])
def test_a_number_out_of_range_is_bad_usage(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    with pytest.raises(SystemExit) as ended:
        parser.parse_args([option, value])
    assert ended.value.code == 2
    assert option in capsys.readouterr().err


@pytest.fixture
def one(tmp_path: Path) -> Iterator[demo.Demo]:
    args = argparse.Namespace(seconds=None, rate=1.0, pick="least_tokens")
    made = demo.Demo(args, tmp_path)
    yield made
    asyncio.run(made.stop())


def test_where_a_port_is_taken_another_one_is_used_and_said(one: demo.Demo, tmp_path: Path) -> None:
    second = demo.Demo(argparse.Namespace(seconds=None, rate=1.0, pick="least_tokens"), tmp_path)
    try:
        greeting = second._greeting(["http://127.0.0.1:1"] * 4)
    finally:
        asyncio.run(second.stop())
    assert f"Port {demo.PORT} is taken, so the gateway listens on {second._port}." in greeting
    assert f"http://127.0.0.1:{second._port}/v1/models" in greeting
    assert f"--admin http://127.0.0.1:{second._admin_port}" in second._explain()


def test_only_lines_about_routed_requests_are_counted(one: demo.Demo) -> None:
    others = ("headway 0.1.0: serving …", "[1]", '{"event": "reque', '{"event": "reloaded"}')
    for text in (*others, '{"event": "request", "method": "GET"}'):
        one._on_gateway_line(text)
    assert one._tally.total == 0


def test_the_file_it_writes_is_one_that_an_operator_could_have_written(one: demo.Demo) -> None:
    text = one._configuration([f"http://127.0.0.1:{port}" for port in (1, 2, 3, 4)])
    loaded = load_bytes(text.encode(), "gateway.yaml", {}, check_pick=check_pick)
    assert not loaded.warnings
    assert [endpoint.labels["gpu"] for endpoint in loaded.config.pools["gpus"].endpoints] == list(demo.GPUS)
