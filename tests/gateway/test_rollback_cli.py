"""The verb `rollback`: asked of a real HTTP server, and what it prints."""

from __future__ import annotations

import json
import threading
from argparse import ArgumentParser
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar

import pytest

from gateway import rollback_cli
from gateway.admin_client import AdminError, ask

OLD, NEW = "a" * 64, "b" * 64
HISTORY = {"in_use": NEW, "applied": [
    {"digest": NEW, "at": 1_700_000_100.0, "by": "file", "file": "headway.yaml", "size": 90},
    {"digest": OLD, "at": 1_700_000_000.0, "by": "file", "file": "headway.yaml", "size": 80},
]}  # fmt: skip


class Listener(BaseHTTPRequestHandler):
    """An admin listener of which every answer is known."""

    answers: ClassVar[dict[str, tuple[int, Any]]] = {}
    asked: ClassVar[list[tuple[str, bytes, str]]] = []

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["content-length"])))

    def _answer(self, body: bytes) -> None:
        self.asked.append((self.path, body, self.headers.get("authorization", "")))
        status, answer = self.answers.get(self.path, (404, {"error": {"message": "no such page"}}))
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        if status == 302:
            self.send_header("location", "http://127.0.0.1:1/elsewhere")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def admin() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Listener)
    Listener.answers, Listener.asked = {}, []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def run(*words: str) -> int:
    parser = ArgumentParser()
    rollback_cli.add_arguments(parser)
    return rollback_cli.run(parser.parse_args(words))


def test_the_list_shows_the_newest_first_and_which_is_in_use(admin: str, capsys: pytest.CaptureFixture[str]) -> None:
    Listener.answers["/api/history"] = (200, HISTORY)
    assert run("--list", "--admin", admin) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"-> {NEW[:12]}  2023-11-14 22:15:00Z") and second.startswith(f"   {OLD[:12]}")


def test_going_back_asks_for_the_digest_and_says_how_long_it_holds(
    admin: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Listener.answers["/api/rollback"] = (200, {"digest": OLD, "now": OLD, "at": 1_700_000_000.0, "changed": False})
    assert run("aaaa", "--admin", admin, "--token", "t") == 0
    assert Listener.asked == [("/api/rollback", b'{"digest": "aaaa"}', "Bearer t")]
    told = capsys.readouterr().out
    assert OLD[:12] in told and "until the file changes" in told and "not touched" in told


def test_a_changed_environment_is_said(admin: str, capsys: pytest.CaptureFixture[str]) -> None:
    Listener.answers["/api/rollback"] = (200, {"digest": OLD, "now": NEW, "at": 0.0, "changed": True})
    assert run("--admin", admin) == 0
    assert "has changed since" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("status", "answer", "told"),
    [
        (404, {"error": {"message": "no configuration is kept under 'x'"}}, "no configuration is kept"),
        (400, {"error": {"message": "not applied", "problems": ["pool gone"]}}, "not applied; pool gone"),
        (401, {"error": {"message": "this needs the admin token"}}, "--token"),
        (500, b"oops", "answered 500"),
        (200, b"<html>", "not in JSON"),
        (200, [], "another kind of server"),
        (302, b"", "302"),
    ],
)
def test_what_went_wrong_is_said_and_the_exit_code_is_1(
    admin: str, capsys: pytest.CaptureFixture[str], status: int, answer: object, told: str
) -> None:
    Listener.answers["/api/rollback"] = (status, answer)
    assert run("--admin", admin) == 1
    assert told in capsys.readouterr().err


def test_nobody_there_is_said_with_the_address(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--admin", "http://127.0.0.1:1") == 1
    assert "http://127.0.0.1:1" in capsys.readouterr().err


def test_a_token_is_not_carried_to_another_address(admin: str) -> None:
    Listener.answers["/api/history"] = (302, b"")
    with pytest.raises(AdminError):
        ask(admin, "/api/history", "secret")
    assert len(Listener.asked) == 1
