"""The reader of metrics pages: exact names, sums over series, and nothing believed that cannot be true."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.samples import MAX_BYTES, MAX_SERIES, Samples, ScrapeError, parse_labels


def cause(body: bytes, name: str = "x", wanted: tuple[str, ...] = ("x",)) -> str:
    with pytest.raises(ScrapeError) as caught:
        Samples(body, wanted).total(name)
    return caught.value.cause


def test_a_name_counts_only_as_a_whole():
    samples = Samples(b'x_by_reason{reason="a"} 7\nx 1\nx_created 9\nnot_x 5\nx:y 6\n', ["x"])
    assert samples.values("x") == [1.0]


def test_comments_are_not_values():
    assert cause(b"# HELP x 5\n# TYPE x gauge\n#x 5\ny 1\n") == "missing"


def test_a_missing_series_raises_and_is_never_zero():
    assert cause(b"y 1\n") == "missing"
    assert cause(b"") == "missing"
    assert not Samples(b"", ["x"])


def test_a_name_that_was_not_wanted_is_missing():
    assert cause(b"y 1\n", name="y") == "missing"


def test_series_are_summed_and_the_highest_and_the_mean_are_known():
    samples = Samples(b'x{engine="0"} 4\nx{engine="1"} 2\n', ["x"])
    assert (samples.total("x"), samples.highest("x"), samples.mean("x")) == (6.0, 4.0, 3.0)


def test_series_can_be_chosen_by_label():
    samples = Samples(b'x{kind="used",m="a"} 4\nx{m="a",kind="max"} 8\nx{kind="used",m="b"} 1\n', ["x"])
    assert samples.total("x", kind="used") == 5.0
    with pytest.raises(ScrapeError):
        samples.total("x", kind="free")


def test_the_same_series_twice_is_one_and_the_last_stands():
    assert Samples(b'x{a="1"} 4\nx{a="1"} 2\n', ["x"]).total("x") == 2.0


ABSURD = ["NaN", "Nan", "nan", "+Inf", "-Inf", "inf", "-1", "1e308", "1e16", "1_0", "abc", "9" * 80]


@pytest.mark.parametrize("value", ABSURD)
def test_a_value_that_cannot_be_true_is_counted_and_makes_its_name_unusable(value):
    samples = Samples(f'x{{e="0"}} 3\nx{{e="1"}} {value}\ny 1\n'.encode(), ["x", "y"])
    assert samples.bad == 1
    assert not samples.has("x")
    assert "x" in samples
    assert samples.total("y") == 1.0
    with pytest.raises(ScrapeError) as caught:
        samples.total("x")
    assert caught.value.cause == "bad_value"


@pytest.mark.parametrize("line", [
    b"x 5", b"x\t5", b"x 5 1700000000000", b"x{} 5", b'x{a="}"} 5', b'x{a="b c",} 5', b'x{a="q\\"}1"} 5', b"x 5\r",
    b'x {a="1"} 5', b"x 5.0e0", b"x +5", b'x{a="\xff"} 5',
])  # fmt: skip
def test_the_shapes_a_line_may_have(line):
    assert Samples(b"y 1\n" + line + b"\nz 2\n", ["x"]).total("x") == 5.0


@pytest.mark.parametrize("line", [b"x", b"x ", b'x{a="1" 5', b'x{a="1}5', b"x5", b"x 5 six", b"x=5"])
def test_a_broken_line_is_no_value(line):
    assert cause(b"y 1\n" + line + b"\nz 2\n") == "missing"


@pytest.mark.parametrize("body", [b"<!DOCTYPE html><html>x 1</html>", b'{"x": 1}', b"\x00\x01", b"\x1f\x8b\x08x"])
def test_what_is_not_a_page_of_metrics_is_garbage(body):
    assert cause(body) == "garbage"


def test_a_page_over_the_limit_is_refused():
    assert cause(b"x 1\n" * (MAX_BYTES // 4 + 1)) == "too_big"


def test_a_flood_of_series_is_refused():
    assert cause(b"".join(b'x{i="%d"} 1\n' % i for i in range(MAX_SERIES + 1))) == "too_many_series"


def test_the_newest_series_is_the_one_with_the_largest_time():
    samples = Samples(b'x{l=""} 1.7951e+09\nx{l="a,b"} 1.7959e+09\nx{l="a"} 1.7955e+09\n', ["x"])
    assert samples.newest("x") == {"l": "a,b"}


def test_labels_are_read_with_their_escapes():
    assert parse_labels(rb'a="x\"y",b="c\\d",c="e\nf"') == {"a": 'x"y', "b": "c\\d", "c": "e\nf"}


LABEL_VALUES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r"), max_size=12)
VALUES = st.floats(0.0, 1e15, allow_nan=False)


@given(st.dictionaries(LABEL_VALUES, VALUES, min_size=1, max_size=8))
def test_what_was_written_is_read_back(series):
    def escaped(text: str) -> str:
        return text.replace("\\", "\\\\").replace('"', '\\"')

    page = "".join(f'x{{a="{escaped(label)}"}} {value!r}\n' for label, value in series.items())
    samples = Samples(page.encode(), ["x"])
    assert sorted(value for _, value in samples.each("x")) == sorted(series.values())
    assert {labels["a"] for labels, _ in samples.each("x")} == set(series)


@given(st.binary(max_size=300))
def test_no_page_does_anything_but_read_or_raise_a_scrape_error(body):
    try:
        samples = Samples(b"# page\n" + body + b"\nx" + body, ["x", "y"])
        total = samples.total("x")
    except ScrapeError:
        return
    assert total >= 0.0


SIGNS = [b"x", b"{", b"}", b'"', b"\\", b" ", b"\n", b"1", b"a=", b",", b"NaN", b"#"]


@given(st.lists(st.sampled_from(SIGNS), max_size=60))
def test_no_arrangement_of_the_signs_confuses_the_reader(pieces):
    try:
        total = Samples(b"# page\n" + b"".join(pieces), ["x"]).total("x")
    except ScrapeError:
        return
    assert total >= 0.0
