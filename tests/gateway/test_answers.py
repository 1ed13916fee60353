"""What a client may see of an engine's answer, and what the engine's words make of a failed try."""

from __future__ import annotations

import pytest

from backends.base import Meaning
from gateway.answers import failed, forwardable


def test_hop_by_hop_and_our_own_fields_are_not_forwarded() -> None:
    dropped = (b"connection", b"transfer-encoding", b"content-length", b"x-request-id", b"x-headway-a",
               b"endpoint-load-metrics")  # fmt: skip
    sent = [*((name, b"x") for name in dropped), (b"content-type", b"text/plain"), (b"x-b", b"c")]
    assert forwardable(sent) == b"content-type: text/plain\r\nx-b: c\r\n"


@pytest.mark.parametrize(
    ("meaning", "cause"),
    [(Meaning.SATURATED, "saturated"), (Meaning.LEAVING, "leaving"), (Meaning.FAILED, "status_500")],
)
def test_what_the_engine_means_is_the_cause_and_its_words_are_kept(meaning: Meaning, cause: str) -> None:
    error = failed("status_500", (500, [], b"oops"), meaning)
    assert (error.cause, error.answer) == (cause, (500, [], b"oops"))
