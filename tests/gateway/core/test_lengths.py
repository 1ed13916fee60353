"""Lengths learnt from what engines report: who borrows from whom, limits, and what is left of a long answer."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.lengths import ROUTES, TENANTS, Lengths

CHAT = "/v1/chat/completions"


def taught(tenant: str, outputs: list[float], lengths: Lengths | None = None, route: str = CHAT) -> Lengths:
    lengths = lengths or Lengths()
    for output in outputs:
        lengths.learn(route, tenant, 3000, 1000, output)
    return lengths


def test_an_unknown_model_starts_with_four_bytes_a_token_and_a_bounded_answer() -> None:
    lengths = Lengths()
    assert abs(lengths.prompt_tokens(4000) - 1000.0) <= 1.0 and lengths.prompt_tokens(0) == 1.0
    assert lengths.expected(CHAT, "a") == pytest.approx(200.0)
    assert 15.0 < lengths.expected(CHAT, "a", 16) <= 16.0
    assert lengths.expected(CHAT, "a", 0) == lengths.expected(CHAT, "a", 1) == 1.0


def test_both_follow_what_is_counted() -> None:
    lengths = taught("a", [50.0] * 500)
    assert abs(lengths.prompt_tokens(3000) - 1000.0) < 20.0
    assert abs(lengths.prompt_tokens(3000, CHAT, "a") - 1000.0) < 2.0
    assert abs(lengths.expected(CHAT, "a") - 50.0) < 1.0


def test_a_tenants_few_answers_count_a_little_and_its_many_count_alone() -> None:
    lengths = taught("usual", [100.0] * 400)
    assert lengths.expected(CHAT, "new") == pytest.approx(lengths.expected(CHAT, "usual"), rel=0.1)
    seen = [lengths.expected(CHAT, "new")]
    for _ in range(100):
        taught("new", [1000.0], lengths)
        seen.append(lengths.expected(CHAT, "new"))
    assert 200.0 < seen[1] < 350.0 and seen[-1] > 930.0
    assert lengths.expected(CHAT, "usual") < 250.0  # another's answers move only what is borrowed


def test_a_route_nobody_used_borrows_from_its_model_and_another_tenant_from_its_route() -> None:
    lengths = taught("a", [20.0] * 300, route="/v1/completions")
    taught("a", [800.0] * 300, lengths)
    assert lengths.expected("/v1/completions", "b") < 40.0 < 700.0 < lengths.expected(CHAT, "b")
    assert 40.0 < lengths.expected("/v1/messages", "b") < 800.0


def test_each_tenants_prompts_are_measured_by_its_own_and_the_long_ones_count_most() -> None:
    lengths = Lengths()
    for _ in range(100):
        lengths.learn(CHAT, "english", 9000, 2000, -1)
        lengths.learn(CHAT, "japanese", 3000, 2000, -1)
    assert lengths.prompt_tokens(9000, CHAT, "english") == pytest.approx(2000.0, rel=0.02)
    assert lengths.prompt_tokens(3000, CHAT, "japanese") == pytest.approx(2000.0, rel=0.02)
    assert 1000.0 < lengths.prompt_tokens(3000, CHAT, "somebody") < 1200.0
    for _ in range(100):
        lengths.learn(CHAT, "english", 40, 30, -1)  # a template around a word
    assert lengths.prompt_tokens(9000, CHAT, "english") == pytest.approx(2000.0, rel=0.05)


def test_a_shift_of_workload_is_followed() -> None:
    lengths = taught("a", [100.0] * 1000)
    taught("a", [400.0] * 300, lengths)
    assert lengths.expected(CHAT, "a") > 300.0


def test_under_a_limit_short_answers_stay_short() -> None:
    lengths = taught("a", [10.0, 1000.0] * 300)
    assert lengths.expected(CHAT, "a", 100) == pytest.approx(55.0, rel=0.1)  # not 100, though the mean is 505
    assert lengths.expected(CHAT, "a", 10**400) == lengths.expected(CHAT, "a", None)


def test_what_is_left_of_a_heavy_tail_grows_with_its_age() -> None:
    random = Random(3)
    lengths = taught("a", [random.lognormvariate(5.0, 1.2) for _ in range(2000)])
    left = [lengths.remaining(CHAT, "a", written) for written in (100.0, 300.0, 1000.0, 3000.0)]
    assert left == sorted(left) and left[0] > 200.0


def test_what_is_left_of_an_answer_of_usual_length_shrinks_to_nothing_and_under_its_limit() -> None:
    lengths = taught("a", [200.0] * 2000)
    left = [lengths.remaining(CHAT, "a", written) for written in (0.0, 50.0, 100.0, 180.0)]
    assert left == sorted(left, reverse=True) and left[0] == pytest.approx(200.0, rel=0.05)
    assert left[1] == pytest.approx(150.0, rel=0.1)
    assert lengths.remaining(CHAT, "a", 100.0, limit=110) <= 10.0
    assert lengths.remaining(CHAT, "a", 110.0, limit=110) == 1.0


def test_what_was_not_counted_teaches_nothing() -> None:
    lengths = Lengths()
    lengths.learn(CHAT, "a", 1000, -1, 0)
    lengths.learn(CHAT, "a", 0, 10, -1)
    lengths.learn(CHAT, "a", 0, math.nan, math.nan)
    assert lengths.prompt_tokens(4000, CHAT, "a") == 1001.0 and lengths.expected(CHAT, "a") == pytest.approx(200.0)


def test_memory_is_bounded_and_the_longest_unused_goes_first() -> None:
    lengths = taught("kept", [50.0] * 50)
    for i in range(2 * TENANTS):
        taught(f"t{i}", [500.0], lengths, route=f"/r{i % (2 * ROUTES)}")
        if i % 32 == 0:
            taught("kept", [50.0], lengths)
    assert len(lengths._tenants) == TENANTS and len(lengths._routes) == ROUTES
    assert lengths.expected(CHAT, "kept") < 80.0


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(-1, 10**7), st.integers(-1, 10**7)), max_size=30))
def test_no_count_however_odd_makes_an_estimate_that_is_not_a_number(counts: list[tuple[int, int, int]]) -> None:
    lengths = Lengths()
    for size, prompt, output in counts:
        lengths.learn(CHAT, "a", size, prompt, output)
    for tenant in ("a", "b"):
        assert 1000 / 16 <= lengths.prompt_tokens(1000, CHAT, tenant) <= 2001.0
    for limit in (None, -5, 1, 7, 200, 10**6):
        assert 1.0 <= lengths.expected(CHAT, "a", limit) <= max(1.0, math.inf if limit is None else limit)
        for written in (0.0, 1.0, 150.0, 10.0**5, 10.0**9):
            assert 1.0 <= lengths.remaining(CHAT, "a", written, limit) < math.inf


@given(st.lists(st.floats(1.0, 3e5), min_size=1, max_size=200), st.integers(2, 10**6))
def test_a_tighter_limit_never_makes_an_answer_longer(outputs: list[float], limit: int) -> None:
    lengths = taught("a", outputs)
    tight, loose = lengths.expected(CHAT, "a", limit), lengths.expected(CHAT, "a", 2 * limit)
    assert tight <= loose * (1.0 + 1e-9) and loose <= lengths.expected(CHAT, "a") * (1.0 + 1e-9)


def test_ten_thousand_answers_lose_no_precision() -> None:
    lengths = taught("a", [100.0, 300.0] * 50_000)
    assert lengths.expected(CHAT, "a") == pytest.approx(200.0, rel=0.02)
