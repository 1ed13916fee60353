"""What the gateway's short words for waiting mean, for people. Standard library only, as `explain`.

Left to others: the words themselves (`core.grounds`, `policies.admission.closed`).
"""

from __future__ import annotations

from collections.abc import Mapping

WAITED_FOR: Mapping[str, str] = {
    "room": "room",
    "turn": "its turn",
    "share": "others, since its tenant asks for several times its share",
    "promise": "a place where its promise is kept",
    "choice": "a better choice",
    "bounds": "a place where it does not slow others down",
}
CLOSED: Mapping[str, str] = {
    "room": "its KV cache, its queue or the filler there leaves no room",
    "pace": "the others' tokens would come too slowly",
    "batch": "its part of an iteration would make the next first tokens late",
    "first": "a first token that comes now would wait there for too long",
    "prompt": "its prompt would be in the way of the next first tokens",
    "few": "as much is there as may be while nothing can be predicted",
}
"""Why an endpoint is closed to filler."""
