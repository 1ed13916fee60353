"""What is noted of a request while it runs, as the one record that is kept of it.

Left to others: noting it (`proxy`), keeping it (`ledger`).
"""

from __future__ import annotations

import time

from gateway.ask import Ask, Facts
from gateway.core.errors import HeadwayError
from gateway.core.types import UNKNOWN
from gateway.intake import Screened
from gateway.outlet import Outlet
from gateway.records import Forecast, RequestRecord, Routed, Work
from gateway.routers import NOWHERE, routed
from gateway.told import admission_of
from gateway.wire.head import RequestHead


def recorded(head: RequestHead, reply: Outlet, at: float, received: float, facts: Facts, ask: Ask | None,
             error: HeadwayError | None, request_id: str) -> RequestRecord:  # fmt: skip
    """The record of a request that has ended. `at` is Unix time, `received` monotonic; `ask` None: it was refused."""
    relay = facts.relay
    meter = relay.meter if relay is not None else None
    request = ask.request if ask is not None else None
    at = ask.asked.clock if ask is not None else at  # (the time that rules looked at)
    went_at_once = error is None and not facts.queued and not facts.aborted and not facts.closed
    return RequestRecord(
        request_id=request.id if request is not None else request_id, at=at, status=reply.status, ended=facts.ended,
        method=head.method.decode("latin-1"), path=head.path.decode("latin-1"),
        model=request.model if request is not None else "", pool=facts.pool,
        klass=request.klass if request is not None else "",
        tenant=request.tenant if request is not None else "", stream=request is not None and request.stream,
        endpoint=facts.endpoint, policy=facts.policy, reason=facts.reason,
        code=error.code if error is not None else "", tries=facts.tries, queued=facts.queued,
        overhead=facts.overhead, ttft=facts.ttft, tpot=facts.tpot, duration=time.monotonic() - received,
        ttft_there=facts.ttft_there,
        ttft_slo=request.ttft_slo if request is not None else UNKNOWN,
        tpot_slo=request.tpot_slo if request is not None else UNKNOWN,
        predicted=Forecast.of(facts.forecast) if facts.forecast is not None else None,
        work=Work.of(relay.reservation) if relay is not None else None,
        prompt_tokens=_count(meter.prompt if meter else -1), cached_tokens=_count(meter.cached if meter else -1),
        completion_tokens=_count(meter.tokens if meter else -1), bytes_in=len(ask.body) if ask is not None else 0,
        bytes_out=reply.bytes_out, candidates=facts.candidates,
        admission=None if went_at_once else admission_of(facts, request, error),
        arm=ask.way.arm if ask is not None else "", finish=meter.finish if meter is not None else "",
        route=_route(head, ask),
    )  # fmt: skip


def _route(head: RequestHead, ask: Ask | None) -> Routed | None:
    """What routing looked at and said; of one that was refused before, what it would have looked at."""
    if ask is not None:
        return routed(ask.asked, ask.asked_class, ask.way, ask.share, ask.looked_at, ask.limit)
    screened = head.found
    if not isinstance(screened, Screened) or screened.asked is None:
        return None
    return routed(screened.asked, screened.klass or "", NOWHERE, UNKNOWN, frozenset(), None)


def _count(tokens: int) -> float:
    return float(tokens) if tokens >= 0 else UNKNOWN
