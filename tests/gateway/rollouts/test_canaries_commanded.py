"""What operators say to canaries, and what they are answered."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.rollouts.canaries import CanaryError
from tests.support.rollouts import NAME, STEPS, World, command, config, route, seen, share, world


def test_what_an_operator_was_answered_outlives_a_kill(tmp_path: Path) -> None:
    w = world(tmp_path)
    assert command(w, "pause", by="ana", why="lunch")["said"] == f"{NAME} is paused"
    w.kill()
    assert w.view()["phase"] == "paused"
    w.run(200)
    assert share(w) == STEPS[0]
    command(w, "resume")
    w.kill()
    assert w.view()["phase"] == "running"
    command(w, "promote", by="ana")
    assert share(w) == 1.0
    w.kill()
    assert share(w) == 1.0 and w.view()["phase"] == "promoted"
    command(w, "abort", by="ana", why="not after all")
    w.kill()
    assert share(w) == 0.0 and w.view()["phase"] == "rolled_back"
    told = [line["told"] for line in w.history() if line["kind"] != "judgement"]
    assert "by ana: lunch" in told and "by ana: not after all" in told


def test_harm_is_rolled_back_while_paused(tmp_path: Path) -> None:
    w = world(tmp_path, steps=(0.5, 1.0))
    command(w, "pause")
    w.fails = 0.6
    w.run(60)
    assert share(w) == 0.0


def test_one_that_was_rolled_back_stays_so_until_it_is_begun_anew(tmp_path: Path) -> None:
    w = world(tmp_path)
    command(w, "abort")
    for verb in ("pause", "resume", "promote", "abort"):
        with pytest.raises(CanaryError, match="rolled back") as error:
            command(w, verb)
        assert error.value.status == 409
    w.run(60)
    w.kill()
    assert share(w) == 0.0
    assert command(w, "restart", by="ana")["said"] == f"{NAME} begins anew"
    assert share(w) == STEPS[0]
    w.kill()
    assert share(w) == STEPS[0] and w.view()["phase"] == "running" and seen(w) == (0, 0)


def test_a_command_says_when_the_disk_did_not_take_it(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.settle()
    (tmp_path / "canaries").rename(tmp_path / "away")
    assert "not on disk" in command(w, "pause")["said"]
    assert w.view()["phase"] == "paused"


def test_names_that_are_unknown_or_not_enough_are_told_what_there_is(tmp_path: Path) -> None:
    w = World(tmp_path)
    w.boot(config(models={"a": (route("blue"), route("green")), "b/c": (route(),)}))
    with pytest.raises(CanaryError, match=r"no such canary: 'x'; there is a/blue, a/green, b/c/routes\[0\]"):
        w.canaries.report("x")
    with pytest.raises(CanaryError, match=r"which one[?] a/blue, a/green") as error:
        w.canaries.report("a")
    assert error.value.status == 409
    with pytest.raises(CanaryError, match="which one"):
        w.canaries.report("-")
    assert w.view("b/c")["name"] == w.view("b/c/routes[0]")["name"] == "b/c/routes[0]"
    assert w.view("blue")["name"] == "a/blue"
    with pytest.raises(CanaryError, match="no such command"):
        command(w, "explode", "blue")
    w.canaries.reconfigure(config(models={}), w.now)
    with pytest.raises(CanaryError, match="no canary is configured"):
        w.canaries.report("-")
