"""What fits a condition, and when one condition takes all that another takes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.known import covers, fits, path_fits
from gateway.core.routes import Text
from policies.routing.when import matcher


@pytest.mark.parametrize(
    ("text", "takes", "leaves"),
    [
        (Text(("a", "b")), ("a", "b"), ("", "ab", "A")),
        (Text((), ("ab",)), ("ab", "abc"), ("a", "xab")),
        (Text((), (), ("a+",)), ("a", "aaa"), ("", "ab", "ba")),
        (Text(unlike=Text(("a",))), ("b", ""), ("a",)),
        (Text((), ("a",), unlike=Text(("ab",))), ("a", "ac"), ("ab", "b")),
        (Text(), ("", "x"), ()),
    ],
)  # fmt: skip
def test_a_text_fits_or_not(text: Text, takes: tuple[str, ...], leaves: tuple[str, ...]) -> None:
    assert all(fits(text, value) for value in takes)
    assert not any(fits(text, value) for value in leaves)


WORDS = st.text("ab", max_size=3)
PLAIN = st.builds(Text, *(st.lists(WORDS, max_size=2).map(tuple) for _ in range(2)))
TEXTS = st.builds(Text, *(st.lists(WORDS, max_size=2).map(tuple) for _ in range(2)),
                  st.lists(st.sampled_from(["a*", "b+", ".*"]), max_size=1).map(tuple), st.none() | PLAIN)  # fmt: skip


@given(TEXTS, WORDS)
def test_what_fits_here_fits_where_requests_are_routed(text: Text, value: str) -> None:
    assert fits(text, value) == matcher(text)(value)


@given(st.none() | TEXTS, st.none() | TEXTS, st.none() | WORDS)
def test_what_covers_another_takes_all_that_it_takes(wide: Text | None, narrow: Text | None, value: str | None) -> None:
    if covers(wide, narrow) and (narrow is None or matcher(narrow)(value)):
        assert wide is None or matcher(wide)(value)


def test_a_template_stands_for_one_segment() -> None:
    assert path_fits("/v2/models/{model}/infer", "/v2/models/a.b-c/infer")
    assert not path_fits("/v2/models/{model}/infer", "/v2/models/a/b/infer")
    assert not path_fits("/v2/models/{model}/infer", "/v2/models//infer")
