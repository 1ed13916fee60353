"""How long one who must wait may do so, and the refusal where that is of no use.

The idea: waiting first and being refused then helps nobody, so it is refused on arrival when what is ahead of it cannot
drain in time. A class in the shadow is looked at in the same way and refuses nobody: who would have been refused is
counted, and goes on behind all others.

Left to others: when a request can no longer keep what it is promised (`judge`), queues (`room`), asking (`desk`).
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from gateway.core.errors import Refused
from gateway.core.fleet import Fleet
from policies.admission.base import Waiting
from policies.admission.grounds import grounds_of
from policies.admission.judge import Judge, Verdict
from policies.admission.room import WaitingRoom

SPARED = 86_400.0  # seconds that a request waits at most whose class refuses nobody
# What is ahead must drain in this share of the time that is left: how fast it drains is only known roughly, and those
# that are served at the last moment are late as soon as anything is slower than it was. A long queue gives more to
# choose from; where most are refused anyway there is enough, and a shorter one brings sooner first tokens and does not
# leave long prompts behind. So it shrinks as the share of the refused grows from MILD to DEEP.
PATIENCE, IMPATIENCE = 0.65, 0.25
MILD, DEEP = 0.35, 0.5
_MESSAGES = {
    "queue_full": "the queue for this model is too long",
    "queue_timeout": "no model server had room in time",
    "slo": "the promised latency cannot be kept right now",
    "deadline": "the answer would not be whole before its deadline",
}


class Refusals:
    """Those of one desk. `spared` counts, by class and reason, who would have been refused but for a shadow."""

    def __init__(self, room: WaitingRoom[Any], judge: Judge, fleet: Fleet):
        self._room = room
        self._judge = judge
        self._fleet = fleet
        self.spared: Counter[tuple[str, str]] = Counter()

    def on_arrival(self, waiting: Waiting[Any], verdict: Verdict) -> Refused | None:
        """Set until when one that has just come may wait; the refusal where that is of no use."""
        now, rule = waiting.since, self._room.rule(waiting.request.klass)
        if waiting.why == "slo" and rule.late == "serve":
            if verdict.until <= now:
                waiting.late = waiting.behind = True
                waiting.until, waiting.why = self.at_last(waiting, now + rule.wait)
        elif verdict.until <= now:
            return self.refusal(waiting, now, verdict.hopeless)
        if now + rule.wait < waiting.until:
            waiting.until, waiting.why = now + rule.wait, "queue_timeout"
        is_refused = rule.late == "refuse" and not rule.filler and waiting.asks_at == math.inf
        if is_refused and self._room.delay(waiting) > self._patience() * (waiting.until - now):
            self._room.flow.turn_away(now)
            return self.refusal(waiting, now)
        return None

    def spared_until(self, waiting: Waiting[Any], now: float) -> tuple[float, str] | None:
        """Until when one that is to be refused goes on waiting, because its class is only looked at; counts it.

        Its deadline is the client's own, and holds.
        """
        rule = self._room.rule(waiting.request.klass)
        if not rule.shadow or waiting.why == "deadline":
            return None
        self.spared[rule.name, waiting.why] += 1
        return self.at_last(waiting, now + SPARED)

    def at_last(self, waiting: Waiting[Any], until: float) -> tuple[float, str]:
        """Until when one waits that is served though late, and why it goes then: its deadline holds in any class."""
        last = self._judge.last_start(waiting.request, self._fleet.predictor)
        return (last, "deadline") if last < until else (until, "queue_timeout")

    def refusal(self, waiting: Waiting[Any], now: float, hopeless: bool = False) -> Refused:
        why = "queue_full" if waiting.why == "queue_timeout" and waiting.since == now else waiting.why
        after = None if hopeless else self._room.retry_after(waiting.request.klass, now)
        error = Refused(_MESSAGES[why], reason=why, retry_after=after)
        error.should_retry = not hopeless
        return self.explained(error, waiting, now)

    def explained(self, error: Refused, waiting: Waiting[Any], now: float) -> Refused:
        """The refusal with what was known when it was made."""
        error.grounds = grounds_of(waiting, self._room, self._fleet.pool, self._judge.margin.share, now)
        return error

    def _patience(self) -> float:
        """The share of the time left in which what is ahead must drain."""
        depth = (self._room.flow.turned_away - MILD) / (DEEP - MILD)
        return PATIENCE + (IMPATIENCE - PATIENCE) * min(1.0, max(0.0, depth))
