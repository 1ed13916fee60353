"""The iteration-time table."""

import json
import math
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


ENTRY = {"base": 6.5, "knee1": 128, "knee2": 512, "slope1": 0.01, "slope2": 0.02, "slope3": 0.03, "pair": 1e-6,
         "seq": 0.01, "ctx": 4e-5}  # fmt: skip


def test_a_path_to_a_json_file_stands_for_a_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({**ENTRY, "about": "my own"}))
    mine = profile(str(path))
    assert (mine.name, mine.model, mine.base, mine.knee2, mine.kv_tokens) == ("mine", "mine", 6.5, 512, 0)
    path.write_text(json.dumps({**ENTRY, "name": "x", "model": "m", "kv_tokens": 1000}))
    mine = profile(str(path))
    assert (mine.name, mine.model, mine.kv_tokens) == ("x", "m", 1000)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "one JSON object"),
        ("{}", "missing: base, knee1, knee2, slope1"),
        ({"slpoe1": 1}, "unknown key 'slpoe1'"),
        ({"base": "6"}, "base: a number is expected"),
        ({"base": True}, "base: a number is expected"),
        ({"knee1": 1.5}, "knee1: a whole number is expected"),
        ({"name": 3}, "name: a text is expected"),
        ({"pair": -1}, "pair: must be a number from 0"),
        ({"pair": math.nan}, "pair: must be a number from 0"),
        ({"ctx": 10**400}, "ctx: must be a number from 0"),
        ({"base": 0}, "base: must be above 0"),
        ({"knee1": 600}, "knee1 must not be beyond knee2"),
    ],
)
def test_a_file_that_holds_no_profile_is_refused_with_the_reason(
    tmp_path: Path, text: str | dict[str, object], reason: str
) -> None:
    path = tmp_path / "mine.json"
    path.write_text(text if isinstance(text, str) else json.dumps({**ENTRY, **text}))
    with pytest.raises(UnknownProfile) as refused:
        profile(str(path))
    assert reason in str(refused.value) and "mine.json" in str(refused.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownProfile, match="No such file"):
        profile(str(tmp_path / "mine.json"))


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
