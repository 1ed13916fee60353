"""Prompts go where they fit; only what surely fits nowhere is refused."""

from __future__ import annotations

import pytest

from gateway.config.types import model_to
from gateway.context import SURELY, fitting
from gateway.core.errors import BadRequest
from tests.support.client import chat
from tests.support.gateway import one
from tests.support.loop import on_uvloop

POOLS = ("short", "long", "unknown")
LENGTHS = {"short": 1000, "long": 8000}


def fit(prompt: float, answer: int | None = None, most: int | None = None, pools: tuple[str, ...] = POOLS) -> list[str]:
    return list(fitting(pools, "m", most, lambda pool, name: LENGTHS.get(pool), prompt, answer))


def test_a_pool_whose_servers_take_less_is_passed_over() -> None:
    assert fit(900.0) == ["short", "long", "unknown"]
    assert fit(900.0, 200) == ["long", "unknown"], "the answer needs room, too"
    assert fit(9000.0) == ["unknown"], "who has not said may take it"


def test_an_estimate_refuses_nobody_that_may_fit_after_all() -> None:
    pools = ("short", "long")
    assert fit(8000.0 / SURELY - 10.0, pools=pools) == ["short", "long"], "the engine counts, and decides"
    with pytest.raises(BadRequest) as caught:
        fit(8000.0 / SURELY + 10.0, pools=pools)
    assert caught.value.code == "context_length_exceeded" and "8000" in caught.value.message


def test_what_the_operator_wrote_counts_before_what_servers_say() -> None:
    assert fit(3000.0, most=4000) == ["short", "long", "unknown"]
    with pytest.raises(BadRequest):
        fit(6000.0, most=4000)


@on_uvloop
async def test_a_prompt_that_fits_nowhere_is_a_clear_400() -> None:
    model = model_to("m", "p", max_context=100)
    said, gateway = await one(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\ncontent-length: %d\r\n\r\n%b"
        % (len(body := chat("m", messages=[{"role": "user", "content": "word " * 2000}])), body),
        models=[model],
    )
    assert said.status == 400 and said.error["code"] == "context_length_exceeded"
    record = gateway.last
    assert record.route is not None and record.route.pools == ()
