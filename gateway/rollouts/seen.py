"""What of a request a canary's judge is told: which tries count, for which arm, and as what.

The idea: an observation says something of the servers behind an arm and of nobody else. So only tries at the arm's
own pool count: what a fallback took is somebody else's latency. 401, 403 and 404 are the arm's failure, because the
key and the model's name on the way to the server are ours. What a client got wrong (400, 413, 422) falls on all arms
alike where each request is drawn, so there it counts on all of them, and a canary that refuses what the others take
is found; where a client can choose its arm (by its session, a header or the body's `user`) it would be a way to roll
canaries back, and is nobody's failure. Nor is a 404 there on a path that neither the stable arm nor the arm itself has
ever answered: clients can ask for what a server has not, and cannot take away what it has. A request that found no
server at all is a failure of the arm that it was meant for. A client that went away without a token after more than
was predicted has seen at least that latency, so a server that hangs is seen before time-outs are up; one that went
away sooner has seen nothing. Who was forced to an arm by a tester was not drawn, and counts nowhere.

Left to others: prices (`core.frozen`), statistics (`policies.routing.judge`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from gateway.core.frozen import NONE, Frozen, Residual
from gateway.core.reservation import Reservation
from gateway.core.routes import Route
from gateway.core.types import UNKNOWN, Outcome
from policies.routing import Seen

BROKE = ("upstream_failed", "timeout", "error_event", "saturated")
OURS = (401, 403, 404)  # statuses that a client cannot have caused
THEIRS = (400, 413, 422)  # those that it can, or a server that takes less than the others
PATHS = 64  # that are known to be answered, of each arm; more than there are, but for paths of an operator's own


@dataclass(slots=True)
class Counted:
    """One arm's tries. Those `elsewhere` (in a fallback's pool) are in no other count."""

    requests: int = 0
    failed: int = 0
    truncated: int = 0
    elsewhere: int = 0


class Arms:
    """The arms of one canary: makes observations, and counts them."""

    def __init__(self, route: Route):
        if route.canary is None:
            raise ValueError("a route without a canary")
        self._route = route
        self._canary = route.canary.arm
        self._pools = {arm.name: arm.to for arm in route.arms}
        # Whether clients may look for an arm that they like.
        self._is_chosen = route.sticky is not None and route.sticky.by != "key"
        self._failures = OURS if self._is_chosen else OURS + THEIRS
        self._answered: dict[str, set[str]] = {arm.name: set() for arm in route.arms}  # paths
        self.counted = {arm.name: Counted() for arm in route.arms}

    @property
    def canary_pool(self) -> str:
        return self._pools[self._canary]

    @property
    def stable_pools(self) -> tuple[str, ...]:
        """The others', the one with the most weight first."""
        others = [arm for arm in self._route.arms if arm.name != self._canary]
        return tuple(dict.fromkeys(arm.to for arm in sorted(others, key=lambda arm: -arm.weight)))

    def seen(self, arm: str, reservation: Reservation, outcome: Outcome, finish: str, user: int, share: float,
             at: float, frozen: Frozen | None, path: str = "") -> Seen | None:  # fmt: skip
        """The observation of a try that has ended, its place given back; None: it says nothing of the arm.

        `path`: what was asked for; answers on one are alike.
        """
        counted = self.counted.get(arm)
        if counted is None:
            return None
        if reservation.fleet.pool != self._pools[arm]:
            counted.elsewhere += 1
            return None
        status, ended = outcome.status, outcome.ended
        if status == 404 and self._is_chosen and not self._is_answered(arm, path):
            return None
        failed = ended in BROKE or status in self._failures  # (a 5xx that passed as an answer was the client's doing)
        if ended == "client_gone":
            left = self._of_leaver(arm, reservation, outcome, frozen)
            if left is None:
                return None
            residual = left
        elif not failed and (ended != "complete" or status >= 400):
            return None
        else:
            stable = arm != self._canary
            if not failed and len(self._answered[arm]) < PATHS:
                self._answered[arm].add(path)
            residual = NONE if frozen is None else frozen.residual(reservation, outcome, stable=stable)
        truncated = ended in BROKE and outcome.ttft > 0.0
        self._count(counted, failed, truncated)
        tokens = outcome.output_tokens if ended == "complete" and not failed else UNKNOWN
        return Seen(at, arm == self._canary, outcome.endpoint.id, failed, truncated, residual.ttft, residual.tpot,
                    tokens, finish if ended == "complete" else "", user, share)  # fmt: skip

    def _is_answered(self, arm: str, path: str) -> bool:
        """Whether this arm, or one beside the canary, has answered on this path."""
        return any(path in paths for name, paths in self._answered.items() if name == arm or name != self._canary)

    def missed(self, arm: str, user: int, share: float, at: float) -> Seen | None:
        """The observation of a request that got no place at all."""
        counted = self.counted.get(arm)
        if counted is None:
            return None
        self._count(counted, True, False)
        return Seen(at, arm == self._canary, "", True, False, UNKNOWN, UNKNOWN, UNKNOWN, "", user, share)

    def _of_leaver(self, arm: str, reservation: Reservation, outcome: Outcome,
                   frozen: Frozen | None) -> Residual | None:  # fmt: skip
        """Of a client that went away: its first token if it had one, else that it had waited for so long in vain."""
        if frozen is None:
            return None
        if outcome.ttft > 0.0:
            return frozen.residual(reservation, outcome, stable=arm != self._canary)
        waited = outcome._replace(ttft=outcome.duration, status=200)
        residual = frozen.residual(reservation, waited, stable=False)  # (a bound is nothing to learn from)
        return residual if residual.ttft > 0.0 else None

    @staticmethod
    def _count(counted: Counted, failed: bool, truncated: bool) -> None:
        counted.requests += 1
        counted.failed += failed
        counted.truncated += truncated

    def view(self, share: float) -> list[dict[str, object]]:
        """The arms as operators are shown them, when the canary has this `share` of the requests."""
        others = sum(arm.weight for arm in self._route.arms if arm.name != self._canary) or 1.0
        return [
            {"arm": arm.name, "pool": arm.to, "canary": arm.name == self._canary,
             "share": share if arm.name == self._canary else (1.0 - share) * arm.weight / others,
             **asdict(self.counted[arm.name])}
            for arm in self._route.arms
        ]  # fmt: skip

    # --- keeping -------------------------------------------------------------------------------------------------

    def to_state(self) -> dict[str, object]:
        """JSON values."""
        return {arm: asdict(counted) for arm, counted in self.counted.items()}

    def restore(self, state: Mapping[str, Mapping[str, object]]) -> None:
        """Go on from there. Raises KeyError, TypeError or ValueError for what `to_state` did not give."""
        names = [field.name for field in fields(Counted)]
        self.counted = {arm: Counted(*(_whole(state[arm][name]) for name in names)) for arm in self.counted}


def _whole(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("not a count")
    return value
