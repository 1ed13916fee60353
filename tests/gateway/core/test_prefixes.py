"""Who probably holds a prefix: what matches, what is forgotten, and how far it is believed."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import prefixes
from gateway.core.prefixes import ENDS, GROWTH, LONGEST, SMALLEST, PrefixIndex, hash_blocks


def make_prompt(seed: int, size: int = 4096) -> bytes:
    return random.Random(seed).randbytes(size)


def after(blocks: int) -> float:
    """The length of a match of so many blocks: to the middle of the next one."""
    return (ENDS[blocks - 1] + ENDS[blocks]) / 2


# --- blocks --------------------------------------------------------------------------------------------------------


def test_blocks_are_never_longer_than_a_sixteenth_of_what_is_before_them():
    starts = (0, *ENDS)
    for start, end in zip(starts, ENDS, strict=False):
        assert end - start == SMALLEST or end - start <= start / GROWTH
    assert ENDS[-1] >= LONGEST and len(ENDS) < 128


def test_prompts_share_the_blocks_of_their_common_prefix_and_no_other():
    a, b = make_prompt(1), make_prompt(2)
    cut = 1500
    first, second = hash_blocks(a), hash_blocks(a[:cut] + b[cut:])
    same = sum(1 for end in ENDS if end <= cut)
    assert first[:same] == second[:same]
    assert not set(first[same:]) & set(second[same:])


def test_a_block_after_a_difference_is_another_block_even_if_its_bytes_are_equal():
    a = make_prompt(1)
    b = bytes([a[0] ^ 1]) + a[1:]
    assert not set(hash_blocks(a)) & set(hash_blocks(b))


def test_another_model_has_other_blocks():
    prompt = make_prompt(1)
    assert not set(hash_blocks(prompt, "base")) & set(hash_blocks(prompt, "adapter"))


@pytest.mark.parametrize("size", [0, 1, SMALLEST - 1])
def test_a_prompt_shorter_than_a_block_has_none(size):
    assert hash_blocks(b"x" * size) == []


def test_only_whole_blocks_are_hashed_and_what_is_too_long_is_cut():
    assert len(hash_blocks(b"x" * SMALLEST)) == 1
    assert len(hash_blocks(b"x" * (2 * SMALLEST - 1))) == 1
    assert len(hash_blocks(b"x" * 1_000_000)) == len(ENDS)


@given(st.binary(max_size=3000), st.binary(max_size=500))
def test_the_blocks_of_a_prompt_begin_the_blocks_of_what_continues_it(prompt, more):
    blocks = hash_blocks(prompt)
    assert hash_blocks(prompt + more)[: len(blocks)] == blocks


# --- matching ------------------------------------------------------------------------------------------------------


def test_nobody_holds_a_prompt_that_was_never_sent():
    index = PrefixIndex()
    assert index.match(hash_blocks(make_prompt(1)), 4).tolist() == [0, 0, 0, 0]
    index.insert(hash_blocks(make_prompt(2)), 1)
    assert index.match(hash_blocks(make_prompt(1)), 4).tolist() == [0, 0, 0, 0]
    assert index.match([], 4).tolist() == [0, 0, 0, 0]


def test_each_row_matches_as_far_as_its_own_longest_prefix():
    index, prompt = PrefixIndex(), make_prompt(1, 4096)
    index.insert(hash_blocks(prompt[:1024]), 0)
    index.insert(hash_blocks(prompt[:2048]), 2)
    index.insert(hash_blocks(prompt), 5)
    assert index.match(hash_blocks(prompt), 8).tolist() == [1088, 0, 2112, 0, 0, after(len(hash_blocks(prompt))), 0, 0]
    assert index.match(hash_blocks(prompt[:1500]), 8).tolist() == [1088, 0, 1472, 0, 0, 1472, 0, 0]


def test_a_row_whose_beginning_is_gone_matches_nothing():
    index, chains = PrefixIndex(), hash_blocks(make_prompt(1))
    index.insert(chains, 0)
    index.withdraw(chains[:1], 0)
    assert index.match(chains, 1).tolist() == [0]


def test_many_rows_at_once():
    index, chains = PrefixIndex(), hash_blocks(make_prompt(1))
    for row in range(0, 1000, 3):
        index.insert(chains, row)
    matched = index.match(chains, 1000)
    assert (matched[::3] == after(len(chains))).all()
    assert np.count_nonzero(matched) == len(range(0, 1000, 3))


def test_a_match_may_be_told_as_a_share_of_the_prompt():
    index, prompt = PrefixIndex(), make_prompt(1, 2048)
    index.insert(hash_blocks(prompt[:1024]), 0)
    index.insert(hash_blocks(prompt), 2)
    assert index.match(hash_blocks(prompt), 3, 2048).tolist() == [1088 / 2048, 0.0, 1.0]  # no more than all of it
    assert index.match(hash_blocks(make_prompt(2)), 3, 2048).tolist() == [0.0] * 3


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(1, 12)), max_size=40))
def test_the_index_agrees_with_a_plain_record_of_what_was_sent(sent):
    index, record = PrefixIndex(), []
    prompts = [make_prompt(seed, 2048) for seed in range(4)]
    for row, which, blocks in sent:
        prompt = prompts[which][: ENDS[blocks - 1]]
        index.insert(hash_blocks(prompt), row)
        record.append((row, prompt))
    for prompt in prompts:
        expected = np.zeros(6)
        for row, old in record:
            if prompt.startswith(old):
                expected[row] = max(expected[row], len(old) + SMALLEST / 2)
        np.testing.assert_array_equal(index.match(hash_blocks(prompt), 6), expected)


# --- forgetting ----------------------------------------------------------------------------------------------------


def test_memory_is_bounded_and_what_was_used_last_is_kept():
    index = PrefixIndex(max_blocks=100)
    kept = hash_blocks(make_prompt(0, 2048))
    for seed in range(1, 200):
        index.insert(hash_blocks(make_prompt(seed, 2048)), seed % 8)
        index.insert(kept, 3)
        assert len(index) <= 100
    assert index.match(kept, 8)[3] == 2112
    assert not index.match(hash_blocks(make_prompt(1, 2048)), 8).any()


def test_of_a_chain_the_end_is_forgotten_first():
    index = PrefixIndex(max_blocks=20)
    old = hash_blocks(make_prompt(0, 2048))
    index.insert(old, 0)
    index.insert(hash_blocks(make_prompt(1, 1280)), 1)
    assert index.match(old, 2).tolist() == [after(10), 0]


def test_a_row_that_was_forgotten_holds_nothing_and_neither_does_its_successor():
    index, chains = PrefixIndex(), hash_blocks(make_prompt(1))
    index.insert(chains, 0)
    index.insert(chains, 1)
    index.forget(0)
    assert index.match(chains, 2).tolist() == [0, after(len(chains))]
    index.insert(hash_blocks(make_prompt(2)), 0)
    assert index.match(chains, 2)[0] == 0
    index.forget(7)  # never seen


def test_endpoints_may_come_and_go_for_ever():
    index, shared = PrefixIndex(max_blocks=2000), hash_blocks(make_prompt(1, 1024))
    for round_ in range(1000):
        row = round_ % 5
        index.forget(row)
        assert index.match(shared, 5)[row] == 0
        index.insert(shared, row)
        index.insert(hash_blocks(make_prompt(round_, 1024)), row)
        assert index.match(shared, 5).tolist() == [1088 if at <= round_ else 0 for at in range(5)]
    assert index._bits < 5 + 4 * prefixes.SWEEP_AT


def test_what_did_not_arrive_is_taken_back():
    index, chains = PrefixIndex(), hash_blocks(make_prompt(1))
    index.insert(chains, 0)
    index.insert(chains, 1)
    index.withdraw(chains, 0)
    index.withdraw(chains, 9)
    assert index.match(chains, 2).tolist() == [0, after(len(chains))]


# --- believing -----------------------------------------------------------------------------------------------------


def test_nothing_is_discounted_before_anything_was_learnt():
    assert PrefixIndex().reliability(3).tolist() == [1.0, 1.0, 1.0]


def test_an_engine_without_a_cache_soon_gets_no_credit_and_the_others_keep_theirs():
    index = PrefixIndex()
    for _ in range(100):
        index.learn(0, 1000.0, 0.0)
        index.learn(1, 1000.0, 990.0)
    trust = index.reliability(3)
    assert trust[0] < 0.05
    assert trust[1] == pytest.approx(0.99, abs=0.01)
    assert trust[2] == 1.0


def test_trust_follows_a_change():
    index = PrefixIndex()
    for _ in range(1000):
        index.learn(0, 1000.0, 0.0)
    for _ in range(600):
        index.learn(0, 1000.0, 1000.0)
    assert index.reliability(1)[0] > 0.9


@pytest.mark.parametrize(("predicted", "cached"), [(0.0, 100.0), (100.0, float("nan")), (float("nan"), 1.0)])
def test_what_says_nothing_teaches_nothing(predicted, cached):
    index = PrefixIndex()
    index.learn(0, predicted, cached)
    assert index.reliability(1)[0] == 1.0


def test_more_than_predicted_is_no_more_than_right():
    index = PrefixIndex()
    index.learn(0, 1000.0, 5000.0)
    assert index.reliability(1)[0] == 1.0


def test_trust_in_a_row_goes_with_its_endpoint():
    index = PrefixIndex()
    index.insert(hash_blocks(make_prompt(1)), 20)
    index.learn(20, 50_000.0, 0.0)
    assert index.reliability(21)[20] < 0.1
    index.forget(20)
    assert index.reliability(21)[20] == 1.0
