"""What is told of an admission: nothing of who went at once, and of others what an operator can act on."""

import json
import math

import pytest
from msgspec.structs import replace

from gateway import explain
from gateway.ask import Facts
from gateway.config.types import Pick, QueueRule, TrafficClass
from gateway.core import grounds
from gateway.core.errors import BadRequest, HeadwayError, NoEndpoint, Refused
from gateway.core.grounds import Grounds
from gateway.core.types import Request
from gateway.decisions import describe
from gateway.records import Admission, RequestRecord
from gateway.told import admission_of
from gateway.words import CLOSED, WAITED_FOR
from tests.gateway.test_admit import PATIENT, held, one_waits
from tests.support.client import post
from tests.support.gateway import config, pool
from tests.support.loop import on_uvloop, until
from tests.support.waiting import waits

REQUEST = Request("r", "m", 0.0, ttft_slo=0.5, tpot_slo=0.04, deadline=20.0)
RECORD = RequestRecord("r1", 1_700_000_000.25, 429, "rejected", model="llama", code="slo", ttft_slo=0.5)


def refused(reason: str = "slo", after: float | None = 3.6, **figures: object) -> Refused:
    error = Refused("the promised latency cannot be kept right now", reason=reason, retry_after=after)
    error.should_retry = after is not None
    error.grounds = Grounds("gpu", ("promise",), **({"waited": 0.0, "queued": 0} | figures))  # type: ignore[arg-type]
    return error


def told(error: HeadwayError | None = None, request: Request | None = REQUEST, **noted: object) -> Admission | None:
    facts = Facts()
    for name, value in noted.items():
        setattr(facts, name, value)
    return admission_of(facts, request, error)


def why(error: Refused, request: Request = REQUEST) -> str:
    found = told(error, request)
    assert found is not None
    return found.why


def test_of_who_went_at_once_nothing_is_told() -> None:
    assert told() is None
    assert told(BadRequest("no")) is None
    assert told(refused(), request=None) is None


def test_a_refusal_sets_what_was_predicted_against_what_was_promised() -> None:
    assert why(refused(ttft=0.812, tpot=0.038, share=0.85)) == (
        "the promised latency cannot be kept right now; first token predicted within 812 ms, promised 500 ms; "
        "per token predicted 38 ms, promised 40 ms (servers are filled to 85% of it); come back in 4 s"
    )
    assert "promised" not in why(refused(ttft=0.812, tpot=0.038), Request("r", "m", 0.0)).partition(";")[2]


def test_a_refusal_on_arrival_tells_what_was_ahead() -> None:
    text = why(refused("queue_full", queued=14, ahead=3.2, left=0.4))
    assert "14 of its class waited, those before it for about 3.20 s more, and it could wait 400 ms" in text
    assert "14 of its class waited; come back" in why(refused("queue_full", queued=14))


def test_a_refusal_after_a_wait_tells_how_long_and_for_what() -> None:
    error = refused(waited=0.48, ttft=0.6, queued=3)
    assert error.grounds is not None
    error.grounds = error.grounds._replace(lacked=("choice", "room"))
    assert "first token predicted within 600 ms after 480 ms of waiting, promised 500 ms" in why(error)
    assert "waited 480 ms for a better choice, then room" in why(error)


def test_of_a_deadline_it_tells_what_was_left_and_what_it_would_have_taken() -> None:
    assert "the whole answer predicted to take 12.00 s, its deadline in 8.00 s" in why(
        refused("deadline", whole=12.0, deadline=8.0)
    )
    assert "its deadline had passed; trying again cannot help" in why(refused("deadline", after=None, deadline=-1.0))


def test_a_refusal_that_no_desk_made_has_its_own_words() -> None:
    assert why(NoEndpoint("nobody is there", retry_after=2.0)) == "nobody is there; come back in 2 s"
    limit = Refused("over the limit of 100 requests a second", reason="tenant_limit", retry_after=0.2)
    assert why(limit) == "over the limit of 100 requests a second; come back in 1 s"


def test_the_record_has_it_in_figures_and_leaves_out_what_is_not_known() -> None:
    noted = told(refused(ttft=0.8), waited_for=("turn",), closed=(("a", "pace"), ("b", "pace"), ("c", "room")))
    shown = describe(replace(RECORD, admission=noted))
    json.dumps(shown, allow_nan=False)
    admission = shown["admission"]
    assert isinstance(admission, dict)
    assert admission["waited_for"] == ["turn", "promise"]
    assert admission["closed"] == {"pace": ["a", "b"], "room": ["c"]}
    figures = admission["refused"]
    assert (figures["pool"], figures["ttft"], figures["tpot"], figures["retry_after"]) == ("gpu", 0.8, None, 3.6)
    assert describe(RECORD)["admission"] is None
    gone = describe(replace(RECORD, admission=told(aborted=2)))["admission"]
    assert gone == {"waited_for": [], "displaced": 2, "closed": {}, "refused": None}


def test_explain_says_it_in_words() -> None:
    closed = (("a", "pace"), ("b", "pace"), ("c", "prompt"))
    noted = told(None, waited_for=("bounds", "turn"), closed=closed, aborted=1)
    text = explain.render(describe(replace(RECORD, queued=2.5, code="", admission=noted)))
    assert text.splitlines()[3:7] == [
        "waited 2.50 s for a place where it does not slow others down, then its turn",
        "closed to it: a, b, because the others' tokens would come too slowly",
        "closed to it: c, because its prompt would be in the way of the next first tokens",
        "taken off its endpoint to make room: once",
    ]
    text = explain.render(describe(replace(RECORD, admission=told(refused(ttft=0.8)))))
    assert "refused: the promised latency cannot be kept right now; first token predicted within 800 ms" in text
    assert "not sent to any endpoint: slo" in text


def test_every_word_that_is_noted_has_its_words_for_people() -> None:
    named = {value for name, value in vars(grounds).items() if name.isupper() and isinstance(value, str)}
    assert set(WAITED_FOR) == named
    assert all(CLOSED.values())


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, 1e9])
def test_any_figures_can_be_told(value: float) -> None:
    figures = dict.fromkeys(("waited", "ahead", "left", "ttft", "tpot", "whole", "deadline", "share"), value)
    assert why(refused(**figures)).endswith("come back in 4 s")
    json.dumps(describe(replace(RECORD, admission=told(refused(**figures)))), allow_nan=False)


# --- in a gateway -------------------------------------------------------------------------------------------------


@on_uvloop
async def test_who_waited_for_room_has_it_in_its_record_and_who_went_at_once_has_nothing() -> None:
    async with one_waits(lambda up: config(pool([up], max_concurrency=1))) as (gateway, slow, first, second, _):
        slow.gate.set()
        await first.answer()
        await second.answer()
        await gateway.settled(2)
        records = gateway.records.all
        assert [record.admission for record in records] == [None, Admission(("room",))]


@on_uvloop
async def test_who_was_held_for_a_better_choice_has_that() -> None:
    async with one_waits(lambda up: config(pool([up], pick=Pick(PATIENT, {"wait": 60.0})))) as found:
        gateway, slow, first, second, _ = found
        slow.gate.set()
        await first.answer()
        await second.answer()
        await gateway.settled(2)
        assert gateway.last.admission == Admission(("choice",))


@on_uvloop
async def test_one_too_many_is_told_how_many_waited() -> None:
    classes = {"interactive": TrafficClass("interactive", default=True, queue=QueueRule(limit=1))}
    made = lambda up: config(pool([up], max_concurrency=1), classes=classes)  # noqa: E731
    async with one_waits(made) as (gateway, slow, first, second, _), gateway.client() as third:
        third.send(post())
        assert (await third.answer()).status == 429
        assert held(gateway) == 1
        await until(lambda: len(gateway.records.all) == 1)
        noted = gateway.last.admission
        assert noted is not None and noted.grounds is not None
        assert noted.grounds.queued == 1 and "1 of its class waited" in noted.why
        slow.gate.set()
        await first.answer()
        await second.answer()


def test_that_a_tenant_gives_way_is_told_first() -> None:
    waiting = waits()
    waiting.note("room", None)
    waiting.note("turn", None)
    waiting.note("room", None)
    assert waiting.wanted == ("room", "turn")
    waiting.behind = True
    assert waiting.wanted == ("share", "room", "turn")
    waiting.late = True  # which puts it behind, too
    assert waiting.wanted == ("room", "turn")
