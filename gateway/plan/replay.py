"""Recorded requests through the rules of a configuration: where each would go, and which would be refused.

The idea: the same code that decides in the gateway (`ModelNames`, `class_of`, `policies.routing`) is asked again with
what was recorded of each request. What was drawn for a split is in the record, so an arm is not drawn anew: with the
same weights it is the same arm, with others only those move that must. A canary's share is the recorded one as long as
its rule is the one that was recorded from; a canary that is new starts with its first step.

Asking the same file has to give the recorded decision; `differences` says where it does not.

Left to others: endpoints (`choice`), tenants' limits (`limits`), latencies (`lab`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from gateway.classes import class_of
from gateway.classes import may_use as may_use_class
from gateway.config.names import ModelNames
from gateway.config.types import Config, Key, Model, Route
from gateway.context import SURELY
from gateway.core.errors import BadRequest
from gateway.plan.records import Past
from policies.routing import Asked, Count, Drawn, NoRoute, Router, UnknownArm, Way

_ANYONE = Key(b"", "anonymous", None)
_SEED = 0.5

UNKNOWN_MODEL, NO_KEY, MODEL_NOT_ALLOWED = "model_not_found", "invalid_api_key", "model_not_allowed"
UNKNOWN_CLASS, CLASS_NOT_ALLOWED, TOO_LONG = "unknown_class", "class_not_allowed", "context_length_exceeded"
NO_RULE, NO_ARM, ARM_NOT_ALLOWED = "no_route", "unknown_arm", "arm_not_allowed"
WHY: Mapping[str, str] = {
    UNKNOWN_MODEL: "no model of that name",
    NO_KEY: "a key that is not known",
    MODEL_NOT_ALLOWED: "a model that the key may not use",
    UNKNOWN_CLASS: "no class of that name",
    CLASS_NOT_ALLOWED: "a class that the key may not use",
    TOO_LONG: "a prompt longer than the model's `max_context`",
    NO_RULE: "no rule fits",
    NO_ARM: "an arm is asked for that the rule does not have",
    ARM_NOT_ALLOWED: "an arm that the key may not ask for",
}


# A request that was refused at the rules or behind them left no trace of the headers and the arm that they look at.
_NOT_SEEN = frozenset((NO_RULE, NO_ARM, ARM_NOT_ALLOWED, TOO_LONG))


def can_be_judged(past: Past) -> bool:
    """Whether its record says enough to decide again."""
    return past.route is not None and past.code not in _NOT_SEEN


class Judged(NamedTuple):
    """What a configuration makes of one recorded request: its way, or the code of why it is refused."""

    past: Past
    key: Key
    model: Model | None = None
    klass: str = ""
    way: Way | None = None
    refused: str = ""

    @property
    def pool(self) -> str:
        """Where it is sent first; empty where it is refused."""
        return self.way.pools[0] if self.way is not None else ""


class Replay:
    """Asks one configuration. `old`: the one that was in use when the requests were recorded, where that is known."""

    def __init__(self, config: Config, old: Config | None = None):
        self.config = config
        self._old = old
        self._names = ModelNames(config.models)
        self._keys = {f"sha256:{key.digest.hex()}": key for key in config.keys}
        self._past: Past | None = None  # the one at hand
        self._steps = {(name, rule): _first_step(route) for name, model in config.models.items()
                       for rule, route in named(model).items()}  # fmt: skip
        costs = {name: pool.cost for name, pool in config.pools.items()}
        self._routers = {name: Router(name, model.routes, _SEED, self._shares(name), costs)
                         for name, model in config.models.items()}  # fmt: skip

    def judge(self, past: Past) -> Judged:
        """The decision for one request that `can_be_judged`."""
        route = past.route
        assert route is not None
        key = self._key(past)
        if key is None:
            return Judged(past, _ANYONE, refused=NO_KEY)
        model = self._names.find(route.asked)
        if model is None:
            return Judged(past, key, refused=UNKNOWN_MODEL)
        if key.models is not None and model.name not in key.models:
            return Judged(past, key, model, refused=MODEL_NOT_ALLOWED)
        klass, refused = self._class(past, key, model)
        if refused:
            return Judged(past, key, model, refused=refused)
        if route.forced and not ({route.arm, "*"} & key.arms):
            return Judged(past, key, model, klass, refused=ARM_NOT_ALLOWED)
        way, refused = self._way(past, key, model, klass)
        if way is not None and _is_too_long(past, model):
            way, refused = None, TOO_LONG
        return Judged(past, key, model, klass, way, refused)

    def counts(self) -> dict[str, dict[str, Count]]:
        """How often each rule of each model was used so far."""
        return {name: router.counts for name, router in self._routers.items()}

    # --- who asks, and as what ----------------------------------------------------------------------------------

    def _key(self, past: Past) -> Key | None:
        """None where the configuration has keys and this is none of them. A trace's tenant stands for its key."""
        assert past.route is not None
        if not self._keys:
            return _ANYONE
        told = past.route.key
        if told:
            return self._keys.get(told)
        return next((key for key in self._keys.values() if past.tenant and key.tenant == past.tenant), None)

    def _class(self, past: Past, key: Key, model: Model) -> tuple[str, str]:
        """The class, or why it has none.

        What was asked for is in newer records; of older ones it is told from what was granted: what nobody asked for
        is what the old configuration would have given unasked.
        """
        assert past.route is not None
        asked: str | None = past.route.klass or None
        if past.route.klass is None and past.klass:
            unasked = self._unasked(self._old or self.config, past, key, model)
            asked = None if unasked == past.klass else past.klass
        try:
            return class_of(self.config, key, model, asked).name, ""
        except BadRequest:
            known = asked is not None and asked in self.config.classes
            return "", CLASS_NOT_ALLOWED if known else UNKNOWN_CLASS

    def _unasked(self, config: Config, past: Past, key: Key, model: Model) -> str:
        """The class that this request would have had if it had asked for none."""
        then = config.models.get(past.model, model)
        whose = next((k for k in config.keys if k.digest == key.digest), key)
        if whose.default_class is not None and whose.default_class in config.classes:
            return whose.default_class
        if then.klass in config.classes and then.klass is not None and may_use_class(whose, then.klass):
            return then.klass
        return next(kind.name for kind in config.classes.values() if kind.default)

    # --- where to -----------------------------------------------------------------------------------------------

    def _way(self, past: Past, key: Key, model: Model, klass: str) -> tuple[Way | None, str]:
        route = past.route
        assert route is not None
        asked = Asked(route.asked, route.path, key.tenant if self._keys else past.tenant, route.key, klass,
                      route.prompt_tokens, past.stream, route.session, route.user, route.headers.get,
                      past.at)  # fmt: skip
        known = route.drawn == route.drawn
        self._past = past
        try:
            drawn = Drawn(route.drawn, route.user) if known else None
            return self._routers[model.name].route(asked, route.arm if route.forced else None, drawn), ""
        except NoRoute:
            return None, NO_RULE
        except UnknownArm:
            return None, NO_ARM

    def _shares(self, model: str) -> Callable[[str], float | None]:
        """What a model's rules ask for their canaries: the share of then, where it is the canary of then."""
        rules = named(self.config.models[model])

        def share(rule: str) -> float | None:
            past = self._past
            assert past is not None and past.route is not None
            before = self._old.models.get(past.model) if self._old is not None else None
            then = named(before).get(past.route.rule) if before is not None else None
            now = rules[rule]
            same = past.route.rule == rule if then is None else (then.arms, then.canary) == (now.arms, now.canary)
            return past.route.share if same and past.route.share == past.route.share else self._steps[model, rule]

        return share


def named(model: Model) -> dict[str, Route]:
    """A model's rules by the names that records have."""
    return {route.name or f"routes[{row}]": route for row, route in enumerate(model.routes)}


def _first_step(route: Route) -> float | None:
    return None if route.canary is None else route.canary.steps[0]


def _is_too_long(past: Past, model: Model) -> bool:
    """Its prompt surely has more tokens than the model may have (`gateway.context`), and so the engine counted."""
    assert past.route is not None
    most, estimate, counted = model.max_context, past.route.prompt_tokens, past.prompt_tokens
    sure = min(SURELY * estimate, counted) if counted > 0.0 else SURELY * estimate
    return most is not None and sure + 1.0 > most


def differences(judged: Judged) -> list[str]:
    """Where the decision is not the recorded one, in words."""
    past, way = judged.past, judged.way
    route = past.route
    assert route is not None
    then = past.code if past.code in WHY else ""
    if then != judged.refused:
        before, after = (f"refused: {WHY[code]}" if code else "let in" for code in (then, judged.refused))
        return [f"it was {before}; now it is {after}"]
    if way is None:
        return []
    pairs: list[tuple[str, object, object]] = [
        ("model", past.model, judged.model.name if judged.model is not None else ""),
        ("class", past.klass, judged.klass),
        ("rule", route.rule, way.rule),
        ("arm", route.arm, way.arm),
        ("pools", ", ".join(route.pools), ", ".join(_as_recorded(way.pools, route.pools))),
        ("rules in shadow", ", ".join(route.shadowed), ", ".join(way.shadowed)),
    ]
    return [f"{what} {before or 'none'} was recorded, {now or 'none'} comes out"
            for what, before, now in pairs if before != now]  # fmt: skip


def _as_recorded(pools: tuple[str, ...], recorded: tuple[str, ...]) -> tuple[str, ...]:
    """Without those that were left out then because the prompt was too long for their servers; what those say of
    themselves is not recorded."""
    left = tuple(pool for pool in pools if pool in recorded)
    return left if left == recorded else pools
