"""How a fault is asked for."""

from pathlib import Path

import pytest

from backends.sim.faults import KINDS, BadFault, Fault, fault, parse_fault


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hang", Fault("hang")),
        ("slow:2.5", Fault("slow", 2.5)),
        ("hang@10+5", Fault("hang", None, 5.0, 10.0)),
        ("5xx:503@1.5#2", Fault("5xx", 503.0, None, 1.5, 2)),
        ("503", Fault("503")),
    ],
)
def test_a_fault_is_a_kind_with_value_start_length_and_server(text: str, expected: Fault) -> None:
    assert parse_fault(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("hangs", "did you mean hang"),
        ("slow", "needs a value: a factor"),
        ("slow:0", "greater than 0"),
        ("5xx:7", "a status from 500 to 599 or a share"),
        ("hang@x", "cannot read fault"),
        ("", "cannot read fault"),
        ("slow:1.2.3", "cannot read a number"),
    ],
)
def test_a_bad_one_is_refused_with_what_would_be_right(text: str, reason: str) -> None:
    with pytest.raises(BadFault, match=reason):
        parse_fault(text)


@pytest.mark.parametrize("value", ["x", -1, True, float("nan")])
def test_values_are_numbers_of_at_least_zero(value: object) -> None:
    with pytest.raises(BadFault, match="must be a number"):
        fault("cut", value)


def test_every_kind_is_in_the_page_that_describes_them() -> None:
    page = (Path(__file__).parents[3] / "backends" / "sim" / "README.md").read_text()
    for kind, meaning in KINDS.items():
        assert f"| `{kind}` | {meaning} |" in page
