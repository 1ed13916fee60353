"""Models: where they lead, and whether each of their names can ever match."""

from collections.abc import Callable

import pytest

from gateway.config.loader import Loaded
from gateway.config.problems import Problem

Read = Callable[..., Loaded]
Faults = Callable[..., tuple[Problem, ...]]
POOLS = "pools: {p: {endpoints: [http://a]}, q: {endpoints: [http://b]}}\nmodels:\n"


@pytest.mark.parametrize(
    ("models", "line", "message"),
    [
        ("  m: {to: p, fallback: [q, r]}\n", 3, "pool `r` does not exist"),
        ("  m: {to: p, fallback: [p]}\n", 3, "unreachable: pool `p` is already one of this model's"),
        ("  m: {to: p, fallback: [q, q]}\n", 3, "unreachable: pool `q` is already one of this model's"),
        ("  m: {to: p, fallback_after: 1s}\n", 3, "unreachable: `fallback_after` without `fallback`"),
        ("  m: {aliases: [x]}\n", 3, "model `m` leads nowhere: `to` is missing"),
        ("  m: {to: p, as: '*'}\n", 3, "`*` is not the name of one model"),
        ("  m: {to: p, aliases: [m]}\n", 3, "unreachable: alias `m` is the name of a model"),
        ("  m: {to: p}\n  n: {to: q, aliases: [m]}\n", 4, "unreachable: alias `m` is the name of a model"),
        ("  m: {to: p, aliases: [x]}\n  n: {to: q, aliases: [x]}\n", 4, "alias repeated: `x` is already one of `m`"),
        ("  m: {to: p, aliases: [x*]}\n  n: {to: q, aliases: [x*]}\n", 4, "alias repeated: `x*` is already one of `m`"),
        ("  m: {to: p, aliases: [a-*]}\n  n: {to: q, aliases: ['*-b']}\n", 4,
         "a tie: `*-b` and `a-*` of model `m` can match one name"),
        ("  m: {to: p, aliases: ['*']}\n  '*': {to: q}\n", 4, "a tie: `*` and `*` of model `m` can match one name"),
        ("  m*: {to: p}\n", 3, "`m*` is not a model name: printable, without spaces and `*`"),
    ],
)  # fmt: skip
def test_what_can_never_match_is_refused(faults: Faults, models: str, line: int, message: str) -> None:
    (fault,) = faults(POOLS + models)
    assert (fault.line, fault.message) == (line, message)


def test_patterns_of_different_length_or_with_nothing_in_common_are_fine(read: Read) -> None:
    models = read(
        POOLS + "  m: {to: p, aliases: [a-*, b-*, exact]}\n  n: {to: q, aliases: [a-1*, c-*]}\n  '*': {to: p}\n"
    ).config.models
    assert models["m"].aliases == ("exact",)
    assert models["m"].patterns == ("a-*", "b-*")


def test_an_unused_pool_or_alias_is_a_warning(read: Read) -> None:
    loaded = read(POOLS + "  m: {to: p, aliases: [x*, xy]}\n")
    assert [(warning.line, warning.message) for warning in loaded.warnings] == [
        (1, "pool `q` is unused"),
        (3, "alias `xy` is unused: a pattern of the same model matches it"),
    ]


def test_more_patterns_than_can_be_tried_for_each_request_are_refused(faults: Faults) -> None:
    patterns = ", ".join(f"a{n}*" for n in range(201))
    (fault,) = faults(POOLS + f"  m: {{to: p, fallback: [q], aliases: [{patterns}]}}\n")
    assert fault.message == "more than 200 patterns"
