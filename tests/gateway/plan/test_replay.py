"""Recorded requests through the rules of a configuration: the same file gives the same decisions, another its own."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.classes import class_of
from gateway.config.loader import load_bytes
from gateway.config.types import Config
from gateway.plan.records import Past, Route
from gateway.plan.replay import Replay, can_be_judged, differences
from policies.routing import Asked, Router

KEY = "sha256:" + hashlib.sha256(b"k").hexdigest()
BASE: dict[str, Any] = {
    "version": 1,
    "pools": {name: {"endpoints": [f"http://10.0.{n}.1:8000"]} for n, name in enumerate(("gpu", "next", "big", "old"))},
    "models": {
        "chat": {"aliases": ["gpt"], "routes": [
            {"name": "research", "when": {"header": {"x-team": "research"}}, "to": "big"},
            {"name": "long", "when": {"prompt": {"at_least": 4000}}, "to": "big", "shadow": True},
            {"split": [{"arm": "stable", "to": "gpu", "weight": 3}, {"arm": "next", "to": "next", "weight": 1}],
             "fallback": ["old"]},
        ]},
        "sticky": {"routes": [{"sticky": {"header": "x-user"},
                               "split": [{"arm": "a", "to": "gpu", "weight": 1}, {"arm": "b", "to": "next",
                                                                                 "weight": 1}]}]},
        "rolled": {"routes": [{"name": "roll", "split": [{"arm": "a", "to": "gpu"}, {"arm": "b", "to": "next"}],
                               "canary": {"arm": "b", "steps": ["10%", "100%"]}}]},
        "files": {"to": "old", "class": "async"},
    },
}  # fmt: skip


def config(**changes: Any) -> Config:
    return load_bytes(json.dumps({**BASE, **changes}).encode(), "headway.yaml", {}).config


def changed(model: str, **changes: Any) -> Config:
    return config(models={**BASE["models"], model: {**BASE["models"][model], **changes}})


def recorded(used: Config, name: str = "chat", headers: dict[str, str] | None = None, share: float = math.nan,
             tokens: float = 100.0, asked_class: str | None = None, number: int = 0, **more: Any) -> Past:  # fmt: skip
    """What a gateway with this configuration writes of a request."""
    headers = headers or {}
    model = next(m for m in used.models.values() if name in (m.name, *m.aliases))
    key = used.keys[0] if used.keys else replace(Replay(used).judge(_bare(name)).key)
    klass = class_of(used, key, model, asked_class).name
    router = Router(model.name, model.routes, 0.1, lambda rule: share if share == share else None)
    asked = Asked(name, "/v1/chat/completions", key.tenant, KEY if used.keys else "", klass, tokens, True, "", "",
                  headers.get, 1.7e9)  # fmt: skip
    for _ in range(number):
        router.route(asked)
    way = router.route(asked)
    route = Route(name, way.rule, way.arm, way.drawn, way.forced, way.pools, asked.path, asked.key, "", way.user,
                  headers, tokens, None, way.shadowed, share, asked_class or "")  # fmt: skip
    return Past(f"r{number}", 1.7e9, model.name, way.pools[0], way.arm, klass, key.tenant, route=route, **more)


def _bare(name: str) -> Past:
    return Past("r", 1.7e9, name, route=Route(name, prompt_tokens=1.0))


@given(
    name=st.sampled_from(["chat", "gpt", "sticky", "rolled", "files"]), number=st.integers(0, 40),
    headers=st.dictionaries(st.sampled_from(["x-team", "x-user"]), st.sampled_from(["research", "u1", "u2", ""])),
    share=st.sampled_from([0.0, 0.1, 0.5, 1.0]), tokens=st.floats(1.0, 9000.0),
    asked_class=st.sampled_from([None, "async", "interactive"]),
)  # fmt: skip
def test_the_same_file_gives_every_recorded_decision_again(
    name: str, number: int, headers: dict[str, str], share: float, tokens: float, asked_class: str | None
) -> None:
    used = config()
    past = recorded(used, name, headers, share if name == "rolled" else math.nan, tokens, asked_class, number)
    assert differences(Replay(used).judge(past)) == []
    assert differences(Replay(used, used).judge(past)) == []
    assert past.route is not None
    older = replace(past, route=replace(past.route, klass=None))
    assert differences(Replay(used).judge(older)) == []


def test_a_decision_that_does_not_come_out_again_is_told_in_words() -> None:
    past = recorded(config())
    assert past.route is not None
    wrong = replace(past, klass="async", route=replace(past.route, rule="research", arm="", pools=("big",), klass=""))
    told = differences(Replay(config()).judge(wrong))
    assert "class async was recorded, interactive comes out" in told
    assert "rule research was recorded, routes[2] comes out" in told
    assert any(one.startswith("pools big was recorded") for one in told)


def arms(used: Config, pasts: list[Past], old: Config | None = None) -> list[str]:
    replay = Replay(used, old)
    found = [replay.judge(past).way for past in pasts]
    return [way.arm for way in found if way is not None]


def test_other_weights_move_only_those_that_must() -> None:
    old = config()
    pasts = [recorded(old, number=number) for number in range(60)]
    split = [{"arm": "stable", "to": "gpu", "weight": 1}, {"arm": "next", "to": "next", "weight": 1}]
    new = changed("chat", routes=[*BASE["models"]["chat"]["routes"][:2], {"split": split, "fallback": ["old"]}])
    before, after = arms(old, pasts), arms(new, pasts, old)
    moves = {(one, other) for one, other in zip(before, after, strict=True) if one != other}
    assert moves == {("stable", "next")} and after.count("next") in range(28, 33)


def test_a_canary_keeps_the_share_it_had_and_a_changed_one_begins_anew() -> None:
    old = config()
    pasts = [recorded(old, "rolled", share=0.5, number=number) for number in range(40)]
    assert arms(old, pasts, old).count("b") == 20
    split = [{"arm": "a", "to": "gpu"}, {"arm": "b", "to": "big"}]
    canary = {"arm": "b", "steps": ["10%", "100%"]}
    new = changed("rolled", routes=[{"name": "roll", "split": split, "canary": canary}])
    assert arms(new, pasts, old).count("b") in (3, 4, 5)


def test_rules_in_shadow_are_named_and_do_not_take_the_request() -> None:
    judged = Replay(config()).judge(recorded(config(), tokens=5000.0))
    assert judged.way is not None
    assert judged.way.shadowed == ("long",) and judged.way.rule == "routes[2]"


def test_how_often_each_rule_was_used_is_counted() -> None:
    used = config()
    replay = Replay(used)
    for number in range(3):
        replay.judge(recorded(used, number=number))
    counts = replay.counts()["chat"]
    assert counts["routes[2]"].used == 3 and counts["research"].used == 0


KEYS = {KEY: {"tenant": "acme", "models": ["chat"], "classes": ["interactive"]}}


@pytest.mark.parametrize(
    ("new", "past", "code"),
    [
        (config(models={"other": {"to": "gpu"}}), recorded(config()), "model_not_found"),
        (config(keys=KEYS), recorded(config()), "invalid_api_key"),
        (config(keys=KEYS), recorded(config(keys={KEY: {"tenant": "acme"}}), "sticky"), "model_not_allowed"),
        (config(keys=KEYS), recorded(config(keys={KEY: {"tenant": "acme"}}), asked_class="async"), "class_not_allowed"),
        (changed("sticky", max_context=60), recorded(config(), "sticky"), "context_length_exceeded"),
        (changed("chat", routes=[BASE["models"]["chat"]["routes"][0]]), recorded(config()), "no_route"),
    ],
)  # fmt: skip
def test_what_would_newly_be_refused_says_why(new: Config, past: Past, code: str) -> None:
    judged = Replay(new, config()).judge(past)
    assert judged.way is None and judged.refused == code
    assert differences(judged)[0].startswith("it was let in; now it is refused: ")
    refused = Replay(new, config()).judge(replace(past, code=code, tries=0))
    assert differences(refused) == []


def test_one_that_was_refused_and_would_be_let_in_is_said() -> None:
    past = replace(recorded(config()), code="model_not_found", status=404, tries=0)
    assert differences(Replay(config()).judge(past)) == ["it was refused: no model of that name; now it is let in"]


def test_a_pool_that_was_left_out_for_a_prompt_too_long_for_its_servers_is_no_difference() -> None:
    past = recorded(config())
    assert past.route is not None and past.route.pools == ("gpu", "old")
    assert differences(Replay(config()).judge(replace(past, route=replace(past.route, pools=("old",))))) == []
    told = differences(Replay(config()).judge(replace(past, route=replace(past.route, pools=("old", "gpu")))))
    assert told == ["pools old, gpu was recorded, gpu, old comes out"]


def test_a_count_by_the_engine_is_believed_before_an_estimate() -> None:
    used = changed("sticky", max_context=60)
    past = recorded(config(), "sticky", tokens=5000.0)
    assert Replay(used).judge(past).refused == "context_length_exceeded"
    assert not Replay(used).judge(replace(past, prompt_tokens=40.0)).refused


@pytest.mark.parametrize("code", ["no_route", "unknown_arm", "arm_not_allowed", "context_length_exceeded"])
def test_one_that_was_refused_at_the_rules_cannot_be_judged(code: str) -> None:
    assert not can_be_judged(replace(recorded(config()), code=code))
    assert not can_be_judged(replace(recorded(config()), route=None))


def test_a_forced_arm_needs_a_key_that_may_and_a_rule_that_has_it() -> None:
    used = config(keys={KEY: {"tenant": "acme", "arms": ["next"]}})
    past = recorded(used)
    assert past.route is not None
    forced = replace(past, route=replace(past.route, forced=True, arm="next", drawn=math.nan))
    judged = Replay(used).judge(forced)
    assert judged.way is not None and judged.way.pools[0] == "next" and judged.way.forced
    stranger = replace(past, route=replace(past.route, forced=True, arm="stable"))
    assert Replay(used).judge(stranger).refused == "arm_not_allowed"
    assert Replay(config(keys={KEY: {"arms": ["*"], "tenant": "acme"}})).judge(
        replace(past, route=replace(past.route, forced=True, arm="gone"))).refused == "unknown_arm"  # fmt: skip


def test_a_trace_stands_for_the_key_of_its_tenant() -> None:
    used = config(keys={KEY: {"tenant": "acme"}})
    past = Past("trace-0", 1.0, "chat", tenant="acme", route=Route("chat", prompt_tokens=10.0, klass=""))
    assert Replay(used).judge(past).pool == "gpu"
    assert Replay(used).judge(replace(past, tenant="nobody")).refused == "invalid_api_key"
