"""Rules, splits and parts of a model: what is doubtful is a warning, and what is told apart is told.

What is refused stands in `tests/data/broken`.
"""

from collections.abc import Callable

import pytest

from gateway.config.check_routes import MOST_ROUTES
from gateway.config.loader import Loaded
from gateway.config.problems import Problem

Read = Callable[..., Loaded]
Faults = Callable[..., tuple[Problem, ...]]
POOLS = "pools: {p: {endpoints: [http://a]}, q: {endpoints: [http://b]}, r: {endpoints: [http://c], cost: 2}}\n"
KEY = "'sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'"
SPLIT = "split: [{arm: a, to: p}, {arm: b, to: q}]"
PREDICTING = "pick: predicted_latency"
PROFILE = f"profile: a100_llama-3.1-70b_bf16_tp4, {PREDICTING}"


def told(loaded: Loaded) -> list[tuple[int, int, str]]:
    return [(warning.line, warning.column, warning.message) for warning in loaded.warnings]


@pytest.mark.parametrize(
    ("routes", "place", "said"),
    [
        ("{to: p, fallback: [q, r], cheapest: true, when: {stream: true}}", 14,
         "no rule is for all requests: one that fits none is refused"),
        ("{to: p, fallback: [q], cheapest: true}, {to: r}", 0, ""),
        ("{to: r, fallback: [q], cheapest: true, as: m, mirror: {to: p, share: 1%}}", 62,
         "`as` is unused: `m` is the model's own name"),
        ("{split: [{arm: a, to: p}, {arm: b, to: q}], sticky: key, fallback: [r], cheapest: true}", 75,
         "there are no `keys`: nobody is kept on an arm by one"),
        ("{split: [{arm: a, to: p, weight: 0}, {arm: b, to: q}], fallback: [r], cheapest: true}", 56,
         "arm `a` is unused: it has no weight, and no key may ask for it"),
        ("{split: [{arm: a, to: p}, {arm: b, to: r}], canary: {arm: b, steps: [5%, 50%]}, fallback: [q], "
         "cheapest: true}", 96, "the last step is 50%: the canary never gets all"),
    ],
)  # fmt: skip
def test_what_is_doubtful_is_a_warning_at_its_place(
    read: Read, faults: Faults, routes: str, place: int, said: str
) -> None:
    text = f"{POOLS}models: {{m: {{routes: [{routes}]}}}}\nstate: ./s\n"
    if said:
        assert told(read(text)) == [(2, place, said)]
    else:
        assert "takes every request" in faults(text)[0].message


def test_pools_that_cost_the_same_and_costs_that_nobody_looks_at_are_warned_of(read: Read) -> None:
    same = f"{POOLS}models: {{m: {{routes: [{{to: p, fallback: [q], cheapest: true}}]}}, n: {{to: r}}}}\n"
    assert [message for *_, message in told(read(same))] == [
        "`cost` is unused: no rule chooses by it", "`cheapest` is unused: these pools cost the same",
    ]  # fmt: skip


def test_a_forced_arm_of_weight_nothing_is_for_testers(read: Read) -> None:
    dark = "split: [{arm: a, to: p, weight: 0}, {arm: b, to: q}], fallback: [r], cheapest: true"
    for arms in ("[a]", "['*']"):
        text = f"{POOLS}models: {{m: {{routes: [{{{dark}}}]}}}}\nkeys: {{{KEY}: {{tenant: t, arms: {arms}}}}}\n"
        assert told(read(text)) == []


def test_a_promise_that_one_pool_cannot_keep_is_a_warning(read: Read, faults: Faults) -> None:
    pools = f"pools: {{p: {{endpoints: [http://a], {PROFILE}}}, q: {{endpoints: [http://b], {PREDICTING}}}}}\n"
    (warning,) = read(f"{pools}models: {{m: {{to: q, fallback: [p], slo: {{tpot: 5ms}}}}}}\n").warnings
    assert warning.message.startswith("pool `p` cannot keep this: each token takes at least")
    assert (warning.line, warning.column) == (2, 48)
    assert read(f"{pools}models: {{m: {{to: p, fallback: [q], slo: {{ttft: 1s, tpot: 100ms}}}}}}\n").warnings == ()
    (fault,) = faults(f"{pools}models: {{m: {{to: p, slo: {{tpot: 5ms}}}}, n: {{to: q}}}}\n")
    assert fault.message.startswith("unreachable: each token takes at least")


def test_an_order_in_which_every_rule_gets_something_is_fine(read: Read) -> None:
    rules = """\
models:
  m:
    routes:
      - {when: {header: {x-team: research}, stream: true}, to: p}
      - {when: {header: {x-team: research}}, to: q}
      - {when: {header: {x-team: {prefix: r}}}, to: r, fallback: [q], cheapest: true}
      - {when: {prompt: {at_least: 8000}}, to: p}
      - {when: {prompt: {at_least: 2000}}, to: q}
      - {when: {time: {from: "22:00", to: "06:00"}}, to: p}
      - {when: {time: {from: "08:00", to: "18:00", zone: Europe/Berlin}}, to: p}
      - {when: {path: {regex: /v1/.*}}, to: p}
      - {when: {path: /tokenize}, to: q}
      - {shadow: true, to: q}
      - {to: p}
"""
    assert read(POOLS + rules).warnings == ()


def test_more_rules_than_can_be_tried_for_each_request_are_refused(faults: Faults) -> None:
    rules = ", ".join(f"{{when: {{header: {{x: t{row}}}}}, to: p}}" for row in range(MOST_ROUTES + 1))
    (fault,) = faults(f"{POOLS}models: {{m: {{routes: [{rules}]}}}}\n")
    assert fault.message == f"more than {MOST_ROUTES} rules"


def test_what_could_not_be_read_is_told_once_and_nothing_is_said_of_what_it_would_be(faults: Faults) -> None:
    text = f"""{POOLS}models:
  m:
    routes:
      - {{when: {{tenant: {{regex: "("}}}}, to: p}}
      - {{to: q, fallback: [r], cheapest: true}}
  n: {{routes: [{{{SPLIT.replace("to: q", "too: q")}, canary: {{arm: b}}}}]}}
keys: {{{KEY}: {{tenat: acme}}}}
"""
    assert [(fault.line, fault.message.split(":")[0]) for fault in faults(text)] == [
        (5, "not a regular expression"), (7, "`to` is missing"), (7, "unknown key `too`"), (8, "`tenant` is missing"),
        (8, "unknown key `tenat`"),
    ]  # fmt: skip


def test_a_canary_that_a_restart_forgets_is_warned_of_once(read: Read) -> None:
    canary = "split: [{arm: a, to: p}, {arm: b, to: r}], canary: {arm: b}, fallback: [q], cheapest: true"
    text = f"{POOLS}models: {{m: {{routes: [{{{canary}}}]}}, n: {{routes: [{{{canary}}}]}}}}\n"
    assert told(read(text)) == [(2, 67, "a restart begins this canary anew: `state` is not given")]
    assert told(read(text + "state: ./s\n")) == []


def test_data_kept_as_it_is_is_warned_of(read: Read) -> None:
    models = "models: {m: {to: p, fallback: [q, r], capture: {file: /tmp/c, redact: false}}}\n"
    text = POOLS.replace(", cost: 2", "") + models
    assert [message for *_, message in told(read(text))] == ["secrets and personal data are kept as they are"]
