"""The query of a list."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import BadRequest
from gateway.jobs.model import Page
from gateway.jobs.query import Query, listed


def test_what_is_not_said_is_as_usual() -> None:
    for raw in (b"", b"?", b"?unknown=1", b"?after="):
        query = Query(raw)
        assert (query.limit(20, 100), query.after(), query.order(), query.purpose()) == (20, None, "desc", None)


def test_what_is_said_is_read() -> None:
    query = Query(b"?limit=7&after=file-1&order=asc&purpose=batch%5Foutput")
    assert (query.limit(20, 100), query.after(), query.order(), query.purpose()) == (7, "file-1", "asc", "batch_output")


@pytest.mark.parametrize("raw", [b"?limit=0", b"?limit=101", b"?limit=x", b"?limit=-1", b"?limit=1e2", b"?limit=",
                                 b"?order=up", b"?order="])  # fmt: skip
def test_what_makes_no_sense_is_refused(raw: bytes) -> None:
    query = Query(raw)
    with pytest.raises(BadRequest) as caught:
        query.limit(20, 100)
        query.order()
    assert caught.value.param in ("limit", "order")


@given(st.binary(max_size=60).filter(lambda raw: b"#" not in raw))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    try:
        query = Query(b"?" + raw)
        query.after()
        query.limit(1, 2)
    except BadRequest:
        pass


def test_a_page_names_its_ends() -> None:
    page = listed(Page(("a", "b"), True), lambda id_: {"id": id_})
    assert page == {
        "object": "list",
        "data": [{"id": "a"}, {"id": "b"}],
        "has_more": True,
        "first_id": "a",
        "last_id": "b",
    }
    empty: Page[str] = Page((), False)
    assert listed(empty, lambda id_: {"id": id_})["first_id"] is None
