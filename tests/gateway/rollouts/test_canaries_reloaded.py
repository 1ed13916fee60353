"""The canaries of a running gateway when its file changes: who goes on, who begins anew, who is gone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.core.routes import Arm, Route, When
from gateway.rollouts.canaries import CanaryError
from tests.support.rollouts import NAME, STEPS, command, config, route, rule, seen, share, world


def test_a_rule_without_a_name_that_moves_in_the_file_is_not_tried_again(tmp_path: Path) -> None:
    plain, other = Route((Arm("", "old"),), when=When(stream=False)), route(canary=rule(steps=(0.5, 1.0)))
    w = world(tmp_path)
    w.canaries.reconfigure(config(route(canary=rule()), other), w.now)
    command(w, "abort", NAME)
    w.settle()
    w.canaries.reconfigure(config(plain, route(canary=rule()), other), w.now)
    w.settle()
    assert share(w) is None and w.canaries.share("llama", "routes[1]") == 0.0
    assert w.canaries.share("llama", "routes[2]") == 0.5
    w.kill(config(plain, route(canary=rule()), other))
    assert w.canaries.share("llama", "routes[1]") == 0.0 and w.view("llama/routes[1]")["phase"] == "rolled_back"
    w.settle()
    w.canaries.reconfigure(config(route(canary=rule()), other), w.now)
    assert share(w) == 0.0 and w.canaries.share("llama", "routes[1]") == 0.5


def test_rules_that_are_alike_are_not_taken_for_one_another(tmp_path: Path) -> None:
    w = world(tmp_path)
    twice = [route(canary=rule(), when=When(stream=stream)) for stream in (True, False)]
    w.canaries.reconfigure(config(*twice), w.now)
    w.settle()
    command(w, "abort", NAME)
    w.canaries.reconfigure(config(*twice, route(canary=rule())), w.now)
    w.settle()
    assert [w.canaries.share("llama", f"routes[{row}]") for row in range(3)] == [0.0, STEPS[0], STEPS[0]]


def test_what_is_aborted_while_the_next_process_starts_stays_aborted(tmp_path: Path) -> None:
    w = world(tmp_path)
    before = w.canaries
    w.boot()  # it has read what there was, and does not serve yet
    asyncio.run(before.command("abort", NAME))
    assert share(w) == STEPS[0]
    w.canaries.catch_up()
    assert share(w) == 0.0
    w.run(5)
    w.kill()
    assert share(w) == 0.0 and w.view()["phase"] == "rolled_back"


def test_a_reload_with_the_same_canary_goes_on(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.run(100)
    before, counted = w.view(), seen(w)
    w.canaries.reconfigure(config(route(canary=rule())), w.now)
    assert w.view()["step"] == before["step"] == 1 and seen(w) == counted and share(w) == STEPS[1]


@pytest.mark.parametrize("changed", [{"steps": (0.1, 1.0)}, {"hold": 60.0}, {"risk": 0.01}])
def test_a_changed_rule_begins_anew(tmp_path: Path, changed: dict[str, Any]) -> None:
    w = world(tmp_path)
    w.run(100)
    w.config = config(route(canary=rule(**changed)))
    w.canaries.reconfigure(w.config, w.now)
    assert w.view()["step"] == 0 and seen(w) == (0, 0)
    w.settle()
    assert share(w) == w.view()["steps"][0]
    w.kill()
    assert share(w) == w.view()["steps"][0] and w.view()["step"] == 0


def test_one_that_leaves_the_file_leaves_a_record_and_comes_back_as_a_new_one(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.run(100)
    w.canaries.reconfigure(config(models={}), w.now)
    assert share(w) is None
    assert w.history()[-1]["kind"] == "gone"
    assert not list((tmp_path / "canaries").glob("*.json"))
    w.canaries.reconfigure(w.config, w.now)
    w.settle()
    assert share(w) == STEPS[0] and seen(w) == (0, 0)
    w.kill()
    assert w.view()["step"] == 0 and share(w) == STEPS[0]


def test_one_that_left_the_file_while_nobody_ran_leaves_a_record_too(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.run(20)
    w.kill(config(models={}))
    assert w.history()[-1]["kind"] == "gone"
    assert not list((tmp_path / "canaries").glob("*.json"))


def test_pausing_in_the_file_is_a_command_when_it_changes_and_not_when_it_stays(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.canaries.reconfigure(config(route(canary=rule(paused=True))), w.now)
    assert w.view()["phase"] == "paused"
    w.settle()
    command(w, "resume")
    w.canaries.reconfigure(config(route(canary=rule(paused=True))), w.now)
    assert w.view()["phase"] == "running"  # what an operator said last holds
    w.kill(config(route(canary=rule(paused=True))))
    assert w.view()["phase"] == "running"
    command(w, "pause")
    w.canaries.reconfigure(config(route(canary=rule())), w.now)
    assert w.view()["phase"] == "running"


@pytest.mark.parametrize(("verb", "after"), [("promote", 1.0), ("restart", STEPS[0]), ("pause", STEPS[1])])
def test_what_is_said_to_the_process_before_while_the_next_one_starts_holds(
    tmp_path: Path, verb: str, after: float
) -> None:
    w = world(tmp_path)
    w.run(100)
    assert share(w) == STEPS[1]
    before = w.canaries
    w.boot()
    asyncio.run(before.command(verb, NAME))
    was: Any = before.report(NAME)["canary"]
    counted = tuple(arm["requests"] for arm in was["arms"])
    w.canaries.catch_up()
    w.settle()
    assert share(w) == after and w.view()["durable"]
    for _ in range(2):
        assert [w.view()[key] for key in ("phase", "step", "began")] == [was[key] for key in ("phase", "step", "began")]
        assert seen(w) == counted
        w.kill()


def test_a_line_is_enough_where_the_state_was_overwritten(tmp_path: Path) -> None:
    """The process before writes between the next one's reading and its first writing."""
    w = world(tmp_path)
    w.run(100)
    before = w.canaries
    w.boot()
    read = w.canaries._store.read

    def late(name: str) -> Any:
        found = read(name)
        asyncio.run(before.command("promote", NAME))
        return found

    w.canaries._store.read = late  # type: ignore[method-assign]
    w.canaries.catch_up()
    w.settle()
    assert w.view()["phase"] == "promoted" and share(w) == 1.0


@pytest.mark.parametrize("verb", ["abort", "promote", "restart"])
def test_a_process_that_was_taken_over_says_so_and_what_it_did_is_forgotten(tmp_path: Path, verb: str) -> None:
    w = world(tmp_path)
    w.run(100)
    before = w.canaries
    after = w.boot()
    after.catch_up()
    with pytest.raises(CanaryError, match="another process") as error:
        asyncio.run(before.command(verb, NAME))
    assert (error.value.status, error.value.code) == (409, "taken_over")
    w.canaries = before
    w.run(4)
    assert share(w) == STEPS[1], "as the new one says"
    w.canaries = after
    w.settle()
    assert share(w) == STEPS[1]
    w.kill()
    assert w.view()["phase"] == "running" and share(w) == STEPS[1]
    history: Any = w.canaries.report(NAME)["history"]
    assert {"abort", "promote", "restarted"}.isdisjoint(point["kind"] for point in history)


def test_a_process_that_was_taken_over_does_not_say_what_is_possible(tmp_path: Path) -> None:
    w = world(tmp_path)
    before = w.canaries
    w.boot().catch_up()
    command(w, "pause", NAME)
    with pytest.raises(CanaryError, match="another process"):
        asyncio.run(before.command("resume", NAME))


def test_a_process_that_stops_obeys_nobody(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.canaries.stop_obeying()
    with pytest.raises(CanaryError, match="ask again") as error:
        command(w, "abort", NAME)
    assert (error.value.status, share(w)) == (503, STEPS[0])
