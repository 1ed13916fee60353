"""The table of keys: what is promised for later is refused, and names come from the registries that are given."""

from collections.abc import Callable

import pytest

from gateway.config.loader import Loaded
from gateway.config.problems import Problem

Read = Callable[..., Loaded]
Faults = Callable[..., tuple[Problem, ...]]

LATER = {
    "state: ./s\n": "state",
    "classes: {interactive: {default: true}}\n": "classes",
    "jobs: {store: x}\n": "jobs",
    "shared: redis://h:1/1\n": "shared",
    "keys: {k: {tenant: t, limits: {requests: 1/s}}}\n": "limits",
    "limits: {file: 1MiB}\n": "file",
    "keys: {k: {tenant: t, classes: [a]}}\n": "classes",
}


@pytest.mark.parametrize("text", LATER)
def test_what_is_promised_for_later_is_refused_and_not_ignored(faults: Faults, good: str, text: str) -> None:
    (fault,) = faults(good + text)
    assert fault.line == 9
    assert fault.message == f"`{LATER[text]}` is not in this version"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("engine: http", "profile: h100", "`profile` is not in this version"),
        ("engine: http", "pick: predicted_latency", "policy `predicted_latency` is not in this version"),
        ("engine: http", "pick: {policy: predicted_latency}", "policy `predicted_latency` is not in this version"),
        ("{to: p}", "{to: p, slo: {ttft: 1s}}", "`slo` is not in this version"),
        ("{to: p}", "{routes: [{to: p}]}", "`routes` is not in this version"),
    ],
)
def test_what_is_promised_inside_pools_and_models_is_refused(
    faults: Faults, good: str, old: str, new: str, said: str
) -> None:
    assert [problem.message for problem in faults(good.replace(old, new))] == [said]


def test_names_of_classes_are_allowed_where_a_name_is(read: Read, good: str) -> None:
    text = good.replace("engine: http", "engine: my.engines:Mine\n    pick: my.policies:Best")
    pool = read(text).config.pools["p"]
    assert (pool.engine, pool.pick.policy) == ("my.engines:Mine", "my.policies:Best")


def test_the_registries_are_the_callers(read: Read, faults: Faults, good: str) -> None:
    assert read(good.replace("http\n", "own\n", 1), engines=["own"]).config.pools["p"].engine == "own"
    (fault,) = faults(good.replace("engine: http", "pick: mine"), policies=["mime"])
    assert fault.hint == "did you mean `mime`?"


def test_a_policys_options_are_checked_by_who_knows_them(faults: Faults, good: str) -> None:
    text = good.replace("engine: http", "pick:\n      policy: round_robin\n      wieght: 2")
    (fault,) = faults(text, check_pick=lambda name, options: f"{name} has no option {next(iter(options))}")
    assert (fault.line, fault.message) == (6, "round_robin has no option wieght")
