"""Which pool and which arm a request goes to: rules, splits, stickiness, and canaries that are judged.

`Router` is what the rest of the gateway asks, once for each request; a `Judge` says what a canary's requests show, and
a `Canary` what is done about it. Everything here is pure: it is told the time, the canaries' shares and what was seen.
"""

from __future__ import annotations

from policies.routing.base import Asked, Drawn, NoRoute, UnknownArm, Way
from policies.routing.canary import Canary, CannotDo, Transition
from policies.routing.judge import HARMS, Judge, Judgement, Measure, Seen
from policies.routing.rules import Count, Router

__all__ = ["HARMS", "Asked", "Canary", "CannotDo", "Count", "Drawn", "Judge", "Judgement", "Measure", "NoRoute",
           "Router", "Seen", "Transition", "UnknownArm", "Way"]  # fmt: skip
