"""Conditions: what each looks at, what absence means, and hours over midnight and over changes of the clocks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.routes import Hours, Span, Text, When
from policies.routing import Asked
from policies.routing.when import LONGEST, conditions, described, matcher
from tests.policies.routing.asking import asked

BERLIN = ZoneInfo("Europe/Berlin")


def fits(when: When, question: Asked) -> bool:
    return all(condition.fits(question) for condition in conditions(when))


def test_without_conditions_everything_fits() -> None:
    assert conditions(When()) == ()


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [
        (Text(exact=("a", "b")), ["a", "b"], ["", "A", "ab", None]),
        (Text(prefix=("x-", "y")), ["x-", "x-1", "yes"], ["", "ax-", "X-1", None]),
        (Text(regex=("[0-9]+", "a|b")), ["1", "12", "a", "b"], ["", "1x", "ab", "1\n", None]),
        (Text(exact=("a",), prefix=("b",), regex=("c+",)), ["a", "bx", "cc"], ["ax", "d", None]),
        (Text(), ["", "anything"], [None]),
        (Text(unlike=Text(exact=("a",))), ["b", "", None], ["a"]),
        (Text(prefix=("a",), unlike=Text(exact=("ab",))), ["a", "ac"], ["ab", "b", None]),
        (Text(unlike=Text()), [None], ["", "a"]),
        (Text(unlike=Text(unlike=Text(exact=("a",)))), ["a"], ["b", None]),
        (Text(regex=("(?i)acme",)), ["ACME", "acme"], ["acme2", None]),
    ],
)
def test_a_text_is_what_it_must_be(text: Text, good: list[str | None], bad: list[str | None]) -> None:
    matches = matcher(text)
    assert [matches(value) for value in good] == [True] * len(good)
    assert [matches(value) for value in bad] == [False] * len(bad)


def test_a_text_that_is_too_long_fits_no_pattern_and_may_still_be_exact_or_a_prefix() -> None:
    long = "a" * (LONGEST + 1)
    assert matcher(Text(regex=("a*",)))(long[1:]) and not matcher(Text(regex=("a*",)))(long)
    assert matcher(Text(exact=(long,)))(long) and matcher(Text(prefix=("aa",)))(long)


@given(st.text(max_size=4) | st.none(), st.text(max_size=2), st.text(max_size=2))
def test_not_is_the_opposite_of_what_it_denies_and_absence_is_no_text(
    value: str | None, exact: str, prefix: str
) -> None:
    wanted = Text(exact=(exact,), prefix=(prefix,))
    assert matcher(wanted)(value) is (value is not None and (value == exact or value.startswith(prefix)))
    assert matcher(Text(unlike=wanted))(value) is not matcher(wanted)(value)


@pytest.mark.parametrize(
    ("when", "good", "bad"),
    [
        (When(path=Text(prefix=("/v1/",))), {"path": "/v1/completions"}, {"path": "/v2/x"}),
        (When(tenant=Text(exact=("acme",))), {"tenant": "acme"}, {"tenant": "other"}),
        (When(klass=Text(exact=("async",))), {"klass": "async"}, {"klass": "interactive"}),
        (When(name=Text(prefix=("gpt-",))), {"name": "gpt-4"}, {"name": "llama"}),
        (When(key=Text(exact=("sha256:01",))), {"key": "sha256:01"}, {"key": ""}),
        (When(key=Text(unlike=Text(exact=("sha256:01",)))), {"key": ""}, {"key": "sha256:01"}),
        (When(key=Text()), {"key": "sha256:01"}, {"key": ""}),
        (When(stream=True), {"stream": True}, {"stream": False}),
        (When(stream=False), {"stream": False}, {"stream": True}),
        (When(prompt=Span(at_least=8000)), {"prompt_tokens": 8000.0}, {"prompt_tokens": 7999.5}),
        (When(prompt=Span(below=10)), {"prompt_tokens": 9.9}, {"prompt_tokens": 10.0}),
        (When(prompt=Span(0, 10)), {"prompt_tokens": 0.0}, {"prompt_tokens": float("nan")}),
    ],
)
def test_each_condition_looks_at_its_own_field(when: When, good: dict[str, Any], bad: dict[str, Any]) -> None:
    assert fits(when, asked(**good)) and not fits(when, asked(**bad))


def test_headers_are_looked_up_by_name_and_all_conditions_must_hold() -> None:
    when = When(header={"x-team": Text(exact=("research",)), "x-beta": Text(unlike=Text(exact=("no",)))}, stream=True)
    assert fits(when, asked({"x-team": "research"}, stream=True))
    assert not fits(when, asked({"x-team": "research"}))
    assert not fits(when, asked({"x-team": "research", "x-beta": "no"}, stream=True))
    assert not fits(when, asked({"x-beta": "yes"}, stream=True))


def at(year: int, month: int, day: int, hour: int, minute: int = 0, *, fold: int = 0) -> Asked:
    """Berlin's wall clock."""
    return asked(clock=datetime(year, month, day, hour, minute, tzinfo=BERLIN, fold=fold).timestamp())


def night(*days: int) -> When:
    return When(hours=Hours(22 * 3600, 6 * 3600, frozenset(days), "Europe/Berlin"))


def test_a_night_belongs_to_the_day_on_which_it_began() -> None:
    friday = night(4)  # 2026-11-20 is a Friday
    assert fits(friday, at(2026, 11, 20, 22)) and fits(friday, at(2026, 11, 21, 5, 59))
    assert not fits(friday, at(2026, 11, 20, 21, 59)) and not fits(friday, at(2026, 11, 21, 6))
    assert not fits(friday, at(2026, 11, 20, 1)), "that is Thursday's night"
    assert not fits(friday, at(2026, 11, 21, 23)), "that is Saturday's"
    assert fits(night(6), at(2026, 11, 23, 3)), "Sunday's night ends on Monday"


def test_hours_are_those_of_the_wall_when_the_clocks_change() -> None:
    hours = When(hours=Hours(2 * 3600, 3 * 3600, zone="Europe/Berlin"))
    assert fits(hours, at(2026, 10, 25, 2, 30)) and fits(hours, at(2026, 10, 25, 2, 30, fold=1)), "it comes twice"
    spring = [asked(clock=datetime(2026, 3, 29, tzinfo=UTC).timestamp() + 60.0 * minute) for minute in range(300)]
    assert not any(fits(hours, question) for question in spring), "it never comes"
    for question in (at(2026, 3, 29, 1, 59), at(2026, 3, 29, 3), at(2026, 10, 25, 2, 59, fold=1)):
        assert fits(night(), question)
    assert not fits(night(), at(2026, 3, 29, 6)) and not fits(night(), at(2026, 10, 25, 6))


@given(
    st.integers(0, 86_400), st.integers(0, 86_400), st.frozensets(st.integers(0, 6)),
    st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kathmandu", "Pacific/Apia"]),
    st.integers(1_700_000_000, 1_900_000_000), st.floats(0.0, 0.999),
)  # fmt: skip
def test_hours_are_what_a_walk_over_the_days_says(
    since: int, until: int, days: frozenset[int], zone: str, second: int, part: float
) -> None:
    local = datetime.fromtimestamp(second, ZoneInfo(zone)).replace(tzinfo=None)
    wanted = False
    for back in (0, 1):
        begin = datetime.combine(local.date() - timedelta(days=back), datetime.min.time())
        end = begin + timedelta(seconds=until) + timedelta(days=int(until <= since))
        if begin.weekday() in (days or range(7)) and begin + timedelta(seconds=since) <= local < end:
            wanted = True
    assert fits(When(hours=Hours(since, until, days, zone)), asked(clock=second + part)) is wanted


def test_a_complaint_says_what_must_be_and_what_is() -> None:
    when = When(header={"x-team": Text(exact=("a", "b"), prefix=("c",), regex=("d+",), unlike=Text(exact=("cc",)))},
                prompt=Span(10, 20), stream=True, hours=Hours(22 * 3600, 6 * 3600 + 1, frozenset({4, 0})))  # fmt: skip
    told = [condition.complaint(asked({"x-team": "x\n" + "y" * 100})) for condition in conditions(when)]
    assert told == [
        "the answer must be streamed, and is whole",
        "the prompt must have at least 10 tokens and have fewer than 20 tokens, and is about 100 long",
        'header x-team must be "a" or be "b" or begin with "c" or match /d+/, and not be "cc", and is "x\\n'
        + "y" * 78 + '…"',
        "the time must be from 22:00 to 06:00:01 on Mon, Fri in UTC, and is Tue 12:00:00",
    ]  # fmt: skip
    assert conditions(When(key=Text(unlike=Text())))[0].complaint(asked(key="k")) == 'key must not be there, and is "k"'
    assert conditions(When(key=Text()))[0].complaint(asked(key="")) == "key must be there, and is absent"
    assert described(Text(unlike=Text(prefix=("a",)))) == 'not begin with "a"'
