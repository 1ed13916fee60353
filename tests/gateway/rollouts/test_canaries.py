"""The canaries of a running gateway: judged, and killed at the worst moments."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.core.routes import CanaryRule
from gateway.rollouts.canaries import CanaryError
from tests.support.rollouts import NAME, STEPS, World, command, config, hang, route, seen, share, world

# --- a rollout -------------------------------------------------------------------------------------------------------


def test_a_canary_that_is_as_good_goes_up_step_by_step_and_is_promoted(tmp_path: Path) -> None:
    w = world(tmp_path, margin=CanaryRule("next").margin.__class__(errors=0.05))
    shares = [share(w)]
    for _ in range(120):
        w.run(5)
        if share(w) != shares[-1]:
            shares.append(share(w))
        if shares[-1] == 1.0:
            break
    assert shares == list(STEPS)
    assert w.view()["durable"]
    w.run(40)
    assert [line["kind"] for line in w.history() if line["kind"] != "judgement"][:3] == ["began", "step", "step"]


@pytest.mark.parametrize("harm", [{"fails": 0.5}, {"cuts": 0.5}, {"slow": 4.0}])
def test_gross_harm_is_rolled_back_within_tens_of_requests(tmp_path: Path, harm: dict[str, float]) -> None:
    w = world(tmp_path, steps=(0.5, 1.0))
    w.run(30)
    before = seen(w)[1]
    for name, value in harm.items():
        setattr(w, name, value)
    for _ in range(30):
        w.run(1)
        if share(w) == 0.0:
            break
    assert share(w) == 0.0 and w.view()["phase"] == "rolled_back"
    assert seen(w)[1] - before <= 100
    assert any(b'"what":"roll_back"' in line for line in w.log.data.splitlines())


def test_every_judgement_that_says_something_else_is_a_line_and_one_comes_every_minute(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.run(300)
    lines = [line for line in w.history() if line["kind"] == "judgement"]
    assert all(later["at"] - earlier["at"] <= 61.0 for earlier, later in pairwise(lines))
    assert {"outcome", "why", "needed", "measures", "counts", "share", "phase", "step"} <= lines[-1].keys()
    assert lines[-1]["identity"] == w.view()["identity"]


def test_without_a_folder_for_state_it_works_all_the_same() -> None:
    w = world(None, steps=(0.5, 1.0))
    assert share(w) == 0.5
    w.fails = 0.5
    w.run(30)
    assert share(w) == 0.0


# --- what is on disk, and when ---------------------------------------------------------------------------------------


def test_a_step_up_is_not_routed_by_before_it_is_on_disk(tmp_path: Path) -> None:
    w = world(tmp_path)
    go = hang(w)
    for _ in range(120):
        for _ in range(10):
            w.request("next" if w.random.random() < 0.3 else "stable")
        w.tick()
    assert w.canaries._rollouts["llama", "routes[0]"].canary.share() > STEPS[0]
    assert share(w) == STEPS[0] and not w.view()["durable"]
    go.set()
    w.settle()
    w.settle()
    assert share(w) == STEPS[1] and w.view()["durable"]


def test_a_rollback_holds_at_once_and_outlives_a_kill_while_the_disk_hangs(tmp_path: Path) -> None:
    w = world(tmp_path, steps=(0.5, 1.0))
    w.run(30)
    go = hang(w)
    w.fails = 0.6
    for _ in range(60):
        for _ in range(10):
            w.request("next" if w.random.random() < 0.5 else "stable")
        w.tick()
        if share(w) == 0.0:
            break
    assert share(w) == 0.0
    w.kill()  # nothing of it was synced or renamed yet
    assert w.view()["phase"] == "rolled_back" and share(w) == 0.0
    go.set()


def test_a_disk_that_fails_stops_promotions_and_no_rollback(tmp_path: Path) -> None:
    w = world(tmp_path)
    folder = tmp_path / "canaries"
    w.settle()
    folder.rename(tmp_path / "away")
    w.run(120)
    assert share(w) == STEPS[0] and not w.view()["durable"]
    assert any(b"state_not_written" in line for line in w.log.data.splitlines())
    w.fails = 0.9
    for _ in range(400):
        w.request("next")
        w.request("stable")
        w.tick(0.2)
    assert share(w) == 0.0


def test_after_a_kill_it_goes_on_at_its_step_with_its_share_and_what_was_counted(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.run(100)
    before, counted = w.view(), seen(w)
    assert before["step"] == 1
    for kills in range(1, 4):
        w.kill()
        after = w.view()
        assert {k: after[k] for k in ("phase", "step", "share", "began")} == {
            k: before[k] for k in ("phase", "step", "share", "began")
        }
        assert 0.0 <= after["since"] - before["since"] <= kills * 4.0  # not held: since the last writing
        assert sum(counted) - sum(seen(w)) <= 10 * 4  # what was counted since the last writing
    w.run(60)
    assert seen(w)[1] > counted[1]
    assert w.view()["counts"]["canary"] >= before["counts"]["canary"]


def test_time_goes_on_over_restarts_whatever_the_monotonic_clock_shows(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.run(40)
    clock = w.now + w.canaries._ahead
    w.unix -= 3600.0  # and the wall clock was set back
    w.kill()
    assert w.now + w.canaries._ahead >= clock - 60.0  # the last writing
    w.unix += 3600.0
    w.run(40)
    assert w.view()["phase"] == "running"


@pytest.mark.parametrize("broken", ["judge", "arms", "frozen"])
def test_a_part_that_cannot_be_read_costs_the_counts_and_not_the_step(tmp_path: Path, broken: str) -> None:
    w = world(tmp_path)
    w.run(100)
    before = w.view()
    (path,) = (tmp_path / "canaries").glob("*.json")
    kept = json.loads(path.read_bytes())
    kept["learnt"][broken] = {"nonsense": 1}
    path.write_text(json.dumps(kept))
    w.kill()
    assert w.view()["step"] == before["step"] == 1 and share(w) == STEPS[1]
    assert seen(w) == (0, 0)
    w.run(30)
    assert any(b"state_ignored" in line for line in w.log.data.splitlines())


@pytest.mark.parametrize("content", [b"", b"{}", b'{"version":1,"generation":1,"learnt":{"name":"llama/routes[0]"}}'])
def test_a_state_that_is_no_state_begins_anew(tmp_path: Path, content: bytes) -> None:
    w = world(tmp_path)
    w.run(100)
    (path,) = (tmp_path / "canaries").glob("*.json")
    path.write_bytes(content)
    w.kill()
    w.settle()
    assert w.view()["step"] == 0 and share(w) == STEPS[0]


def test_during_a_hand_over_the_old_process_writes_no_more_and_does_what_the_new_one_says(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.run(20)
    old = w.canaries
    new = w.boot()
    for _ in range(3):
        w.settle()
        w.tick(5.0)
        assert old._store.wait_for_idle(10.0)
        old.tick(w.now)
    w.canaries = new
    command(w, "abort")
    w.canaries = old
    for _ in range(3):
        assert old._store.wait_for_idle(10.0)
        w.tick(5.0)
    assert share(w) == 0.0 and w.view()["yielded"]
    with pytest.raises(CanaryError, match="another process"):
        command(w, "promote")


# --- many at once ----------------------------------------------------------------------------------------------------


def test_canaries_of_two_routes_do_not_know_each_other(tmp_path: Path) -> None:
    w = World(tmp_path)
    w.boot(config(route("blue"), route("green")))
    w.settle()
    asyncio.run(w.canaries.command("abort", "blue"))
    assert w.canaries.share("llama", "blue") == 0.0 and w.canaries.share("llama", "green") == STEPS[0]
    w.request("next", name="green")
    assert [arm["requests"] for arm in w.view("blue")["arms"]] == [0, 0]
    assert w.canaries.share("llama", "red") is None


def test_what_is_told_is_json_and_the_page_needs_nothing_else(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.run(60)
    json.dumps(w.canaries.views(), allow_nan=False)
    json.dumps(w.canaries.report(NAME), allow_nan=False)
    page = w.canaries.page(NAME)
    assert "http" not in page.replace("http-equiv", "") and "<script" not in page
    w.canaries.close()


def test_closing_writes_what_was_counted(tmp_path: Path) -> None:
    w = world(tmp_path)
    for _ in range(50):
        w.request("stable")
    w.canaries.close()
    w.boot()
    assert seen(w) == (50, 0)


def test_a_bug_in_judging_who_got_no_place_costs_no_request() -> None:
    w = world(None)
    broken: Any = None
    w.canaries._rollouts["llama", "routes[0]"].judge = broken
    w.canaries.missed("llama", "routes[0]", "next", "queue_full", w.now)
    assert any(b"canary_bug" in line for line in w.log.data.splitlines())


# --- prices, and time ------------------------------------------------------------------------------------------------


def test_nothing_is_promoted_before_there_are_prices_to_measure_it_by(tmp_path: Path) -> None:
    w = world(tmp_path, steps=(0.5, 1.0), margin=CanaryRule("next").margin.__class__(errors=0.02))
    learning: Any = SimpleNamespace(learnt=SimpleNamespace(ttft=SimpleNamespace(samples=0)))
    w.canaries._predictors = lambda pool: learning if pool == "old" else None
    begun = w.canaries._rollouts["llama", "routes[0]"]
    begun.begin(begun.clock, w.unix)  # (the first tick had taken none for all there are)
    w.run(150, rate=20)
    view = w.view()
    assert view["prices"] == "none yet" and "errors" not in view["why"], "failures are known by now"
    assert share(w) == 0.5 and "ttft" in view["why"]
    learning.learnt.ttft.samples = 300
    w.run(3, rate=20)
    assert share(w) == 0.5, "what is told at last is waited for"
    w.run(120, rate=20)
    assert share(w) == 1.0 and not any("nothing to compare" in line["told"] for line in w.history())


def test_time_in_which_the_gateway_was_down_is_not_held(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.run(10, rate=100)
    for _ in range(3):
        w.unix += 600.0
        w.kill()
        w.run(4, rate=100)
        assert w.view()["step"] == 0
    w.run(30, rate=100)
    assert w.view()["step"] == 1


def test_a_wall_clock_that_is_set_is_neither_held_nor_lost(tmp_path: Path) -> None:
    for jump in (3600.0, -3600.0):
        w = world(tmp_path / str(jump))
        w.run(10, rate=100)
        w.unix += jump
        w.run(10, rate=100)
        assert w.view()["step"] == 0
        w.run(20, rate=100)
        assert w.view()["step"] == 1
