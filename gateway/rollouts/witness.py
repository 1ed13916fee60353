"""What the proxy tells of a request to the judge of its arm's canary: that a try ended, or that there was no place.

The idea: the proxy knows when something happened, and not whether it speaks for or against an arm. A client must not be
able to fail a canary: what follows from its own wishes or words is not told. One request fails its arm once.

Left to others: what of a try is an observation, and as what (`seen`), the judge (`canaries`).
"""

from __future__ import annotations

from gateway.ask import Ask, Facts
from gateway.config.types import ANY_MODEL
from gateway.core.reservation import Reservation
from gateway.core.types import Outcome
from gateway.rollouts.canaries import Canaries
from gateway.routers import user_of


class Witness:
    """Tells `canaries` (None: nobody)."""

    def __init__(self, canaries: Canaries | None):
        self._canaries = canaries

    def missed(self, ask: Ask, facts: Facts, code: str, now: float) -> None:
        """The arm had no place for the request, which was refused with this code or went to somebody else's pool."""
        way = ask.way
        if facts.is_missed or (code == "slo" and _wants_it_sooner(ask)):
            return
        facts.is_missed = True
        if way.arm and not way.forced and self._canaries is not None:
            self._canaries.missed(ask.model.name, way.rule, way.arm, code, now, user_of(way), ask.share)

    def ended(self, ask: Ask, facts: Facts, reservation: Reservation, outcome: Outcome, finish: str,
              now: float) -> None:  # fmt: skip
        """A try has ended, its place was given back. `finish`: why the engine stopped writing, in its own word."""
        way = ask.way
        if not way.arm or way.forced or facts.is_copy or self._canaries is None:
            return
        if outcome.status == 404 and _names_what_may_not_be(ask):
            return
        self._canaries.see(ask.model.name, way.rule, way.arm, reservation, outcome, now, finish, user_of(way),
                           ask.share, ask.route)  # fmt: skip


def _wants_it_sooner(ask: Ask) -> bool:
    """Whether the client asked for less time than its model promises."""
    request, promised = ask.request, ask.model.slo
    pairs = ((request.ttft_slo, promised.ttft), (request.tpot_slo, promised.tpot))
    return any(asked == asked and asked != own for asked, own in pairs)


def _names_what_may_not_be(ask: Ask) -> bool:
    """Whether a client's own word may be what is not found: an earlier answer, or a model that no file names."""
    return ask.route == "/v1/responses" or (ask.model.name == ANY_MODEL and ask.upstream_model == ask.client_model)
