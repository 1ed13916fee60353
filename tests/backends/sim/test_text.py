"""Tokens are four bytes, both ways."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.sim import text


@pytest.mark.parametrize(("length", "tokens"), [(0, 1), (1, 1), (4, 1), (5, 2), (4000, 1000), (4001, 1001)])
def test_a_prompt_is_a_quarter_of_its_bytes_rounded_up(length: int, tokens: int) -> None:
    assert text.count_tokens(b"x" * length) == tokens


@given(st.binary(max_size=200), st.binary(max_size=200), st.binary(max_size=200))
def test_prompts_share_keys_exactly_as_far_as_they_share_full_blocks(head: bytes, one: bytes, two: bytes) -> None:
    a, b = head + one, head + two
    keys_a, keys_b = text.block_keys(a, 4), text.block_keys(b, 4)
    common = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    shared = next((i for i, (x, y) in enumerate(zip(keys_a, keys_b, strict=False)) if x != y), None)
    assert (min(len(keys_a), len(keys_b)) if shared is None else shared) == common // 16


@given(st.text().filter(lambda s: not s.endswith("\0")))
def test_decoding_gives_back_what_was_encoded(value: str) -> None:
    raw = value.encode()
    assert text.decode(text.encode(raw)) == raw
    assert len(text.encode(raw)) == -(-len(raw) // 4)


def test_a_number_that_is_no_token_is_refused() -> None:
    for bad in (-1, 2**32):
        with pytest.raises(ValueError, match="token ids"):
            text.decode([bad])


@given(st.integers(0, 10_000), st.integers(0, 9000))
def test_an_answer_is_its_tokens_put_together(start: int, count: int) -> None:
    speaker = text.Speaker(1)
    whole = speaker.text(start, count)
    assert len(whole.encode()) == 4 * count
    for index in {0, count // 2, count - 1} if count else set():
        assert whole[4 * index : 4 * index + 4] == speaker.token(start, index)


def test_words_need_no_escapes_in_json() -> None:
    assert all(token.isascii() and token.replace(" ", "").isalpha() for token in text.Speaker(3).tokens)
