"""The rules of one model at run time: the first that fits gives a request its way.

The idea: all that can be known beforehand is made beforehand. Conditions are predicates, each arm's way is ready, and
a rule with one arm hands out the same value each time; a request costs a walk down the list and, where it is split,
one number. A way is drawn once for a request and holds for all its tries.

The canary's share is asked for at each draw, because it is somebody else's to change at any moment. Of a rule's pools
`cheapest` puts the one of the least cost first, here, since costs change only with the file; whether that one keeps
what is promised is seen where places are given.

Left to others: what the conditions are (`when`), drawing (`split`, `sticky`), the canary's share (`canary`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple

from gateway.core.routes import Route
from gateway.core.types import UNKNOWN
from policies.routing.base import Asked, Drawn, NoRoute, UnknownArm, Way
from policies.routing.split import Sequence as Numbers
from policies.routing.split import Weights, arm_at, weights_of
from policies.routing.sticky import Dealer, user_of
from policies.routing.when import conditions

Shares = Callable[[str], float | None]


class Count(NamedTuple):
    """How often a rule was `used`, and how often it would have been but for standing in the shadow."""

    used: int
    shadowed: int


class _Rule:
    """One route, ready to be asked. `chosen` and `shadowed` count."""

    def __init__(self, model: str, row: int, route: Route, seed: float, costs: Mapping[str, float]):
        self.route = route
        self.name = route.name or f"routes[{row}]"
        self.canary = None if route.canary is None else route.canary.arm
        self.conditions = conditions(route.when)
        self.fits = tuple(condition.fits for condition in self.conditions)
        self.ways = tuple(_way(route, row, self.name, costs) for row in range(len(route.arms)))
        self.rows = {arm.name: row for row, arm in enumerate(route.arms) if arm.name}
        self.only = self.ways[0] if len(self.ways) == 1 else None
        self.chosen = self.shadowed = 0
        begin = blake2b(f"{seed!r} {model} {self.name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
        self.numbers = Numbers(int.from_bytes(begin, "little"))
        self.dealer = None if route.sticky is None else Dealer(model, route.sticky.salt, (a.name for a in route.arms))
        self._weights = weights_of(route.arms, self.canary, 0.0)
        self._share = 0.0

    def weights(self, shares: Shares) -> Weights:
        """The arms' weights now."""
        if self.canary is None:
            return self._weights
        share = shares(self.name) or 0.0
        if share != self._share:
            self._share, self._weights = share, weights_of(self.route.arms, self.canary, share)
        return self._weights

    def user(self, asked: Asked) -> str:
        """Whose request it is, as a hash; empty where users do not count, or it names none."""
        return "" if self.route.sticky is None else user_of(self.route.sticky, asked)

    def draw(self, drawn: Drawn, shares: Shares) -> tuple[int, Drawn]:
        """The arm for what was drawn, and what that was: the user's number where users count, else the one given."""
        weights = self.weights(shares)
        if self.dealer is None or not drawn.user:
            return arm_at(weights, drawn.number), Drawn(drawn.number)
        number = self.dealer.number(drawn.user)
        return self.dealer.arm(weights, number), Drawn(number, drawn.user)


class Router:
    """Gives the requests of one model their ways. Make it anew with each new file, and let it `resume` the old one.

    `seed` (any number) decides where the sequences begin; `shares` says, by a rule's name, what share its canary has
    (0 to 1; None: none has begun, all go to the other arms); `costs` are the pools' relative prices, 1 where not named.
    """

    def __init__(self, model: str, routes: Sequence[Route], seed: float, shares: Shares,
                 costs: Mapping[str, float] | None = None):  # fmt: skip
        self.model = model
        self._rules = [_Rule(model, row, route, seed, costs or {}) for row, route in enumerate(routes)]
        self._shares = shares
        self.headers = frozenset(name for route in routes for name in route.when.header)
        """The headers that conditions look at, in lower case. (One that names a user is not among them: of users a
        record holds the hash.)"""

    def route(self, asked: Asked, forced: str | None = None, drawn: Drawn | None = None) -> Way:
        """The way of one request. `forced`: the arm it must have; `drawn`: what a recorded request was drawn with.

        Raises NoRoute where no rule fits, UnknownArm where the one that does has no arm of that name.
        """
        shadowed: tuple[str, ...] = ()
        for rule in self._rules:
            for fits in rule.fits:
                if not fits(asked):
                    break
            else:
                if rule.route.shadow:
                    rule.shadowed += 1
                    shadowed += (rule.name,)
                    continue
                way = rule.only if rule.only is not None and forced is None else self._split(rule, asked, forced, drawn)
                rule.chosen += 1
                return way._replace(shadowed=shadowed) if shadowed else way
        raise NoRoute(self.model, [rule.name for rule in self._rules if not rule.route.shadow])

    def _split(self, rule: _Rule, asked: Asked, forced: str | None, drawn: Drawn | None) -> Way:
        if forced is not None:
            row = rule.rows.get(forced)
            if row is None:
                raise UnknownArm(forced, rule.name, rule.rows)
            return rule.ways[row]._replace(forced=True)
        if drawn is None:
            user = rule.user(asked)
            drawn = Drawn(UNKNOWN, user) if user else Drawn(rule.numbers.next())
        row, (number, user) = rule.draw(drawn, self._shares)
        return rule.ways[row]._replace(drawn=number, user=user)

    def resume(self, old: Router) -> None:
        """Go on where a router of the same model stood: sequences by the rule's name, counts where it is the same."""
        before = {rule.name: rule for rule in old._rules}
        for rule in self._rules:
            was = before.get(rule.name)
            if was is not None:
                rule.numbers.position = was.numbers.position
                if was.route == rule.route:
                    rule.chosen, rule.shadowed = was.chosen, was.shadowed

    @property
    def counts(self) -> dict[str, Count]:
        """By the rules' names, in their order."""
        return {rule.name: Count(rule.chosen, rule.shadowed) for rule in self._rules}

    # --- in words ------------------------------------------------------------------------------------------------

    def why(self, asked: Asked, forced: str | None = None, drawn: Drawn | None = None) -> list[str]:
        """Each rule in a line: whether it fits, which condition does not, the arms, and the number drawn.

        It draws nothing and counts nothing. `forced` and `drawn` as they were for a recorded request.
        """
        lines, is_found = [], False
        for rule in self._rules:
            failed = next((one for one in rule.conditions if not one.fits(asked)), None)
            named = f"rule {rule.name}" + (" (in shadow)" if rule.route.shadow else "")
            if is_found:
                lines.append(f"{named}: not reached")
            elif failed is not None:
                lines.append(f"{named}: does not fit: {failed.complaint(asked)}")
            elif rule.route.shadow:
                lines.append(f"{named}: fits, and would have been used")
            else:
                is_found = True
                lines += [f"{named}: fits", *self._told(rule, asked, forced, drawn)]
        return lines if is_found else [*lines, "no rule fits"]

    def _told(self, rule: _Rule, asked: Asked, forced: str | None, drawn: Drawn | None) -> list[str]:
        """How the arm came about, and where it leads."""
        if forced is not None:
            row = rule.rows.get(forced)
            if row is None:
                return [f"  {UnknownArm(forced, rule.name, rule.rows)}"]
            return [f"  arm {forced}: forced by the request", _leads(rule.ways[row])]
        if rule.only is not None:
            return [_leads(rule.only)]
        weights = rule.weights(self._shares)
        shown = ", ".join(f"{arm.name} {weight / (sum(weights) or 1.0):.4g}" + " (canary)" * (arm.name == rule.canary)
                          for arm, weight in zip(rule.route.arms, weights, strict=True))  # fmt: skip
        drawn = drawn or Drawn(UNKNOWN, rule.user(asked))
        if drawn.number != drawn.number and not drawn.user:
            return [f"  split: {shown}; the next number of the sequence decides"]
        row, (number, user) = rule.draw(drawn, self._shares)
        sticky = rule.route.sticky
        source = f"by the {sticky.header or sticky.by}" if sticky is not None and user else "from the sequence"
        return [f"  split: {shown}; {number:.6f} drawn {source}: arm {rule.ways[row].arm}", _leads(rule.ways[row])]


def _way(route: Route, row: int, rule: str, costs: Mapping[str, float]) -> Way:
    """What the arm in this row leads to."""
    arm = route.arms[row]
    pools = tuple(dict.fromkeys((arm.to, *(arm.fallback or route.fallback))))
    if route.cheapest:
        pools = tuple(sorted(pools, key=lambda pool: costs.get(pool, 1.0)))
    return Way(arm.name, pools, route.fallback_after, arm.as_, rule, route.mirror)


def _leads(way: Way) -> str:
    then = f", then {', '.join(way.pools[1:])} (when full, after {way.after:g} s)" if len(way.pools) > 1 else ""
    return f"  to {way.pools[0]}{then}" + (f", as {way.as_}" if way.as_ is not None else "")
