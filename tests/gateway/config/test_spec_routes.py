"""Rules, splits and what hangs on them, read into values; the short form is one rule with one arm."""

from collections.abc import Callable

import pytest

from gateway.config.loader import Loaded
from gateway.config.types import (
    Arm,
    CanaryRule,
    Capture,
    Hours,
    Lora,
    Margin,
    Mirror,
    Route,
    Span,
    Sticky,
    Text,
    When,
    model_to,
    one_route,
)

Read = Callable[..., Loaded]
POOLS = "pools: {p: {endpoints: [http://a]}, q: {endpoints: [http://b]}, r: {endpoints: [http://c], cost: 2.5}}\n"
KEY = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
KEYS = f"keys: {{'{KEY}': {{tenant: acme, arms: [a]}}}}\n"


@pytest.fixture
def route(read: Read) -> Callable[[str], Route]:
    """The first rule; a second split is there for the key's arm."""

    def route(text: str) -> Route:
        split = "split: [{arm: a, to: p}, {arm: b, to: q}]"
        whole = f"{POOLS}{KEYS}models:\n  m: {{aliases: [n], routes: [{{{text}}}]}}\n  o: {{routes: [{{{split}}}]}}\n"
        return read(whole).config.models["m"].routes[0]

    return route


def test_to_is_short_for_one_rule_with_one_arm(read: Read) -> None:
    config = read(f"{POOLS}models: {{m: {{to: p, fallback: [q, r], fallback_after: 1s, as: x}}}}\n").config
    made = config.models["m"]
    assert made == model_to("m", "p", ("q", "r"), 1.0, as_="x")
    assert made.routes == (one_route("p", ("q", "r"), 1.0),)
    assert made.routes[0].arms == (Arm("", "p", fallback=("q", "r")),)
    assert config.pools["r"].cost == 2.5


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("header: {X-Team: research}", When({"x-team": Text(("research",))})),
        ("header: {x-team: [a, {prefix: [b, c]}, {regex: 'd.*'}]}",
         When({"x-team": Text(("a",), ("b", "c"), ("d.*",))})),
        ("header: {x-team: {not: [a, {prefix: b}]}}", When({"x-team": Text(unlike=Text(("a",), ("b",)))})),
        ("header: {x-team: {prefix: a, not: ab}, x-debug: {}}",
         When({"x-team": Text((), ("a",), unlike=Text(("ab",))), "x-debug": Text()})),
        ("header: {x-flag: true, x-count: 007}", When({"x-flag": Text(("true",)), "x-count": Text(("007",))})),
        ("path: /v1/embeddings", When(path=Text(("/v1/embeddings",)))),
        ("path: /v2/models/any/infer", When(path=Text(("/v2/models/any/infer",)))),
        (f"key: '{KEY}'", When(key=Text((KEY,)))),
        ("tenant: acme", When(tenant=Text(("acme",)))),
        ("class: interactive", When(klass=Text(("interactive",)))),
        ("model: n", When(name=Text(("n",)))),
        ("prompt: {at_least: 8000}", When(prompt=Span(8000))),
        ("prompt: {at_least: 10, below: 20}", When(prompt=Span(10, 20))),
        ("stream: false", When(stream=False)),
        ("time: {from: '22:00', to: '06:30', days: [fri, sat], zone: Europe/Berlin}",
         When(hours=Hours(79_200, 23_400, frozenset((4, 5)), "Europe/Berlin"))),
        ("time: {to: '24:00', days: [mon]}", When(hours=Hours(days=frozenset((0,))))),
        ("tenant: acme, stream: true", When(tenant=Text(("acme",)), stream=True)),
    ],
)  # fmt: skip
def test_conditions_are_read_in_each_of_their_spellings(
    route: Callable[[str], Route], text: str, meant: When
) -> None:
    assert route(f"to: p, when: {{{text}}}").when == meant


def test_what_a_rule_says_for_all_is_given_to_its_arms(route: Callable[[str], Route]) -> None:
    arms = "[{arm: a, to: p}, {arm: b, to: q, weight: 0.5, as: y}, {arm: c, to: r, fallback: [p]}]"
    made = route(f"as: x, fallback: [q, r], fallback_after: 0s, split: {arms}")
    assert made.arms == (Arm("a", "p", 1.0, "x", ("q", "r")), Arm("b", "q", 0.5, "y", ("r",)),
                         Arm("c", "r", 1.0, "x", ("p",)))  # fmt: skip
    assert (made.fallback, made.fallback_after, made.name) == (("q", "r"), 0.0, "")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("session", Sticky("session")), ("key", Sticky("key")), ("user", Sticky("user")),
        ("{header: X-User}", Sticky("header", "x-user")), ("{by: user, salt: two}", Sticky("user", salt="two")),
        ("null", None),
    ],
)  # fmt: skip
def test_stickiness_is_read_in_each_of_its_spellings(
    route: Callable[[str], Route], text: str, meant: Sticky | None
) -> None:
    assert route(f"split: [{{arm: a, to: p}}, {{arm: b, to: q}}], sticky: {text}").sticky == meant


def test_mirrors_and_canaries_have_defaults_for_all_but_what_they_are_for(route: Callable[[str], Route]) -> None:
    split = "split: [{arm: a, to: p}, {arm: b, to: q}]"
    made = route(f"name: x, {split}, mirror: {{to: r, share: 1%}}, canary: {{arm: b}}")
    assert (made.name, made.mirror, made.canary) == ("x", Mirror("r", 0.01), CanaryRule("b"))
    made = route(f"{split}, mirror: {{to: r, share: 100%, as: z, concurrency: 3}}, canary: {{arm: b, "
                 "steps: [2%, 100%], hold: 1m, margin: {ttft: 5%, errors: 1%}, risk: 1%, paused: true}")  # fmt: skip
    assert made.mirror == Mirror("r", 1.0, "z", 3)
    assert made.canary == CanaryRule("b", (0.02, 1.0), 60.0, Margin(0.05, 0.1, 0.01), 0.01, True)


def test_a_shadow_is_a_rule_like_any_other(read: Read) -> None:
    text = f"{POOLS}models: {{m: {{routes: [{{to: r, shadow: true}}, {{to: p, fallback: [q], cheapest: true}}]}}}}\n"
    first, second = read(text).config.models["m"].routes
    assert (first.shadow, second.shadow, second.cheapest) == (True, False, True)


def test_adapters_captures_and_the_longest_context_are_the_models(read: Read) -> None:
    capture = ("file: /tmp/c.jsonl, share: 5%, redact: true, fields: [messages, usage.total_tokens], body: 1KiB, "
               "rotate: 1MiB, keep: 0, layout: sagemaker")  # fmt: skip
    text = f"lora: {{path: /adapters/m, most: 2}}, max_context: 8192, capture: {{{capture}}}"
    made = read(f"{POOLS}models: {{m: {{to: p, {text}}}}}\n").config.models["m"]
    assert made.lora == Lora("/adapters/m", 2)
    assert made.max_context == 8192
    assert made.capture == Capture("/tmp/c.jsonl", 0.05, ("messages", "usage.total_tokens"), True, 1024, 1 << 20, 0,
                                   "sagemaker")  # fmt: skip
    plain = read(f"{POOLS}models: {{m: {{to: p, lora: {{}}, capture: null}}}}\n").config.models["m"]
    assert (plain.lora, plain.capture, plain.max_context) == (Lora(), None, None)


def test_shadows_and_arms_of_keys_and_classes(read: Read) -> None:
    split = "models: {m: {routes: [{split: [{arm: a, to: p}, {arm: b, to: q}]}]}}\n"
    keys = f"keys: {{'{KEY}': {{tenant: t, arms: ['*'], limits: {{requests: 1/s, shadow: true}}}}}}\n"
    config = read(f"{POOLS}{split}{keys}classes: {{c: {{default: true, shadow: true}}}}\n").config
    (key,) = config.keys
    assert key.arms == frozenset("*") and key.limits is not None and key.limits.shadow
    assert config.classes["c"].shadow


def test_the_digest_tells_rules_apart(read: Read) -> None:
    texts = ["to: p", "to: q", "to: p, fallback: [q]", "routes: [{to: p}]", "routes: [{to: p, name: x}]",
             "routes: [{to: p, when: {stream: true}}, {to: q}]", "routes: [{to: p, when: {stream: false}}, {to: q}]",
             "routes: [{to: p, when: {header: {x: [a, b]}}}, {to: q}]", "to: p, lora: {}"]  # fmt: skip
    digests = {text: read(f"{POOLS}models: {{m: {{{text}}}}}\n").config.digest for text in texts}
    assert digests["to: p"] == digests["routes: [{to: p}]"]
    assert len(set(digests.values())) == len(texts) - 1
