"""How a piece of work went, in the dispatcher's words, for every way a request can end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from math import isnan, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.answers import TryFailed
from gateway.config.types import Key
from gateway.core.errors import BadRequest, HeadwayError, NoEndpoint, Refused, UpstreamError
from gateway.jobs.collected import MOST, Collected
from gateway.jobs.execute import Again, Done, End, Execution, GaveWay, usage_of
from gateway.jobs.model import Claim, Usage
from gateway.jobs.retry import FAILURES, SATURATED

CLAIM = Claim("1", 1, "me", "batch_req_1", "acme", "async", "m", "/v1/chat/completions", b"{}", 2e9, displaced=2)


class Performer:
    """Answers by calling `play` with the reply."""

    def __init__(self, play: Callable[[Collected], None], key: Key | None = None):
        self.play = play
        self.key = key
        self.seen: tuple[object, ...] = ()

    def key_of(self, digest: bytes | None, tenant: str) -> Key | None:
        return self.key

    async def perform(self, path: str, body: bytes, fields: tuple[tuple[bytes, bytes], ...], key: Key, klass: str,
                      request_id: str, deadline: float, reply: Collected, sent: Callable[[], None],
                      aborted: int) -> None:  # fmt: skip
        self.seen = (key, klass, request_id, deadline, aborted)
        sent()
        self.play(reply)


def run(play: Callable[[Collected], None], claim: Claim = CLAIM, key: Key | None = None) -> tuple[End, Performer]:
    performer = Performer(play, key)
    return asyncio.run(Execution(lambda: performer).run(claim, claim.klass, lambda: None)), performer


def failing(error: Exception) -> End:
    def play(reply: Collected) -> None:
        raise error

    return run(play)[0]


def answering(status: int, body: bytes = b"{}", kind: bytes = b"application/json") -> End:
    return run(lambda reply: reply.send(status, b"content-type: %b\r\n" % kind, body))[0]


def test_an_answer_is_kept_with_its_kind_and_its_usage() -> None:
    body = b'{"usage":{"prompt_tokens":7,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":3}}}'
    end = answering(200, body, b"application/json; charset=utf-8")
    assert isinstance(end, Done) and end.result.ok
    assert (end.result.body, end.result.content_type) == (body, "application/json; charset=utf-8")
    assert end.result.usage == Usage(7, 3, 5, 0)
    assert end.result.request_id == "batch_req_1"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 415, 422])
def test_a_client_error_is_final_at_once(status: int) -> None:
    end = answering(status, b'{"error":{}}')
    assert isinstance(end, Done) and not end.result.ok and end.result.status == status


def test_a_request_the_gateway_itself_refuses_for_good_is_final_with_a_body_clients_know() -> None:
    end = failing(BadRequest("too many answers", code="invalid_value", param="n"))
    assert isinstance(end, Done) and end.result.status == 400
    assert json.loads(end.result.body)["error"]["code"] == "invalid_value"


@pytest.mark.parametrize(("error", "whose", "most", "after"), [
    (NoEndpoint("none"), "model", 0, 1.0),
    (BadRequest("gone with a reload", status=404, code="model_not_found"), "model", 0, nan),
    (Refused("full", reason="queue_full", retry_after=3.0), "model", 0, 3.0),
    (Refused("limit", reason="tenant_limit", retry_after=7.0), "tenant", 0, 7.0),
    (UpstreamError("stopping", cause="stopping"), "item", 0, nan),
    (UpstreamError("refused", cause="refused", sent=False), "model", 0, nan),
    (UpstreamError("broke", cause="closed"), "item", FAILURES, nan),
    (TryFailed("busy", cause="saturated", answer=(503, [(b"retry-after", b"9")], b"")), "model", SATURATED, 9.0),
    (TryFailed("a date", cause="saturated", answer=(503, [(b"retry-after", b"Fri")], b"")), "model", SATURATED, nan),
    (TryFailed("crashed", cause="status_500", answer=(500, [], b"oops")), "item", FAILURES, nan),
    (HeadwayError("unknown"), "item", FAILURES, nan),
    (KeyError("a bug"), "item", FAILURES, nan),
])  # fmt: skip
def test_what_may_be_tried_again(error: Exception, whose: str, most: int, after: float) -> None:
    end = failing(error)
    assert isinstance(end, Again)
    assert (end.whose, end.most) == (whose, most)
    assert end.after == after or (isnan(end.after) and isnan(after))


def test_the_engines_last_word_becomes_the_result_if_it_is_given_up() -> None:
    answer = (500, [(b"content-type", b"text/plain")], b"oops")
    end = failing(TryFailed("crashed", cause="status_500", answer=answer))
    assert isinstance(end, Again)
    assert (end.result.status, end.result.body, end.result.content_type) == (500, b"oops", "text/plain")


def test_a_refusal_that_will_never_change_is_final() -> None:
    error = Refused("too late", reason="deadline")
    error.should_retry = False
    end = failing(error)
    assert isinstance(end, Done) and end.result.error == ("deadline", "too late")


def test_a_line_of_a_batch_that_is_too_late_has_expired() -> None:
    error = Refused("too late", reason="deadline")
    error.should_retry = False

    def play(reply: Collected) -> None:
        raise error

    end, _ = run(play, replace(CLAIM, batch_id="batch_1"))
    assert isinstance(end, Done) and end.result.error is not None and end.result.error[0] == "batch_expired"


def test_what_had_to_make_room_gave_way() -> None:
    assert isinstance(failing(UpstreamError("room", cause="displaced")), GaveWay)


def test_an_answer_that_broke_off_is_a_failed_try() -> None:
    def breaks(reply: Collected) -> None:
        reply.start(200, b"", None, b"some")
        reply.cut()

    end, _ = run(breaks)
    assert isinstance(end, Again) and end.most == FAILURES


def test_an_answer_too_large_to_keep_is_final() -> None:
    def floods(reply: Collected) -> None:
        reply.start(200, b"", None)
        for _ in range(MOST // (1 << 20) + 1):
            reply.write(b"x" * (1 << 20))
        reply.end()

    end, _ = run(floods)
    assert isinstance(end, Done) and end.result.error is not None and end.result.error[0] == "answer_too_large"


@pytest.mark.parametrize("status", [408, 409, 425, 429])
def test_not_now_is_tried_again(status: int) -> None:
    assert isinstance(answering(status), Again)


def test_work_runs_with_its_key_whatever_classes_that_may_ask_for_now() -> None:
    key = Key(b"d" * 32, "acme", classes=frozenset(("interactive",)))
    _, performer = run(lambda reply: reply.send(200, b"", b"{}"), key=key)
    used, klass, request_id, deadline, aborted = performer.seen
    assert isinstance(used, Key) and (used.digest, used.classes) == (key.digest, None)
    assert (klass, request_id, aborted) == ("async", "batch_req_1", 2)
    assert isinstance(deadline, float) and deadline > 0


def test_work_whose_key_was_taken_away_is_done_for_its_tenant() -> None:
    _, performer = run(lambda reply: reply.send(200, b"", b"{}"))
    assert isinstance(performer.seen[0], Key) and performer.seen[0].tenant == "acme"


def test_an_answers_usage_is_read_in_the_words_of_responses_too() -> None:
    body = b'{"usage":{"input_tokens":4,"output_tokens":9,"output_tokens_details":{"reasoning_tokens":2}}}'
    assert usage_of(body) == Usage(4, 0, 9, 2)


@given(st.binary(max_size=200) | st.integers().map(lambda n: b'{"usage":{"input_tokens":%d}}' % n))
def test_any_bytes_have_a_usage(body: bytes) -> None:
    assert 0 <= usage_of(body).input_tokens < 1 << 62


_DEEP = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize("body", [_DEEP, b'{"\xff":1}', b'{"usage":{"\xff":1}}'])
def test_an_answer_no_decoder_can_take_is_kept_and_not_run_again(body: bytes) -> None:
    """It raised past the executor, and the work stood still until its lease ended, three times."""
    end = answering(200, body)
    assert isinstance(end, Done) and end.result.body == body and end.result.usage == Usage()
