"""The difference of two configurations in sentences: each change has one, and no change has none."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

import pytest

from gateway.config.loader import load_bytes
from gateway.config.types import Config
from gateway.plan.diff import differences

KEY, OTHER = ("sha256:" + hashlib.sha256(name).hexdigest() for name in (b"k", b"o"))
BASE: dict[str, Any] = {
    "version": 1,
    "pools": {"h100": {"endpoints": ["http://10.0.0.1:8000", "http://10.0.0.2:8000"], "api_key": "secret-one"},
              "h100-next": {"endpoints": ["http://10.0.0.9:8000"]}, "l4": {"endpoints": ["http://10.0.1.1:8000"]}},
    "models": {
        "llama": {"slo": {"ttft": "500ms"}, "to": "h100", "fallback": ["l4"]},
        "qwen3-32b": {"routes": [{"split": [{"arm": "stable", "to": "h100", "weight": 99},
                                            {"arm": "next", "to": "h100-next", "weight": 1}]}]},
        "rolled": {"routes": [{"when": {"header": {"x-team": "research"}}, "to": "l4"},
                              {"split": [{"arm": "a", "to": "h100"}, {"arm": "b", "to": "h100-next"}],
                               "canary": {"arm": "b", "steps": ["1%", "100%"], "hold": "10m"}}]},
    },
    "keys": {KEY: {"tenant": "acme", "limits": {"requests": "100/s"}}},
}  # fmt: skip


def config(content: dict[str, Any]) -> Config:
    return load_bytes(json.dumps(content).encode(), "headway.yaml", {}).config


def told(*path_and_value: Any) -> list[str]:
    """The sentences for one changed value; `None` as the value takes it out."""
    *path, last, value = path_and_value
    content = copy.deepcopy(BASE)
    at: Any = content
    for name in path:
        at = at[name]
    if value is None:
        del at[last]
    else:
        at[last] = value
    return differences(config(BASE), config(content))


QWEN = ("models", "qwen3-32b", "routes", 0, "split", 1)
ROLLED = ("models", "rolled", "routes")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ((*QWEN, "weight", 99 / 19), "model qwen3-32b: 5 % of its requests go to h100-next (arm next) instead of 1 %"),
        (("models", "llama", "slo", "ttft", "300ms"), "model llama: slo.ttft: 300 ms instead of 500 ms"),
        (("models", "llama", "to", "h100-next"), "model llama: 100 % of its requests go to h100-next instead of 0 %"),
        (("models", "llama", "fallback", []), "fallback: none instead of l4"),
        (("pools", "h100", "endpoints", ["http://10.0.0.1:8000"]),
         "pool h100: endpoint http://10.0.0.2:8000 leaves (2 before, 1 now)"),
        (("pools", "h100", "pick", "round_robin"), "pool h100: pick.policy: round_robin instead of least_tokens"),
        (("pools", "h100", "api_key", "secret-two"), "pool h100: api_key is another secret"),
        (("pools", "h100", "timeouts", {"first_token": "30s"}), "timeouts.first_token: 30.00 s instead of 60.00 s"),
        (("keys", KEY, "limits", "requests", "50/s"), "of tenant acme: limits.requests.amount: 50 instead of 100"),
        (("keys", {}), "there are no keys any more"),
        (("keys", OTHER, {"tenant": "new"}), "of tenant new is new"),
        (("models", "qwen3-32b", None), "model qwen3-32b is gone"),
        (("models", "more", {"to": "l4"}), "model more is new: to l4"),
        ((*ROLLED, 1, "canary", "steps", ["10%", "100%"]), "10 % of the requests that fit go to h100-next"),
        ((*ROLLED, 1, "canary", "hold", "5m"), "canary.hold: 300.00 s instead of 600.00 s"),
        ((*ROLLED, 0, "when", {"header": {"x-team": "sales"}}), "header x-team = sales"),
        ((*ROLLED, BASE["models"]["rolled"]["routes"][1:]), "routes[0] is gone (with header x-team = research: to l4)"),
        (("classes", {"interactive": {"default": True, "priority": 10, "queue": {"limit": 50}}}), "classes."),
        (("limits", {"body": "1MiB"}), "limits.body: 1,048,576 instead of 33,554,432"),
    ],
)  # fmt: skip
def test_a_change_has_its_sentence(change: tuple[Any, ...], sentence: str) -> None:
    found = told(*change)
    assert any(sentence in one for one in found), found


def test_the_same_configuration_has_no_sentence() -> None:
    assert differences(config(BASE), config(copy.deepcopy(BASE))) == []


def test_a_rule_written_above_others_is_new_and_they_are_what_they_were() -> None:
    rule = {"when": {"prompt": {"at_least": 8000}}, "to": "l4"}
    found = told("models", "rolled", "routes", [rule, *BASE["models"]["rolled"]["routes"]])
    assert found == ["model rolled: rule routes[0] is new: with at least 8000 prompt tokens: to l4"]


def test_rules_in_another_order_are_said_to_be() -> None:
    routes = [{"name": "a", "when": {"stream": True}, "to": "l4"}, {"name": "b", "when": {"tenant": "acme"},
                                                                     "to": "l4"},
              {"to": "h100"}]  # fmt: skip
    contents = [{**BASE, "models": {"m": {"routes": order}}} for order in (routes, [routes[1], routes[0], routes[2]])]
    found = differences(*map(config, contents))
    assert found == ["model m: its rules are tried in another order: b, a, routes[2]"]


def test_no_secret_is_ever_shown() -> None:
    text = "\n".join(told("pools", "h100", "api_key", "secret-two"))
    assert "secret-one" not in text and "secret-two" not in text


@pytest.mark.parametrize("weights", [(198, 2), (49.5, 0.5)])
def test_weights_that_mean_the_same_are_said_to(weights: tuple[float, float]) -> None:
    split = [{"arm": "stable", "to": "h100", "weight": weights[0]}, {"arm": "next", "to": "h100-next",
                                                                   "weight": weights[1]}]  # fmt: skip
    found = told("models", "qwen3-32b", "routes", [{"split": split}])
    assert found == ["model qwen3-32b: its weights are written otherwise and mean the same shares"]
