"""The grounds of a refusal, from what its desk knew when it refused.

Left to others: refusing (`desk`), the words (`gateway.admission`).
"""

from __future__ import annotations

from typing import Any

from gateway.core.grounds import Grounds
from gateway.core.types import UNKNOWN
from policies.admission.base import Waiting
from policies.admission.judge import WIDEST
from policies.admission.room import WaitingRoom


def grounds_of(waiting: Waiting[Any], room: WaitingRoom[Any], pool: str, share: float, now: float) -> Grounds:
    """Of one that will not wait, or waits no longer. What is ahead is known only of who has just come.

    `share`: up to how much of a promised pace endpoints are filled.
    """
    request, forecast = waiting.request, waiting.forecast
    has_come = waiting.since == now
    queued, _ = room.counts(now).get(request.klass, (0, 0.0))
    found = Grounds(
        pool, waiting.wanted, now - waiting.since, queued, room.delay(waiting) if has_come else UNKNOWN,
        max(0.0, waiting.until - now) if has_come else UNKNOWN, deadline=request.deadline - now,
    )  # fmt: skip
    if forecast is None:
        return found
    whole = forecast.ttft + forecast.tpot * request.output_tokens
    return found._replace(
        ttft=min(forecast.ttft_high, WIDEST * forecast.ttft), tpot=forecast.tpot_base, whole=whole, share=share
    )
