import pytest

from loadtest.lab.cluster import build, keys
from loadtest.lab.scenario import Group, Scenario
from loadtest.workload import Item

ITEM = Item(0.0, 70, 1, block_size=32, blocks=(5, 6, 9))


def test_engines_are_built_group_after_group() -> None:
    stations = build(Scenario("x", groups=(Group(count=2, chunk=512), Group(count=1, pace=((0.0, 2.5),)))), 1)
    assert [station.engine.options.max_batched_tokens for station in stations] == [512, 512, 2048]
    assert [station.engine.pace for station in stations] == [1.0, 1.0, 2.5]
    assert [station.endpoint().id for station in stations] == ["engine-0", "engine-1", "engine-2"]


def test_a_page_says_nothing_of_who_came_since() -> None:
    (station,) = build(Scenario("x", groups=(Group(count=1),)), 1)
    load = station.load(3.0)
    assert (load.at, load.waiting, load.running, load.kv_used) == (3.0, 0.0, 0.0, 0.0)
    assert load.kv_capacity == station.engine.capacity_tokens()


def test_full_blocks_have_keys() -> None:
    assert keys(ITEM, 32) == (5, 6)
    assert keys(Item(0.0, 70, 1), 32) == ()


def test_a_larger_block_is_known_by_its_last_part_and_a_smaller_one_by_its_place() -> None:
    assert keys(ITEM, 64) == (6,)
    assert keys(ITEM, 128) == ()
    assert keys(ITEM, 16) == ((5, 0), (5, 1), (6, 0), (6, 1))


def test_blocks_that_do_not_divide_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="blocks of 32 tokens"):
        keys(ITEM, 24)
