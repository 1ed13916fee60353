"""What a request is charged against its tenant's limits: reserved before it is sent, settled when it has ended.

Left to others: whether there is room (`limits`), the accounts themselves (`core.limiter`).
"""

from __future__ import annotations

import time

from gateway.ask import Ask, Facts
from gateway.core.types import UNKNOWN
from gateway.grants import Grant
from gateway.limits import Limiter
from gateway.outlet import Outlet


async def reserve(limiter: Limiter, ask: Ask) -> None:
    """Reserve what the request will use. Raises Refused or BadRequest."""
    request, most = ask.request, ask.limit
    output = request.output_tokens if ask.generates else 0.0
    most = (most * ask.answers if most is not None else None) if ask.generates else 0
    ask.grant = await limiter.wait_for_grant(ask.key, request.prompt_tokens, output, most, time.monotonic(),
                                             len(ask.body))  # fmt: skip
    ask.reply_fields = ask.grant.headers()


async def take_in(limiter: Limiter, ask: Ask) -> None:
    """Charge one request and no tokens: what it uses is reserved when it is done, later. Raises Refused."""
    now = time.monotonic()
    grant = await limiter.wait_for_grant(ask.key, 0.0, 0.0, 0, now)
    grant.settle(0.0, 0.0, False, now)
    ask.reply_fields = grant.headers()


def settle(grant: Grant, facts: Facts, reply: Outlet) -> None:
    """Charge a tenant for what a request used: all that was written, also of an answer whose client left."""
    now, relay = time.monotonic(), facts.relay
    if relay is None:
        grant.cancel(now)
    elif reply.status >= 400 or (not reply.started and facts.ended != "client_gone"):
        grant.settle(0.0, 0.0, False, now)  # it failed, and nothing of it came
    else:
        meter = relay.meter
        # Of a plain answer without usage nobody knows how much was written: the estimate is charged.
        written = float(meter.tokens) if relay.stream or meter.completion >= 0 else UNKNOWN
        grant.settle(float(meter.prompt), written, meter.completion < 0, now)
