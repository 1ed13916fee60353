"""The fewest requests: ours in flight plus what others have there. Ties are broken at random.

The idea: join the shortest queue (Winston, "Optimality of the shortest line discipline", 1977). What makes it work here
is not the rule but the count: it is corrected by our own dispatches in the same step, so a burst spreads although no
server has reported anything yet (Mitzenmacher, "How useful is old information?", 2000, shows what happens otherwise).

It takes all requests as equal. Where prompts or answers differ much, `least_tokens` knows more.
"""

from __future__ import annotations

from gateway.core.snapshot import Snapshot
from gateway.core.types import Decision, Request
from policies.picking.base import Policy, lowest


class LeastInflight(Policy):
    """No options."""

    def pick(self, request: Request, snapshot: Snapshot) -> Decision:
        requests = snapshot.requests
        position = lowest(requests, snapshot.random)
        reason = f"{float(requests[position]):.0f} requests there, fewest of {len(requests)}"
        return Decision(int(snapshot.rows[position]), reason, requests.copy())
