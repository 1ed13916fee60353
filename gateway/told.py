"""What is told of how a request was admitted: what it waited for, what was closed to it, and why it was refused.

The idea: a request that went at once has nothing to tell, and nothing is made for it. For the others one small value is
kept beside the record (`records.Admission`); a refusal is put into words once, here, so that the log, the decision
record and `headway explain` say the same.

Left to others: deciding (`policies.admission`), its figures (`gateway.core.grounds`), printing (`explain`).
"""

from __future__ import annotations

from math import isfinite

from gateway.ask import Facts
from gateway.core.errors import HeadwayError, Refused
from gateway.core.grounds import Grounds
from gateway.core.types import UNKNOWN, Request
from gateway.records import Admission
from gateway.what_if import seconds
from gateway.words import WAITED_FOR


def admission_of(facts: Facts, request: Request | None, error: HeadwayError | None) -> Admission | None:
    """None where there is nothing to tell: it went at once, or never came so far."""
    refused = error if isinstance(error, Refused) and request is not None else None
    if refused is None and not (facts.waited_for or facts.aborted or facts.closed):
        return None
    waited_for = facts.waited_for
    if refused is None or request is None:
        return Admission(waited_for, facts.aborted, facts.closed)
    after = refused.retry_after if refused.retry_after is not None else UNKNOWN
    if refused.grounds is not None:
        waited_for = (*waited_for, *(what for what in refused.grounds.lacked if what not in waited_for))
    return Admission(waited_for, facts.aborted, facts.closed, _words(refused, request), refused.grounds, after)


def _words(error: Refused, request: Request) -> str:
    """Why it was refused, in one line."""
    parts = [error.message]
    if error.grounds is not None:
        parts += _promises(error.grounds, request)
        parts += _queue(error.grounds)
    if not error.should_retry:
        parts.append("trying again cannot help")
    elif error.retry_after is not None:
        parts.append(f"come back in {max(1, round(error.retry_after))} s")
    return "; ".join(parts)


def _promises(grounds: Grounds, request: Request) -> list[str]:
    """What was predicted of what was promised."""
    parts = []
    waited = f" after {seconds(grounds.waited)} of waiting" if grounds.waited > 0.0 else ""
    if isfinite(grounds.ttft) and isfinite(request.ttft_slo):
        parts.append(f"first token predicted within {seconds(grounds.ttft)}{waited}, {_promised(request.ttft_slo)}")
    if isfinite(grounds.tpot) and isfinite(request.tpot_slo):
        share = f" (servers are filled to {grounds.share:.0%} of it)" if grounds.share < 1.0 else ""
        parts.append(f"per token predicted {seconds(grounds.tpot)}, {_promised(request.tpot_slo)}{share}")
    if isfinite(grounds.deadline):
        took = f"the whole answer predicted to take {seconds(grounds.whole)}, " if isfinite(grounds.whole) else ""
        over = grounds.deadline <= 0.0
        parts.append(took + ("its deadline had passed" if over else f"its deadline in {seconds(grounds.deadline)}"))
    return parts


def _promised(slo: float) -> str:
    return f"promised {seconds(slo)}"


def _queue(grounds: Grounds) -> list[str]:
    """What was ahead of it, or how long it has waited."""
    if grounds.waited > 0.0:
        names = ", then ".join(WAITED_FOR[what] for what in grounds.lacked)
        return [f"waited {seconds(grounds.waited)} for {names}"]
    if not grounds.queued:
        return []
    ahead = f", those before it for about {seconds(grounds.ahead)} more" if grounds.ahead > 0.0 else ""
    left = f", and it could wait {seconds(grounds.left)}" if isfinite(grounds.left) and ahead else ""
    return [f"{grounds.queued} of its class waited{ahead}{left}"]


def described(admission: Admission) -> dict[str, object]:
    """In JSON's terms; None where a figure is not known."""
    closed: dict[str, list[str]] = {}
    for endpoint, why in admission.closed:
        closed.setdefault(why, []).append(endpoint)
    return {
        "waited_for": list(admission.waited_for), "displaced": admission.displaced, "closed": closed,
        "refused": None if not admission.why else {
            "why": admission.why, "retry_after": _known(admission.retry_after),
            **({} if admission.grounds is None else _figures(admission.grounds)),
        },
    }  # fmt: skip


def _figures(grounds: Grounds) -> dict[str, object]:
    return {
        name: _known(value) if isinstance(value, float) else value
        for name, value in grounds._asdict().items()
        if name != "lacked"
    }


def _known(value: float) -> float | None:
    return value if isfinite(value) else None
