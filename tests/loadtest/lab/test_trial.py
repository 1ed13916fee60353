"""One run as studies use it: made once, broken off only where that is allowed, judged as asked."""

from dataclasses import replace
from pathlib import Path

import pytest

from loadtest.lab import trial
from loadtest.lab.bounds import pooled
from loadtest.lab.scenario import Group, Scenario, Slo
from loadtest.lab.trial import HOPELESS, Choice, View, measured

SMALL = Scenario("small", groups=(Group(count=2),), requests=300)
LEAST = Choice("least_inflight")


def test_a_run_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = measured(SMALL, LEAST, 20.0, 1, tmp_path)
    monkeypatch.setattr(trial, "simulate", None)
    again = measured(SMALL, LEAST, 20.0, 1, tmp_path, may_break=True)
    assert first["attainment"] == again["attainment"] and first["complete"] == 1.0


def test_a_hopeless_run_is_broken_off_where_it_may_be_and_never_taken_for_a_whole_one(tmp_path: Path) -> None:
    broken = measured(SMALL, LEAST, 200.0, 1, tmp_path, may_break=True)
    assert not broken["complete"] and broken["attainment"] <= HOPELESS
    assert measured(SMALL, LEAST, 200.0, 1, tmp_path, may_break=True)["attainment"] == broken["attainment"]
    whole = measured(SMALL, LEAST, 200.0, 1, tmp_path)
    assert whole["complete"]


def test_the_pooled_server_is_judged_by_the_promises_of_the_scenario() -> None:
    strict = replace(SMALL, slo=Slo(ttft=0.001, unloaded=2.0, tpot=0.025))
    wide = pooled(strict)
    assert wide is not None
    own = measured(wide, LEAST, 5.0, 1, None)
    theirs = measured(wide, LEAST, 5.0, 1, None, view=View(judged_as=strict))
    # Twice the prefill of one engine is four times that of the wide one.
    assert theirs["attainment"] > own["attainment"]


def test_a_choice_is_called_by_its_label() -> None:
    assert Choice("lmetric").name == "lmetric" and Choice("lmetric", {}, "ours").name == "ours"
