"""Decision records: what is copied, how long it is kept, and the JSON that is made of it."""

import json
import random
import threading
import tracemalloc
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.core.fleet import Fleet
from gateway.core.health import Rule
from gateway.core.predictor import Predictor
from gateway.core.snapshot import Snapshot
from gateway.core.types import UNKNOWN, Decision, Endpoint, Floats, Load, Outcome, Request
from gateway.decisions import BEST, MANY, DecisionRing, describe
from gateway.records import Candidates, Forecast, RequestRecord, Stretch, Work

NOW = 10.0
RECORD = RequestRecord(
    "r1", 1_700_000_000.25, 200, "complete", model="llama", pool="gpu", arm="stable", tenant="acme", endpoint="e1",
    policy="least_tokens", reason="least of 2", tries=1, ttft=0.3, duration=1.5, seed=7,
)  # fmt: skip


def make_fleet(count: int) -> Fleet:
    fleet = Fleet("gpu", Rule(), random.Random(1))
    fleet.update([Endpoint(f"e{i}", f"http://e{i}", "gpu", "vllm") for i in range(count)], NOW, fresh=True)
    return fleet


def look(fleet: Fleet, scores: Floats | None = None, row: int = 0) -> tuple[Snapshot, Decision]:
    return fleet.snapshot(NOW), Decision(row, "a reason", scores)


# --- what is copied ------------------------------------------------------------------------------------------


def test_the_copy_holds_what_was_known_then_and_not_what_came_after() -> None:
    fleet, ring = make_fleet(2), DecisionRing(10)
    fleet.observe(1, Load(NOW - 0.5, waiting=1.0, running=2.0, kv_used=0.25), 0.0)
    snapshot, decision = look(fleet, np.array([10.0, 20.0]))
    kept = ring.capture(snapshot, decision)
    fleet.reserve(decision, Request("r", "m", NOW, prompt_tokens=1000.0), NOW)
    assert kept.ids == ("e0", "e1")
    assert kept.columns.dtype == np.float32
    assert dict(zip(Candidates.NAMES, kept.columns[:, 1].tolist(), strict=True)) == {
        "requests": 3.0, "tokens": 750.0, "prefill": 0.0, "kv_used": 0.25, "age": 0.5,
    }  # fmt: skip
    assert kept.columns[2, 0] == 0.0
    assert np.isnan(kept.columns[3, 0])
    assert kept.scores is not None
    assert kept.scores.tolist() == [10.0, 20.0]
    assert kept.left_out == 0


def test_records_of_an_unchanged_fleet_share_one_tuple_of_ids_and_a_change_makes_a_new_one() -> None:
    fleet, ring = make_fleet(3), DecisionRing(10)
    first, second = (ring.capture(*look(fleet)).ids for _ in range(2))
    assert first is second
    fleet.update([fleet.endpoint(0), fleet.endpoint(2), Endpoint("new", "http://new", "gpu", "vllm")], NOW, fresh=True)
    assert set(ring.capture(*look(fleet)).ids) == {"e0", "e2", "new"}


def test_a_try_that_leaves_one_out_has_the_others_as_its_candidates() -> None:
    fleet, ring = make_fleet(3), DecisionRing(10)
    ring.capture(*look(fleet))
    kept = ring.capture(fleet.snapshot(NOW, ("e1",)), Decision(0, ""))
    assert kept.ids == ("e0", "e2")
    assert kept.columns.shape == (5, 2)
    assert ring.capture(*look(fleet)).ids == ("e0", "e1", "e2")


def test_two_pools_do_not_take_each_others_ids() -> None:
    ring, fleets = DecisionRing(10), []
    for name in ("x", "y"):
        fleet = Fleet(name, Rule(), random.Random(1))
        fleet.update([Endpoint(f"{name}1", f"http://{name}", name, "vllm")], NOW, fresh=True)
        fleets.append(fleet)
    for _ in range(2):
        assert [ring.capture(*look(fleet)).ids for fleet in fleets] == [("x1",), ("y1",)]


def test_of_many_candidates_the_best_scored_are_kept_and_the_chosen_one_always() -> None:
    fleet, ring = make_fleet(200), DecisionRing(10)
    scores = np.arange(200.0)[::-1].copy()
    kept = ring.capture(*look(fleet, scores, row=0))
    assert len(kept.ids) == BEST
    assert kept.left_out == 200 - BEST
    assert "e0" in kept.ids, "the worst scored, but chosen"
    assert set(kept.ids) - {"e0"} <= {f"e{i}" for i in range(200 - BEST, 200)}
    assert kept.scores is not None
    assert kept.scores[kept.ids.index("e199")] == 0.0
    assert kept.columns.shape == (5, BEST)


def test_of_many_candidates_without_scores_some_are_kept_and_the_chosen_one() -> None:
    fleet, ring = make_fleet(MANY + 1), DecisionRing(10)
    for row in range(MANY + 1):
        kept = ring.capture(*look(fleet, None, row))
        assert f"e{row}" in kept.ids
        assert len(set(kept.ids)) == BEST
        assert kept.scores is None


def test_what_a_policy_made_its_scores_from_is_kept_in_the_same_table() -> None:
    fleet, ring = make_fleet(2), DecisionRing(10)
    terms = np.array([[0.3, 0.4], [0.1, UNKNOWN]])
    decision = Decision(0, "", np.array([1.0, 2.0]), terms=terms)
    kept = ring.capture(fleet.snapshot(NOW), decision, ("ttft", "harm"))
    terms[:] = 9.0
    assert kept.columns.dtype == np.float32 and kept.columns.shape == (7, 2)
    first, second = describe(replace(RECORD, candidates=kept))["candidates"]  # type: ignore[misc]
    assert first["terms"] == {"ttft": pytest.approx(0.3), "harm": pytest.approx(0.1)}
    assert second["terms"] == {"ttft": pytest.approx(0.4), "harm": None}


@pytest.mark.parametrize("names", [(), ("ttft",), ("a", "b", "c")])
def test_terms_without_as_many_names_are_left_out(names: tuple[str, ...]) -> None:
    fleet, ring = make_fleet(2), DecisionRing(10)
    kept = ring.capture(fleet.snapshot(NOW), Decision(0, "", None, terms=np.ones((2, 2))), names)
    assert kept.terms == () and kept.columns.shape == (5, 2)


def test_of_many_candidates_the_terms_are_those_of_the_kept_ones() -> None:
    fleet, ring = make_fleet(200), DecisionRing(10)
    scores = np.arange(200.0)
    kept = ring.capture(fleet.snapshot(NOW), Decision(5, "", scores, terms=scores[None, :] * 2.0), ("double",))
    assert kept.scores is not None
    assert kept.columns.shape == (6, BEST)
    assert kept.columns[5].tolist() == (kept.scores * 2.0).tolist()


def test_a_policy_that_scored_only_those_it_drew_keeps_them_all() -> None:
    fleet, ring = make_fleet(100), DecisionRing(10)
    scores = np.full(100, UNKNOWN)
    scores[[70, 90]] = [5.0, 3.0]
    kept = ring.capture(*look(fleet, scores, 90))
    assert {"e70", "e90"} <= set(kept.ids)


# --- the ring ------------------------------------------------------------------------------------------------


def test_the_oldest_goes_when_the_ring_is_full() -> None:
    ring = DecisionRing(3)
    for number in range(5):
        ring.put(replace(RECORD, request_id=f"r{number}"))
    assert [ring.find(f"r{number}") is not None for number in range(5)] == [False, False, True, True, True]
    assert len(ring) == 3


def test_of_a_repeated_id_the_newest_is_found_until_it_too_has_gone() -> None:
    ring = DecisionRing(3)
    for status in (200, 201):
        ring.put(replace(RECORD, request_id="same", status=status))
    ring.put(replace(RECORD, request_id="x"))
    ring.put(replace(RECORD, request_id="y"))  # takes the place of the first `same`
    found = ring.find("same")
    assert found is not None
    assert found.status == 201
    ring.put(replace(RECORD, request_id="z"))
    assert ring.find("same") is None


@given(st.lists(st.sampled_from("abcdef"), max_size=60), st.integers(0, 5))
@settings(deadline=None)
def test_ring_and_index_agree_and_are_bounded_whatever_ids_come(ids: list[str], keep: int) -> None:
    ring = DecisionRing(keep)
    for number, request_id in enumerate(ids):
        ring.put(replace(RECORD, request_id=request_id, status=number))
    last = {request_id: number for number, request_id in enumerate(ids) if number >= len(ids) - keep}
    assert len(ring) == len(last)
    for request_id in "abcdef":
        found = ring.find(request_id)
        assert (None if found is None else found.status) == last.get(request_id)


@pytest.mark.parametrize(("terms", "megabytes"), [(0, 26), (6, 53)])
def test_ten_thousand_records_of_64_candidates_have_a_bound(terms: int, megabytes: int) -> None:
    fleet, ring, names = make_fleet(64), DecisionRing(10_000), tuple("abcdef"[:terms])
    snapshot = fleet.snapshot(NOW)
    tracemalloc.start()
    try:
        for number in range(10_500):
            decision = Decision(0, "", snapshot.tokens.copy(), terms=np.ones((terms, 64)) if terms else None)
            forecast = Forecast(*(number / part for part in (3, 5, 7, 9, 11, 13))) if terms else None
            stretch = Stretch(*(number / part for part in range(3, 13)))
            work = Work(number / 3, number / 5, number / 7, 8.5, 9.5, 1.5, 2.5, 3.5, stretch) if terms else None
            kept = ring.capture(snapshot, decision, names)
            ring.put(replace(RECORD, request_id=f"request-{number}", ttft=number / 7, candidates=kept,
                             predicted=forecast, work=work))  # fmt: skip
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used < megabytes * 1e6


# --- JSON ----------------------------------------------------------------------------------------------------


def test_the_json_is_the_contracts() -> None:
    fleet, ring = make_fleet(2), DecisionRing(10)
    kept = ring.capture(*look(fleet, np.array([2.0, 1.0]), 1))
    shown = describe(replace(RECORD, candidates=kept))
    assert set(shown) >= {"v", "request_id", "at", "model", "pool", "arm", "class", "seed", "candidates", "chosen",
                          "reason", "outcome"}  # fmt: skip
    assert (shown["v"], shown["chosen"], shown["seed"]) == (1, "e1", 7)
    assert shown["candidates"] == [
        {"endpoint": f"e{i}", "requests": 0.0, "tokens": 0.0, "prefill": 0.0, "kv_used": None, "age": None,
         "score": 2.0 - i}
        for i in range(2)
    ]  # fmt: skip
    outcome = shown["outcome"]
    assert isinstance(outcome, dict)
    assert (outcome["status"], outcome["ended"], outcome["ttft"], outcome["tpot"]) == (200, "complete", 0.3, None)
    json.dumps(shown, allow_nan=False)


def test_what_was_promised_and_predicted_is_in_the_json() -> None:
    shown = describe(RECORD)
    assert shown["predicted"] is None
    assert shown["slo"] == {"ttft": None, "tpot": None}
    forecast = Forecast(0.3, 0.2, 0.4, 0.02, UNKNOWN, np.inf)
    shown = describe(replace(RECORD, predicted=forecast, ttft_slo=0.5, ttft_there=0.29))
    assert shown["predicted"] == {
        "ttft": 0.3, "ttft_low": 0.2, "ttft_high": 0.4, "tpot": 0.02, "tpot_low": None, "tpot_high": None,
    }  # fmt: skip
    assert shown["slo"] == {"ttft": 0.5, "tpot": None}
    outcome = shown["outcome"]
    assert isinstance(outcome, dict) and outcome["ttft_there"] == 0.29
    json.dumps(shown, allow_nan=False)


def test_what_a_profile_can_be_fitted_to_is_in_the_json() -> None:
    assert describe(RECORD)["work"] is None
    work = Work(0.004, 900.0, 12.0, 9000.0, 4e5, 800.0, 1000.0)
    shown = describe(replace(RECORD, work=work))["work"]
    assert shown == {
        "rest": 0.004, "tokens": 900.0, "decoding": 12.0, "context": 9000.0, "pairs": 4e5, "own": 800.0,
        "prompt": 1000.0, "kv_tokens": None, "after": None,
    }  # fmt: skip
    after = Stretch(1.5, 100.0, 11.5, 9100.0, 300.0, 200.0, 100.0, 5e4, 128.0, 512.0)
    shown = describe(replace(RECORD, work=msgspec.structs.replace(work, kv_tokens=4e5, after=after)))["work"]
    assert isinstance(shown, dict) and shown["kv_tokens"] == 4e5
    assert shown["after"] == dict(zip(Stretch.__struct_fields__, msgspec.structs.astuple(after), strict=True))


def test_a_stream_tells_what_its_engine_had_to_do_and_a_plain_answer_does_not() -> None:
    fleet = Fleet("p", Rule(), random.Random(1))
    fleet.predictor = Predictor()
    fleet.update([Endpoint("e", "http://e", "p", "vllm")], 0.0, fresh=True)
    request = Request("r", "m", 0.0, prompt_tokens=1000.0, stream=True)
    snapshot = fleet.snapshot(0.0)
    forecast = fleet.predictor.forecast(fleet.predictor.predict(request, snapshot), 0)
    place = fleet.reserve(Decision(0, "", cached_tokens=200.0, forecast=forecast), request, 0.0)
    place.first_token(0.1)
    outcome = Outcome(request, place.endpoint, 0, 200, "complete", 1.1, 0.1, 1000.0, UNKNOWN, 101.0)
    place.settle(1.1, outcome)
    work = Work.of(place)
    assert work is not None and (work.tokens, work.own, work.prompt, work.decoding) == (1000.0, 800.0, 1000.0, 0.0)
    assert work.after is not None and (work.after.steps, work.after.decoding) == (100.0, 1.0)
    assert work.after.seconds == pytest.approx(1.0)
    place.stream = False
    assert Work.of(place) is None


def test_a_request_that_was_never_sent_has_no_candidates() -> None:
    shown = describe(RequestRecord("r", 0.0, 404, "rejected", code="model_not_found"))
    assert shown["candidates"] == []
    assert shown["chosen"] == ""


def test_the_file_gets_every_record_as_a_line_also_those_the_ring_does_not_keep(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    ring = DecisionRing(2, str(path))
    for number in range(5):
        ring.put(replace(RECORD, request_id=f"r{number}"))
        ring.flush()
    ring.close(10.0)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["request_id"] for line in lines] == [f"r{number}" for number in range(5)]
    assert ring.dropped == 0
    assert len(ring) == 2


def test_a_file_that_cannot_be_written_costs_its_lines_and_nothing_else(tmp_path: Path) -> None:
    ring = DecisionRing(2, str(tmp_path / "missing" / "decisions.jsonl"))
    ring.put(RECORD)
    ring.close(10.0)
    assert ring.dropped == 1
    assert ring.find("r1") is RECORD


def test_with_nothing_kept_nothing_is_found() -> None:
    ring = DecisionRing(0)
    ring.put(RECORD)
    assert ring.find("r1") is None
    ring.close()


def test_a_smaller_or_larger_ring_keeps_the_newest_that_fit() -> None:
    ring = DecisionRing(4)
    for number in range(6):
        ring.put(replace(RECORD, request_id=f"r{number}"))
    ring.reconfigure(2, None)
    assert [ring.find(f"r{number}") is not None for number in range(6)] == [False] * 4 + [True] * 2
    ring.reconfigure(3, None)
    ring.put(replace(RECORD, request_id="r6"))
    assert len(ring) == 3
    ring.put(replace(RECORD, request_id="r7"))
    assert ring.find("r4") is None
    assert ring.find("r5") is not None


def test_another_file_takes_over_and_no_record_is_in_both_or_in_none(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    ring = DecisionRing(2, str(old))
    ring.put(replace(RECORD, request_id="r1"))
    ring.reconfigure(2, str(new))
    ring.put(replace(RECORD, request_id="r2"))
    ring.reconfigure(2, str(new))
    ring.close(10.0)
    assert json.loads(new.read_text())["request_id"] == "r2"
    assert ring.find("r1") is not None
    # The old file's writer ends by itself; nobody waited for it.
    for thread in threading.enumerate():
        if thread.name == "headway-log":
            thread.join(10.0)
    assert json.loads(old.read_text())["request_id"] == "r1"
