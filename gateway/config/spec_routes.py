"""The part of the table of keys that says what a model is and where its requests go: rules, splits, canaries.

The idea: `to:` is short for one rule with one arm, so whoever holds a `Model` sees rules only. Here the short form is
made into the long one, and what is said once for a whole rule (`fallback`, `as`) is given to its arms.

Left to others: everything else (`spec`), conditions (`conditions`), what must agree (`check_routes`, `check_split`).
"""

from __future__ import annotations

from dataclasses import replace

from gateway.config import types
from gateway.config.conditions import HOUR, KEYS, TEXTS, ZONE, HeaderName
from gateway.config.kinds import NOTHING, Nothing
from gateway.config.leaves import (
    ALIAS,
    BOOL,
    FIELD,
    LABEL,
    MODEL,
    SHARE_OF,
    SIZE_OF,
    TEXT,
    TIME,
    TIME_OR_NONE,
    WEIGHT,
    WRITTEN_FILE,
    choice,
    count,
)
from gateway.config.shapes import Key, ListOf, MapOf, Struct

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
HEADER_NAME = HeaderName()
_ROUTE = types.Route(())
_MODEL = types.Model("", (_ROUTE,))
_WHEN = types.When()
_HOURS = types.Hours()


def _make_hours(
    since: int = _HOURS.since, until: int = _HOURS.until, days: frozenset[str] = frozenset(), zone: str = _HOURS.zone
) -> types.Hours:
    return types.Hours(since, until, frozenset(map(DAYS.index, days)), zone)


def _make_sticky(
    by: types.StickyBy | None = None, header: str | None = None, salt: str = ""
) -> types.Sticky | Nothing:  # fmt: skip
    if header is not None:
        return types.Sticky("header", header, salt)
    return types.Sticky(by, "", salt) if by is not None else NOTHING  # which the checks have told


def _make_route(
    name: str | None = None, when: types.When = _WHEN, to: str | None = None, split: tuple[types.Arm, ...] = (),
    as_: str | None = None, fallback: tuple[str, ...] = (), fallback_after: float = _ROUTE.fallback_after,
    cheapest: bool = False, sticky: types.Sticky | None = None, mirror: types.Mirror | None = None,
    canary: types.CanaryRule | None = None, shadow: bool = False,
) -> types.Route | Nothing:  # fmt: skip
    """NOTHING without an arm, which the checks have told."""
    if to is not None:
        split = (types.Arm("", to, as_=as_),)
    arms = tuple(_completed(arm, as_, fallback) for arm in split)
    if not arms:
        return NOTHING
    return types.Route(arms, name or "", when, fallback, fallback_after, cheapest, sticky, mirror, canary, shadow)


def _completed(arm: types.Arm, as_: str | None, fallback: tuple[str, ...]) -> types.Arm:
    """The arm with what its rule says for all of them; its own pool is nothing to fall back to."""
    inherited = tuple(pool for pool in fallback if pool != arm.to)
    return replace(arm, as_=arm.as_ if arm.as_ is not None else as_, fallback=arm.fallback or inherited)


def _make_model(
    name: str, to: str | None = None, routes: tuple[types.Route, ...] = (), aliases: tuple[str, ...] = (),
    as_: str | None = None, fallback: tuple[str, ...] = (), fallback_after: float = _ROUTE.fallback_after,
    slo: types.Slo = _MODEL.slo, klass: str | None = None, lora: types.Lora | None = None,
    capture: types.Capture | None = None, max_context: int | None = None,
) -> types.Model | Nothing:  # fmt: skip
    """NOTHING for a model that leads nowhere, which the checks have told."""
    if to is not None:
        routes = (types.one_route(to, fallback, fallback_after),)
    if not routes:
        return NOTHING
    exact = tuple(alias for alias in aliases if "*" not in alias)
    patterns = tuple(alias for alias in aliases if "*" in alias)
    return types.Model(name, routes, exact, patterns, as_, slo, klass, lora, capture, max_context)


TOKENS = count(0)
HOURS = Struct(_make_hours, {
    "from": Key(HOUR, "from this time on", argument="since"),
    "to": Key(HOUR, "until this time; before `from`: over midnight", argument="until"),
    "days": Key(ListOf(choice(*DAYS), least=1, into=frozenset), "on these days, named for when they begin"),
    "zone": Key(ZONE, "whose time it is"),
})  # fmt: skip
WHEN = Struct(types.When, {
    "header": Key(MapOf(TEXTS, HEADER_NAME, named="", least=1), "request headers and what they must be; {}: be there"),
    "path": Key(TEXTS, "the request's path"),
    "key": Key(KEYS, "the client's key, as under `keys`"),
    "tenant": Key(TEXTS, "whose traffic it is"),
    "class": Key(TEXTS, "its class", argument="klass"),
    "model": Key(TEXTS, "the model as the client spelt it: an alias, or what a pattern matched", argument="name"),
    "prompt": Key(Struct(types.Span, {
        "at_least": Key(TOKENS, "tokens, as estimated", nullable=True),
        "below": Key(TOKENS, "tokens, as estimated", nullable=True),
    }), "the prompt's length"),
    "stream": Key(BOOL, "whether the answer is to be streamed"),
    "time": Key(HOURS, "the time of day", argument="hours"),
})  # fmt: skip
ARM = Struct(types.Arm, {
    "arm": Key(LABEL, "what it is called in records, metrics and commands", required=True, argument="name"),
    "to": Key(LABEL, "its pool", required=True),
    "weight": Key(WEIGHT, "relative to the others'; a canary's arm has none"),
    "as": Key(MODEL, "what its endpoints call the model; null: as the rule or the model says", nullable=True,
              argument="as_"),
    "fallback": Key(ListOf(LABEL), "pools to use instead; none: the rule's"),
})  # fmt: skip
STICKY = Struct(_make_sticky, {
    "by": Key(choice("key", "session", "user"), "the client's key, x-session-id, or the body's `user`"),
    "header": Key(HEADER_NAME, "or: a request header"),
    "salt": Key(TEXT, "another one deals everybody anew"),
}, short=("by", choice("key", "session", "user")))  # fmt: skip
MIRROR = Struct(types.Mirror, {
    "to": Key(LABEL, "the pool that gets copies", required=True),
    "share": Key(SHARE_OF, "of the requests", required=True),
    "as": Key(MODEL, "what its endpoints call the model", nullable=True, argument="as_"),
    "concurrency": Key(count(1), "copies at once; more are left out"),
})  # fmt: skip
CANARY = Struct(types.CanaryRule, {
    "arm": Key(LABEL, "the arm on trial", required=True),
    "steps": Key(ListOf(SHARE_OF, least=1), "its shares, one after the other"),
    "hold": Key(TIME, "how long each is held, at least"),
    "margin": Key(Struct(types.Margin, {
        "ttft": Key(SHARE_OF, "the first token may be later by"),
        "tpot": Key(SHARE_OF, "the others may take longer by"),
        "errors": Key(SHARE_OF, "so many more of its requests may fail"),
    }), "how much worse it may be and still be promoted"),
    "risk": Key(SHARE_OF, "the chance of a wrong verdict over the whole rollout, either way"),
    "paused": Key(BOOL, "it stays at its first step until it is resumed"),
})  # fmt: skip
ROUTE = Struct(_make_route, {
    "name": Key(LABEL, "what it is called in records, metrics and commands; null: routes[N]", nullable=True),
    "when": Key(WHEN, "for which requests; without it, for all"),
    "to": Key(LABEL, "the pool that serves them"),
    "split": Key(ListOf(ARM), "or: arms that share them"),
    "as": Key(MODEL, "what the endpoints call the model; null: as the model says", nullable=True, argument="as_"),
    "fallback": Key(ListOf(LABEL), "pools to use instead: at once when the first is unhealthy"),
    "fallback_after": Key(TIME_OR_NONE, "and after this long when it is full"),
    "cheapest": Key(BOOL, "of these pools, the one of the least cost that keeps the promises comes first"),
    "sticky": Key(STICKY, "what keeps a user on an arm: key | session | user | {header: NAME}", nullable=True),
    "mirror": Key(MIRROR, "a share is copied to another pool, and the answers are compared", nullable=True),
    "canary": Key(CANARY, "one arm's share goes up by itself while it is no worse", nullable=True),
    "shadow": Key(BOOL, "it is evaluated and counted, and the next one is used"),
})  # fmt: skip
LORA = Struct(types.Lora, {
    "path": Key(TEXT, "where the servers find it, to load it on demand; null: it is there", nullable=True),
    "most": Key(count(1, 1000), "adapters on one server; then the least recently used one goes"),
})  # fmt: skip
CAPTURE = Struct(types.Capture, {
    "file": Key(WRITTEN_FILE, "what is captured, as JSON lines", required=True),
    "share": Key(SHARE_OF, "of the requests"),
    "fields": Key(ListOf(FIELD), "the JSON fields that are kept; none: all"),
    "redact": Key(BOOL, "replace secrets and personal data"),
    "body": Key(SIZE_OF, "of a request and of an answer, at most"),
    "rotate": Key(SIZE_OF, "the file begins anew at this size"),
    "keep": Key(count(0, 1000), "old files that stay"),
    "layout": Key(choice("headway", "sagemaker"), "of a line"),
})  # fmt: skip
SLO = Struct(types.Slo, {
    "ttft": Key(TIME, "to the first token; null: no promise", nullable=True),
    "tpot": Key(TIME, "per token after it, on average; null: no promise", nullable=True),
})  # fmt: skip
MODEL_OF = Struct(_make_model, {
    "aliases": Key(ListOf(ALIAS), "other names that clients use; * is any run of characters"),
    "class": Key(LABEL, "its requests' class; null: the key's, or the default one", nullable=True, argument="klass"),
    "slo": Key(SLO, "the latency promised; request headers may only tighten it"),
    "max_context": Key(count(1), "tokens of prompt and answer; null: as the servers say", nullable=True),
    "to": Key(LABEL, "the pool that serves it"),
    "routes": Key(ListOf(ROUTE, least=1), "or: rules, of which the first that fits is used"),
    "as": Key(MODEL, "what the endpoints call it; null: its own name", nullable=True, argument="as_"),
    "fallback": Key(ListOf(LABEL), "with `to`: pools to use instead, at once when it is unhealthy"),
    "fallback_after": Key(TIME_OR_NONE, "and after this long when it is full"),
    "lora": Key(LORA, "it is an adapter; null: it is not", nullable=True),
    "capture": Key(CAPTURE, "keep a sample of requests and answers; null: none", nullable=True),
})  # fmt: skip
