"""The query of a list: `limit`, `after`, `order`, `purpose`; and the list as OpenAI's clients page through it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from gateway.core.errors import BadRequest
from gateway.jobs.base import Order
from gateway.jobs.model import Page

_NUMBER = re.compile(r"[0-9]{1,6}")

T = TypeVar("T")


class Query:
    """One query. What is unknown is ignored; what is known and makes no sense raises BadRequest."""

    def __init__(self, raw: bytes):
        try:
            pairs = parse_qsl(raw[1:].decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=20)
        except ValueError:
            raise BadRequest("the query is malformed", code="invalid_query") from None
        self._named = dict(pairs)
        if len(self._named) != len(pairs):
            raise BadRequest("a parameter of the query is repeated", code="invalid_query")

    def limit(self, usual: int, most: int) -> int:
        said = self._named.get("limit")
        if said is None:
            return usual
        if _NUMBER.fullmatch(said) is None or not 1 <= int(said) <= most:
            raise BadRequest(f"`limit` is a number from 1 to {most}", code="invalid_value", param="limit")
        return int(said)

    def after(self) -> str | None:
        return self._named.get("after") or None

    def order(self) -> Order:
        said = self._named.get("order", "desc")
        if said == "asc":
            return "asc"
        if said == "desc":
            return "desc"
        raise BadRequest("`order` is asc or desc", code="invalid_value", param="order")

    def purpose(self) -> str | None:
        return self._named.get("purpose") or None


def listed(page: Page[T], shape: Callable[[T], dict[str, Any]]) -> dict[str, Any]:
    """A page as JSON."""
    data = [shape(one) for one in page.data]
    return {
        "object": "list", "data": data, "has_more": page.has_more,
        "first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None,
    }  # fmt: skip
