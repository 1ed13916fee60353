"""Which way each request goes: a router for every model of the configuration, and their place in every split.

The idea: rules are pure and know nothing of HTTP; here they are asked. A router is made anew with each configuration
and goes on where the one before stood, so that a reload disturbs no split. A canary's share belongs to whoever runs the
canaries and is asked for at each draw.

Left to others: the rules (`policies.routing`), judging canaries (`gateway.rollouts`), sending requests their
way (`proxy`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from hashlib import blake2b
from random import Random

from gateway.config.types import Config, Key, Model
from gateway.core.errors import BadRequest
from gateway.core.types import UNKNOWN
from gateway.records import RequestRecord, Routed
from gateway.wire.head import RequestHead
from policies.routing import Asked, Count, Drawn, NoRoute, Router, UnknownArm, Way

FORCED = b"x-headway-arm"
_KEPT = 1100  # characters of a name or a header's value in a record: a little more than rules read

Shares = Callable[[str, str], float | None]
"""By model and rule, the present share of its canary; None: it has none."""


def no_shares(model: str, rule: str) -> float | None:
    """Where nobody runs canaries: they stay without traffic."""
    return None


class Routers:
    """The routers of one gateway. `use` what was `made` of a configuration."""

    def __init__(self, shares: Shares = no_shares, random: Random | None = None):
        self._shares = shares
        self._seed = (random or Random()).random()
        self._of: dict[str, Router] = {}

    def made(self, config: Config) -> dict[str, Router]:
        """Those of another configuration. What is wrong with its rules is raised here, where nothing has changed."""
        costs = {name: pool.cost for name, pool in config.pools.items()}
        made = {}
        for name, model in config.models.items():
            router = made[name] = Router(name, model.routes, self._seed, partial(self._shares, name), costs)
            if name in self._of:
                router.resume(self._of[name])
        return made

    def use(self, made: dict[str, Router]) -> None:
        """These from now on."""
        self._of = made

    def share(self, model: str, way: Way) -> float:
        """The share of the canary that this way was drawn beside; NaN where there is none."""
        if way.drawn != way.drawn and not way.user:
            return UNKNOWN
        share = self._shares(model, way.rule)
        return share if share is not None else UNKNOWN

    def way(self, model: Model, asked: Asked, key: Key, forced: str | None, drawn: Drawn | None = None) -> Way:
        """The way of one request. `drawn`: with the number of an earlier way of its own, so that it keeps its arm.

        Raises BadRequest where no rule fits it, or the arm it asks for is not for it.
        """
        if forced is not None and not ({forced, "*"} & key.arms):
            raise BadRequest(f"this key may not choose the arm {forced[:100]!r}", status=403, code="arm_not_allowed",
                             param=FORCED.decode())  # fmt: skip
        try:
            return self._of[model.name].route(asked, forced, drawn)
        except NoRoute as error:
            raise BadRequest(str(error), status=404, code="no_route") from None
        except UnknownArm as error:
            raise BadRequest(str(error), code="unknown_arm", param=FORCED.decode()) from None

    def why(self, record: RequestRecord) -> list[str]:
        """The rules of its model in words, as they are now, for a request that was recorded."""
        route, router = record.route, self._of.get(record.model)
        if route is None or router is None:
            return []
        asked = Asked(route.asked, route.path, record.tenant, route.key, record.klass, route.prompt_tokens,
                      record.stream, route.session, route.user, route.headers.get, record.at)  # fmt: skip
        return router.why(asked, route.arm if route.forced else None, drawn_of(route))

    def looked_at(self, model: str) -> frozenset[str]:
        """The headers that the model's rules depend on, in lower case."""
        router = self._of.get(model)
        return router.headers if router is not None else frozenset()

    def counts(self) -> Mapping[str, Mapping[str, Count]]:
        """How often each rule of each model was used."""
        return {name: router.counts for name, router in self._of.items()}


def reading(head: RequestHead) -> Callable[[str], str | None]:
    """The values of this request's headers, by name in lower case."""
    named = head.named

    def read(name: str) -> str | None:
        value = named.get(name.encode("latin-1", "replace"))
        return value.decode("utf-8", "replace") if value is not None else None

    return read


def forced_arm(head: RequestHead) -> str | None:
    """The arm that a client asks for."""
    value = head.named.get(FORCED)
    return value.decode("utf-8", "replace") if value is not None else None


def drawn_of(way: Way | Routed) -> Drawn | None:
    """The number that an arm was drawn with, to draw it again; None: there was nothing to draw."""
    return Drawn(way.drawn, way.user) if way.drawn == way.drawn or way.user else None


def user_of(way: Way) -> int:
    """The user whose arm it is, as a number; 0: nobody's."""
    return int(way.user, 16) if way.user else 0


NOWHERE = Way("", (), 0.0, None, "")
"""Of a request that was refused before it had a way."""


def routed(asked: Asked, klass: str, way: Way, share: float, headers: frozenset[str], limit: int | None) -> Routed:
    """What is kept of the question and the answer. `klass`: the one asked for. Who somebody is is kept as a hash."""
    values = ((name, asked.header(name)) for name in sorted(headers))
    kept = {name: value[:_KEPT] for name, value in values if value is not None}
    return Routed(
        asked.name[:_KEPT], way.rule, way.arm, way.drawn, share, way.forced, way.pools, asked.path[:_KEPT], asked.key,
        klass, _hashed(asked.session), way.user, kept, asked.prompt_tokens, limit, way.shadowed,
    )  # fmt: skip


def _hashed(who: str) -> str:
    return blake2b(who.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest() if who else ""
