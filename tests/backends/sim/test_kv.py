"""The block pool: counts, sharing and eviction."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.sim.kv import BlockPool


def held(pool: BlockPool, *keys: int) -> None:
    """Take blocks and give them content."""
    pool.take(len(keys))
    assert pool.name(keys) == list(keys)


def test_a_cached_block_nobody_uses_looks_free() -> None:
    pool = BlockPool(4)
    held(pool, 1, 2)
    assert pool.usage == 0.5
    pool.release([1, 2], 0)
    assert pool.usage == 0.0
    assert pool.match([1, 2, 3], 3) == (2, 2)


def test_only_a_leading_run_matches() -> None:
    pool = BlockPool(4)
    held(pool, 1, 3)
    assert pool.match([1, 2, 3], 3) == (1, 0)
    assert pool.match([2, 3], 2) == (0, 0)
    assert pool.match([1, 3], 1) == (1, 0)


def test_the_oldest_unused_content_goes_first_and_the_end_of_a_prompt_before_its_beginning() -> None:
    pool = BlockPool(4)
    held(pool, 1, 2)
    held(pool, 3, 4)
    pool.release([1, 2], 0)
    pool.release([3, 4], 0)
    pool.take(1)
    assert pool.match([1, 2], 2) == (1, 1)
    pool.take(1)
    assert pool.match([1], 1) == (0, 0)
    assert pool.match([3, 4], 2) == (2, 2)


def test_content_in_use_is_never_evicted() -> None:
    pool = BlockPool(2)
    held(pool, 1)
    pool.hold([1])
    pool.release([1], 0)
    pool.take(1)
    with pytest.raises(ValueError, match="1 blocks wanted, 0 free"):
        pool.take(1)
    assert pool.match([1], 1) == (1, 0)


def test_a_second_copy_of_the_same_content_stays_blank() -> None:
    pool = BlockPool(4)
    held(pool, 1)
    pool.take(1)
    assert not pool.name([1])
    pool.release([1], 1)
    assert pool.free == 4
    assert pool.cached == 1


def test_forgetting_drops_only_what_is_unused() -> None:
    pool = BlockPool(4)
    held(pool, 1)
    held(pool, 2)
    pool.release([2], 0)
    pool.forget()
    assert pool.match([1], 1) == (1, 0)
    assert pool.match([2], 1) == (0, 0)
    assert pool.free == 3


def test_contents_nobody_can_look_up_are_kept_and_evicted_one_by_one_behind_their_prompt() -> None:
    pool = BlockPool(6)
    held(pool, 1, 2)
    pool.take(3)
    pool.release([1, 2], 0, 3)
    assert (pool.free, pool.blank, pool.cached) == (6, 1, 5)
    pool.take(1)
    assert (pool.free, pool.blank, pool.cached) == (5, 0, 5)
    pool.take(2)
    assert pool.match([1, 2], 2) == (2, 2)
    pool.take(2)
    assert pool.match([1, 2], 2) == (1, 1)
    pool.release([], 5)
    assert (pool.free, pool.blank, pool.cached) == (6, 5, 1)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 6)), max_size=60))
def test_blocks_are_neither_lost_nor_made(moves: list[tuple[int, int]]) -> None:
    pool = BlockPool(24)
    owners: list[list[int]] = []
    for family, length in moves:
        keys = [family * 10 + i for i in range(length)]
        hits, free = pool.match(keys, length)
        if length - hits > pool.free - free:
            if owners:
                pool.release(owners.pop(0), 0)
            continue
        pool.hold(keys[:hits])
        pool.take(length - hits)
        named = pool.name(keys[hits:])
        mine = [*keys[:hits], *named]
        pool.release([], length - hits - len(named))
        owners.append(mine)
        in_use = len({key for keys in owners for key in keys})
        assert pool.free + in_use == pool.capacity
    for mine in owners:
        pool.release(mine, 0)
    assert pool.free == pool.capacity
