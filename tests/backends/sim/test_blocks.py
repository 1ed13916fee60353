"""What a generation holds: its shared blocks by key, its own as numbers until it is preempted."""

from backends.sim.blocks import Blocks
from backends.sim.generation import Generation, SimRequest
from backends.sim.kv import BlockPool


def made(blocks: Blocks, serial: int, prompt: int, keys: int = 0, grow: bool = True) -> Generation:
    """A generation with its whole prompt in the cache."""
    g = Generation(SimRequest(str(serial), prompt, 100, [("p", i) for i in range(keys)]), serial, 0.0)
    if grow:
        blocks.adopt(g, blocks.find(g)[0])
        blocks.grow(g, prompt)
        g.computed = prompt
    return g


def test_a_prompts_blocks_are_found_by_the_next_with_the_same_keys() -> None:
    blocks = Blocks(BlockPool(20), 16, True)
    made(blocks, 1, 100, keys=4)
    assert blocks.find(made(blocks, 2, 100, keys=6, grow=False)) == (4, 0)
    assert blocks.find(made(blocks, 3, 64, keys=6, grow=False)) == (3, 0)  # its last token must be computed


def test_own_blocks_are_numbers_and_leave_their_content_behind_in_one_piece() -> None:
    pool = BlockPool(20)
    blocks = Blocks(pool, 16, True)
    g = made(blocks, 1, 100, keys=4)
    assert (len(g.names), g.blank, g.named, g.room) == (4, 3, 6, 112)
    blocks.release(g)
    assert (pool.free, pool.blank, pool.cached) == (20, 14, 6)
    pool.take(16)
    assert pool.cached == 4  # its own went first


def test_a_preempted_one_finds_its_own_blocks_again_and_loses_those_that_were_needed() -> None:
    pool = BlockPool(20)
    blocks = Blocks(pool, 16, True)
    g = made(blocks, 1, 100, keys=4)
    blocks.lend(g)
    assert g.preemptions == 1
    assert blocks.find(g) == (6, 6)
    pool.take(15)
    assert blocks.find(g) == (5, 5)
    blocks.adopt(g, 5)
    assert (g.computed, pool.free) == (80, 0)


def test_the_next_block_of_a_decode_lets_the_last_one_be_found() -> None:
    pool = BlockPool(20)
    blocks = Blocks(pool, 16, True)
    g = made(blocks, 1, 16, keys=3)
    other = made(blocks, 2, 16)
    for named in (1, 2, 3, 4):
        blocks.grow_decodes([g, other])
        assert (g.room, g.named, len(g.names)) == (16 * named + 16, named, min(named, 3))
        assert (other.room, other.named, other.names) == (16 * named + 16, named, [])
    assert pool.free == 10


def test_without_caching_nothing_is_named_found_or_left() -> None:
    pool = BlockPool(20)
    blocks = Blocks(pool, 16, False)
    g = made(blocks, 1, 100, keys=4)
    blocks.grow_decodes([g])
    blocks.lend(g)
    assert blocks.find(g) == (0, 0)
    assert (pool.blank, pool.cached) == (20, 0)
