"""The answers that are kept: the last ones of every size, and nothing of an endpoint that is gone."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.window import (
    CONTEXT,
    COUNT,
    DECODING,
    PAIRS,
    REST,
    RING,
    ROW,
    SECONDS,
    SIZE,
    STEPS,
    TOKENS,
    WIDTH,
    WORKED,
    Window,
)


def add_first(window: Window, tokens: float, row: int = 0, seconds: float = 1.0) -> None:
    window.add_first(row, seconds, 0.1, tokens, 3.0, 900.0, tokens * 2.0)


def add_rest(window: Window, decoding: float, row: int = 0, seconds: float = 1.0) -> None:
    window.add_rest(row, seconds, 50.0, decoding, 900.0, [1.0, 2.0, 3.0, 4.0])


def kept_first(window: Window) -> list[float]:
    return sorted(window.first[window.full_first > 0.0, SECONDS].tolist())


def kept_rest(window: Window) -> list[float]:
    return sorted(window.rest[window.full_rest > 0.0, SECONDS].tolist())


def test_what_is_kept_of_an_answer_stands_in_its_column() -> None:
    window = Window()
    add_first(window, 700.0, row=4, seconds=0.25)
    found = window.first[window.full_first > 0.0][0]
    columns = (ROW, COUNT, SECONDS, REST, TOKENS, DECODING, CONTEXT, PAIRS)
    assert found[list(columns)].tolist() == [4.0, 1.0, 0.25, 0.1, 700.0, 3.0, 900.0, 1400.0]
    add_rest(window, 5.5, row=2, seconds=3.0)
    found = window.rest[window.full_rest > 0.0][0]
    columns = (ROW, COUNT, SECONDS, STEPS, DECODING, CONTEXT, PAIRS)
    assert found[list(columns)].tolist() == [2.0, 2.0, 3.0, 50.0, 5.5, 900.0, 4.0]
    assert found[WORKED:].tolist() == [1.0, 2.0, 3.0] and len(found) == WIDTH


def test_a_night_of_short_prompts_does_not_make_the_long_ones_forgotten() -> None:
    window = Window()
    for i in range(10):
        add_first(window, 9000.0, seconds=100.0 + i)
        add_rest(window, 200.0, seconds=100.0 + i)
    for _ in range(5000):
        add_first(window, 100.0)
        add_rest(window, 2.0)
    assert kept_first(window) == [1.0] * RING + [100.0 + i for i in range(10)]
    assert kept_rest(window) == [1.0] * RING + [100.0 + i for i in range(10)]
    assert window.count == 10_020


@pytest.mark.parametrize(("one", "other"), [(63, 64), (127, 128), (511, 512), (2047, 2048), (4095, 4096)])
def test_prompts_are_told_apart_by_doubling(one: float, other: float) -> None:
    window = Window()
    add_first(window, one, seconds=7.0)
    for _ in range(RING):
        add_first(window, other)
    assert 7.0 in kept_first(window)
    for _ in range(RING):
        add_first(window, one)
    assert 7.0 not in kept_first(window)


sizes = st.floats(0.0, 1e6)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.booleans(), sizes, st.integers(0, 3), st.booleans()), max_size=400), st.integers(1, 60))
def test_it_holds_the_last_answers_of_each_size_whatever_comes(answers: list, times: int) -> None:
    """Against a list of deques; some endpoints are forgotten on the way."""
    window = Window()
    model: dict[tuple[bool, int], deque] = {}
    seconds = 0.0
    for is_first, size, row, forget in answers[: times * 8]:
        seconds += 1.0
        if forget and size < 100.0:
            window.forget(row)
            for ring in model.values():
                for i, (kept, _) in enumerate(ring):
                    if kept == row:
                        ring[i] = (None, None)
        elif is_first:
            add_first(window, size, row, seconds)
            stratum = min(7, max(0, int(size).bit_length() - 6))
            model.setdefault((True, stratum), deque(maxlen=RING)).append((row, seconds))
        else:
            add_rest(window, size, row, seconds)
            model.setdefault((False, min(7, int(size).bit_length())), deque(maxlen=RING)).append((row, seconds))
    for is_first, kept in ((True, kept_first(window)), (False, kept_rest(window))):
        expected = [s for (kind, _), ring in model.items() if kind is is_first for row, s in ring if row is not None]
        assert kept == sorted(expected)
    assert window.first.shape == window.rest.shape == (SIZE, WIDTH)


def test_an_endpoint_that_is_gone_leaves_nothing_and_takes_nothing_of_others() -> None:
    window = Window()
    for row in (0, 1, 0, 2):
        add_first(window, 300.0, row, seconds=row + 1.0)
        add_rest(window, 4.0, row, seconds=row + 1.0)
    window.forget(0)
    assert kept_first(window) == kept_rest(window) == [2.0, 3.0]
    window.forget(7)
    assert kept_first(window) == [2.0, 3.0]
    add_first(window, 300.0, row=0, seconds=9.0)
    assert kept_first(window) == [2.0, 3.0, 9.0]
    assert np.isfinite(window.first).all()
