"""The iteration-time table."""

import json
from pathlib import Path

import pytest
import yaml

from backends.sim.profiles import FILE, UnknownProfile, names, profile

FITS = Path(__file__).resolve().parents[4] / "shared" / "data" / "engine_profiles.yaml"


def test_there_are_twenty_five_profiles_and_their_names_say_what_they_are() -> None:
    assert len(names()) == 25
    for name in names():
        p = profile(name)
        assert name.removesuffix("-measured").endswith(f"_{p.precision}_tp{p.tp}")
        assert p.model in name


def test_the_table_says_where_every_figure_comes_from() -> None:
    table = json.loads(FILE.read_text())
    assert {row["source"] for row in table["profiles"].values()} == set(table["attribution"])


@pytest.mark.skipif(not FITS.is_file(), reason="the fits are not beside this checkout")
def test_every_coefficient_is_the_one_that_was_published() -> None:
    fits = yaml.safe_load(FITS.read_text())["profiles"]
    assert set(fits) == set(names())
    for name, fit in fits.items():
        p, terms, overhead = profile(name), fit["iteration"], fit["overhead"]
        assert (p.knee1, p.knee2) == (terms["knee1_tokens"], terms["knee2_tokens"])
        for term in ("base", "slope1", "slope2", "slope3", "pair", "prefix", "seq", "ctx"):
            assert getattr(p, term) == terms[f"{term}_ms"], (name, term)
        assert (p.overhead_iter, p.overhead_seq) == (overhead["iter_ms"], overhead["seq_ms"])
        assert p.kv_tokens == fit["kv"]["kv_capacity_tokens"]


def test_an_unknown_name_is_answered_with_close_ones() -> None:
    with pytest.raises(UnknownProfile, match=r"h100_llama-3\.1-8b_bf16_tp1"):
        profile("h100_llama-8b_bf16_tp1")


def test_a_part_of_a_name_is_answered_with_those_that_have_it_and_nonsense_with_all() -> None:
    with pytest.raises(UnknownProfile, match=r"close names: rtxpro6000_\S+, rtxpro6000_\S+$"):
        profile("RTXPRO6000")
    with pytest.raises(UnknownProfile) as refused:
        profile("?")
    assert all(name in str(refused.value) for name in names())


def test_an_iteration_is_the_sum_of_its_terms() -> None:
    p = profile("h100_llama-3.1-8b_bf16_tp1")
    tokens, context = 1000 + 10, 10 * 500
    expected = p.base + p.slope1 * p.knee1 + p.slope2 * (p.knee2 - p.knee1) + p.slope3 * (tokens - p.knee2)
    expected += p.pair * 1000 * (64 + 500) + p.prefix * 64 + p.seq * 10 + p.ctx * context
    expected += p.overhead_iter + p.overhead_seq * 11
    got = p.seconds(tokens, 1000 * (64 + 500), 64, 1, 10, context)
    assert got == pytest.approx(expected / 1e3)


def test_the_slopes_meet_at_the_knees() -> None:
    for name in names():
        p = profile(name)
        for knee in (p.knee1, p.knee2):
            below, above = (p.seconds(n, 0.0, 0, 1, 0, 0) for n in (knee, knee + 1))
            assert 0 <= above - below <= 2 * max(p.slope1, p.slope2, p.slope3) * 1e-3


def test_a_decode_step_of_an_h100_takes_what_the_readme_of_the_data_says() -> None:
    p = profile("h100_llama-3.1-8b_bf16_tp1")
    assert p.seconds(32, 0.0, 0, 0, 32, 32 * 1000) == pytest.approx(8.7e-3, rel=0.1)
