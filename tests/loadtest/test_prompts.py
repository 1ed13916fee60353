"""Tests of loadtest/prompts.py: exact lengths, shared prefixes, request bodies."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.prompts import TOKEN_BYTES, PromptMaker
from loadtest.workload import Item

MAKER = PromptMaker(seed=5)


def shared_tokens(a: str, b: str) -> int:
    same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return same // TOKEN_BYTES


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40_000), st.integers(0, 30), st.sampled_from([0, 1, 16, 512]), st.integers(0, 10**6))
def test_a_prompt_is_exactly_as_long_as_asked(tokens: int, blocks: int, size: int, number: int) -> None:
    item = Item(0.0, tokens, 1, block_size=size, blocks=tuple(range(blocks)) if size else ())
    text = MAKER.text(item, number)
    assert len(text) == tokens * TOKEN_BYTES and text.isascii()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 6), st.integers(1, 6), st.sampled_from([16, 64, 512]))
def test_two_prompts_share_exactly_their_leading_block_ids(common: int, own: int, size: int) -> None:
    head = tuple(range(common))
    first = Item(0.0, (common + own) * size, 1, block_size=size, blocks=head + tuple(range(100, 100 + own)))
    second = Item(0.0, (common + own) * size, 1, block_size=size, blocks=head + tuple(range(200, 200 + own)))
    shared = shared_tokens(MAKER.text(first, 1), MAKER.text(second, 2))
    assert common * size <= shared < common * size + 8  # a few equal words may follow, a block cannot


def test_prompts_without_blocks_share_no_cache_block() -> None:
    texts = [MAKER.text(Item(0.0, 300, 1), number) for number in range(500)]
    assert len({text[: 16 * TOKEN_BYTES] for text in texts}) == 500


def test_a_left_out_last_block_is_the_requests_own_text() -> None:
    item = Item(0.0, 40, 1, block_size=16, blocks=(1, 2))
    assert shared_tokens(MAKER.text(item, 1), MAKER.text(item, 2)) < 40
    assert MAKER.text(item, 1)[: 32 * 4] == MAKER.text(item, 2)[: 32 * 4]


def test_the_same_seed_and_number_make_the_same_text_and_another_seed_another() -> None:
    item = Item(0.0, 100, 1)
    assert MAKER.text(item, 3) == PromptMaker(5).text(item, 3) != PromptMaker(6).text(item, 3)


def test_the_body_asks_for_exactly_the_answer_length_in_the_form_of_the_path() -> None:
    item = Item(0.0, 10, 25)
    chat = json.loads(MAKER.body(item, 1, "m", "/v1/chat/completions"))
    assert chat["messages"][0]["content"] == MAKER.text(item, 1)
    assert (chat["model"], chat["max_tokens"], chat["ignore_eos"], chat["stream"]) == ("m", 25, True, True)
    assert chat["stream_options"] == {"include_usage": True}
    plain = json.loads(MAKER.body(item, 1, "m", "/v1/completions", stream=False))
    assert plain["prompt"] == MAKER.text(item, 1) and "stream" not in plain and "stream_options" not in plain
    messages = json.loads(MAKER.body(item, 1, "m", "/v1/messages"))
    assert messages["stream"] and "stream_options" not in messages
