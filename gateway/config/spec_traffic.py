"""The part of the table of keys that says who asks and for what: classes, keys and limits, jobs, shared counts.

Left to others: everything else (`spec`), single values (`leaves`), what must agree with what (`check_traffic`).
"""

from __future__ import annotations

from gateway.config import types
from gateway.config.leaves import (
    ARM_NAME,
    BOOL,
    CALLBACK,
    LABEL,
    MODEL,
    PRIORITY,
    RATE,
    REDIS,
    SHARE_OF,
    STORE,
    TIME,
    TIME_OR_NONE,
    choice,
    count,
    quota,
    secret_of,
)
from gateway.config.shapes import Key, ListOf, Struct


def _make_key(
    digest: str, tenant: str, models: frozenset[str] | None = None, classes: tuple[str, ...] | None = None,
    limits: types.KeyLimits | None = None, arms: frozenset[str] = frozenset(),
) -> types.Key:  # fmt: skip
    """Its first class is its default; who makes the whole takes that away where the default of all is allowed."""
    allowed = None if classes is None else frozenset(classes)
    return types.Key(bytes.fromhex(digest), tenant, models, allowed, next(iter(classes or ()), None), limits, arms)


QUEUE = Struct(types.QueueRule, {
    "limit": Key(count(), "requests that may wait in one pool; one more is refused: queue_full"),
    "wait": Key(TIME_OR_NONE, "how long one may wait; then it is refused: queue_timeout"),
    "order": Key(choice("fifo", "deadline", "fair"), "whose turn is next: the first, the least slack, or the tenant "
                                                     "that had least"),
})  # fmt: skip
FILLER = Struct(types.FillerRule, {
    "protect": Key(LABEL, "the class that must not notice it"),
    "slowdown": Key(SHARE_OF, "how much it may slow that class down"),
    "promote": Key(BOOL, "it may run as the protected class when its deadlines come near"),
    "aborts": Key(count(0, 1000), "the most times one piece of work may be stopped and queued again"),
})  # fmt: skip
CLASS = Struct(types.TrafficClass, {
    "default": Key(BOOL, "the class of a request that nothing else is said of; exactly one class is"),
    "priority": Key(PRIORITY, "higher goes first"),
    "queue": Key(QUEUE, "how its requests wait for a place"),
    "filler": Key(FILLER, "it fills what another class leaves; null: it does not", nullable=True),
    "reserve": Key(SHARE_OF, "the share of a pool's places that is kept for it"),
    "late": Key(choice("refuse", "serve"), "what happens to a request that can no longer keep its SLO"),
    "shadow": Key(BOOL, "its limits are evaluated and counted, and refuse nobody"),
})  # fmt: skip
JOBS = Struct(types.Jobs, {
    "store": Key(STORE, "sqlite:FILE or redis://host:port/db", required=True),
    "class": Key(LABEL, "the class of batches", argument="klass"),
    "retention": Key(TIME, "how long files and results are kept"),
    "callbacks": Key(ListOf(CALLBACK), "hosts that x-headway-callback may name; *.example.com is all below it"),
    "secret": Key(secret_of("secret"), "signs callbacks", nullable=True),
})  # fmt: skip
SHARED = Struct(types.Shared, {
    "url": Key(REDIS, "redis://host:port/db", required=True),
    "when_lost": Key(choice("local", "refuse"), "without it: count alone, or refuse who has limits"),
}, short=("url", REDIS))  # fmt: skip
KEY_LIMITS = Struct(types.KeyLimits, {
    "requests": Key(RATE, "requests in a time, such as 100/s", nullable=True),
    "tokens": Key(RATE, "tokens of prompts and answers in a time, such as 200000/m", nullable=True),
    "concurrency": Key(quota(), "requests at once", nullable=True),
    "tokens_per_day": Key(quota(), "tokens of prompts and answers in a day", nullable=True),
    "reserve": Key(choice("learnt", "max_tokens"), "what an answer counts until it is there"),
    "shadow": Key(BOOL, "they are evaluated and counted, and refuse nobody"),
})  # fmt: skip
CLIENT_KEY = Struct(_make_key, {
    "tenant": Key(LABEL, "whose traffic it is", required=True),
    "models": Key(ListOf(MODEL, into=frozenset), "the models this key may use; null: all", nullable=True),
    "classes": Key(ListOf(LABEL, least=1), "the classes this key may use; null: all", nullable=True),
    "limits": Key(KEY_LIMITS, "rates and quotas; null: none", nullable=True),
    "arms": Key(ListOf(ARM_NAME, into=frozenset), "the arms of splits that its requests may ask for; `*`: any"),
})  # fmt: skip
