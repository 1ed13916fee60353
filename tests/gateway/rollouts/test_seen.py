"""What of a request a canary's judge is told."""

from __future__ import annotations

import math
from typing import Any

import pytest

from gateway.core.frozen import FEWEST, Frozen
from gateway.core.routes import Sticky
from gateway.core.types import Decision, Outcome, Request
from gateway.rollouts.seen import PATHS, Arms
from policies.routing import Seen
from tests.support.rollouts import fleet, route

FLEETS = {pool: fleet(pool) for pool in ("old", "new", "spare")}


class Case:
    """Both arms' requests, told apart by prices that are known."""

    def __init__(self, **more: Any) -> None:
        self.arms = Arms(route(**more))
        self.frozen = Frozen()
        for _ in range(FEWEST + 5):  # what the stable arm usually takes
            self.seen("stable", path="/v1/chat/completions")

    def seen(self, arm: str, pool: str = "", reads_slowly: bool = False, path: str = "", **fields: Any) -> Seen | None:
        where = FLEETS[pool or {"stable": "old", "next": "new"}.get(arm, "old")]
        request = Request("r", "m", 0.0, prompt_tokens=500.0, output_tokens=100.0, stream=True)
        place = where.reserve(Decision(0, "test"), request, 0.0)
        usual = Outcome(request, place.endpoint, 0, 200, "complete", 2.2, 0.2, 500.0, output_tokens=100.0)
        outcome = usual._replace(**fields)
        if reads_slowly:  # as the relay says it
            place.stream, place.read_slowly = False, True
        place.settle(2.0, outcome)
        return self.arms.seen(arm, place, outcome, "stop", 7, 0.25, 9.0, self.frozen, path)


def sure(seen: Seen | None) -> Seen:
    assert seen is not None
    return seen


def test_a_whole_answer_has_its_residuals_length_and_end() -> None:
    seen = sure(Case().seen("next", ttft=0.4, duration=4.4))
    assert (seen.is_canary, seen.failed, seen.truncated, seen.endpoint) == (True, False, False, "new0")
    assert (seen.tokens, seen.finish, seen.user, seen.share, seen.at) == (100.0, "stop", 7, 0.25, 9.0)
    assert seen.ttft == pytest.approx(math.log(2.0), abs=0.05)
    assert seen.tpot == pytest.approx(math.log(2.0), abs=0.05)


@pytest.mark.parametrize(
    ("fields", "failed", "truncated"),
    [
        ({"ended": "upstream_failed", "status": 0, "ttft": math.nan}, True, False),
        ({"ended": "timeout", "status": 0, "ttft": math.nan}, True, False),
        ({"ended": "saturated", "status": 503, "ttft": math.nan}, True, False),
        ({"ended": "error_event"}, True, True),
        ({"ended": "upstream_failed"}, True, True),
        ({"status": 500, "ended": "upstream_failed", "ttft": math.nan}, True, False),
        ({"status": 404, "ttft": math.nan}, True, False),
        ({"status": 401, "ttft": math.nan}, True, False),
    ],
)
def test_what_its_server_got_wrong_is_the_arms_failure(fields: dict[str, Any], failed: bool, truncated: bool) -> None:
    case = Case()
    seen = sure(case.seen("next", **fields))
    assert (seen.failed, seen.truncated) == (failed, truncated)
    assert math.isnan(seen.tokens) and (seen.finish == "") == (fields.get("ended", "complete") != "complete")
    counted = case.arms.counted["next"]
    assert (counted.requests, counted.failed, counted.truncated) == (1, 1, int(truncated))


@pytest.mark.parametrize(
    "fields",
    [{"status": 400, "ttft": math.nan}, {"status": 500, "ttft": math.nan},
     {"status": 413, "ttft": math.nan}, {"status": 422}, {"ended": "cancelled"},
     {"ended": ""}, {"ended": "client_gone", "ttft": math.nan, "duration": 0.05}],
)  # fmt: skip
def test_what_a_client_did_or_the_gateway_ended_says_nothing(fields: dict[str, Any]) -> None:
    case = Case(sticky=Sticky("session"))
    assert case.seen("next", **fields) is None
    assert case.arms.counted["next"].requests == 0


@pytest.mark.parametrize("sticky", [None, Sticky("key")])
def test_a_canary_that_refuses_what_others_take_is_seen_where_clients_cannot_choose_it(sticky: Sticky | None) -> None:
    """A chat template that is missing answers 400 to everything: that is no client's fault."""
    case = Case(sticky=sticky)
    for status in (400, 413, 422):
        assert sure(case.seen("next", status=status, ttft=math.nan)).failed
        assert sure(case.seen("stable", status=status, ttft=math.nan)).failed, "the same for all arms"


def test_a_client_that_gave_up_after_a_long_time_without_a_token_has_seen_that_long_a_time() -> None:
    case = Case()
    before = case.frozen.to_state()
    seen = sure(case.seen("stable", ended="client_gone", ttft=math.nan, duration=2.0, status=0))
    assert seen.ttft == pytest.approx(math.log(10.0), abs=0.05) and not seen.failed
    assert case.frozen.to_state() == before  # a bound is nothing to learn from


def test_a_client_that_left_in_the_middle_has_seen_the_first_token() -> None:
    seen = sure(Case().seen("next", ended="client_gone", ttft=0.4))
    assert seen.ttft == pytest.approx(math.log(2.0), abs=0.05) and math.isnan(seen.tokens)


def test_what_a_fallback_answered_is_counted_apart_and_nobodys() -> None:
    case = Case()
    assert case.seen("next", pool="spare") is None
    assert case.seen("stable", pool="new") is None  # the other arm's pool is a fallback, too
    assert (case.arms.counted["next"].elsewhere, case.arms.counted["next"].requests) == (1, 0)


def test_an_arm_that_is_not_of_this_rule_is_left_alone() -> None:
    assert Case().seen("another") is None
    assert Case().arms.missed("another", 1, 0.1, 2.0) is None


def test_a_request_that_got_no_place_is_the_arms_failure() -> None:
    case = Case()
    seen = sure(case.arms.missed("next", 3, 0.1, 5.0))
    assert (seen.failed, seen.is_canary, seen.user, seen.at) == (True, True, 3, 5.0)
    assert case.arms.counted["next"].failed == 1


def test_without_prices_failures_are_told_and_latencies_not() -> None:
    case = Case()
    case.frozen = None  # type: ignore[assignment]
    assert math.isnan(sure(case.seen("next")).ttft)
    assert sure(case.seen("next", ended="error_event")).failed


def test_only_the_stable_arm_teaches() -> None:
    case = Case()
    before = case.frozen.to_state()
    case.seen("next")
    assert case.frozen.to_state() == before
    case.seen("stable")
    assert case.frozen.to_state() != before


def test_counts_go_on_from_where_they_were() -> None:
    case = Case()
    case.seen("next", ended="error_event")
    other = Arms(route())
    other.restore(case.arms.to_state())  # type: ignore[arg-type]
    assert other.counted == case.arms.counted
    for broken in ({}, {"stable": {}}, {"stable": {"requests": -1}}, {"stable": {"requests": "1"}}):
        with pytest.raises((KeyError, ValueError, TypeError)):
            other.restore(broken)  # type: ignore[arg-type]


def test_shares_of_the_arms_come_to_one() -> None:
    views: Any = Arms(route()).view(0.25)
    assert [(view["arm"], view["share"]) for view in views] == [("stable", 0.75), ("next", 0.25)]


def test_a_client_that_reads_slowly_makes_no_arm_slow() -> None:
    case = Case()
    slowly = sure(case.seen("next", duration=300.0, reads_slowly=True))
    assert math.isnan(slowly.tpot) and slowly.ttft == pytest.approx(0.0, abs=0.05), "its first token was not held up"
    whole = sure(case.seen("next", duration=300.0, ttft=math.nan, reads_slowly=True))
    assert math.isnan(whole.tpot) and math.isnan(whole.ttft)


def test_clients_who_choose_their_arm_cannot_fail_it_with_paths_that_no_server_has() -> None:
    case = Case(sticky=Sticky("session"))
    lost: dict[str, Any] = {"status": 404, "ttft": math.nan}
    assert (
        case.seen("next", path="/v1/rerank", **lost) is None and case.seen("stable", path="/v1/rerank", **lost) is None
    )
    case.seen("stable", path="/v1/chat/completions")
    assert sure(case.seen("next", path="/v1/chat/completions", **lost)).failed, "its model is called otherwise there"
    case.seen("next", path="/v1/score")
    assert sure(case.seen("next", path="/v1/score", **lost)).failed, "it had that before"
    assert case.seen("stable", path="/v1/score", **lost) is None, "the others never had it"
    drawn = Case(sticky=Sticky("key"))
    assert sure(drawn.seen("next", path="/v1/rerank", **lost)).failed


def test_how_many_paths_are_remembered_is_bounded() -> None:
    case = Case(sticky=Sticky("session"))
    for number in range(2 * PATHS):
        case.seen("stable", path=f"/{number}")
    assert len(case.arms._answered["stable"]) == PATHS
