"""Why a request waits at the gateway, and on what grounds one was refused: the words, and the figures behind them.

The idea: what was missing, predicted and ahead is known only in the moment in which it is judged, so it is noted there,
by those who must wait or are refused; nobody else pays for it.

Left to others: judging (`policies.admission`), keeping and wording it (`gateway.admission`).
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.core.types import UNKNOWN

ROOM = "room"  # no endpoint that it may have has a place
TURN = "turn"  # others wait for room that it may not overtake
SHARE = "share"  # its tenant asks for several times its share, so it goes after the others
PROMISE = "promise"  # where it would go, its SLO or deadline would not be kept
CHOICE = "choice"  # its policy expects a better choice in a moment
BOUNDS = "bounds"  # filler: nowhere would it leave the others what they are promised


class Grounds(NamedTuple):
    """What a refusal was decided on. Seconds, NaN where it is not known.

    `lacked`: what it waited for, first to last, or what was missing when it came. `waited`: how long. `queued`: how
    many of its class wait; `ahead`: until those before it have gone, when it came; `left`: for how long a turn would
    have been of use then. `ttft`: the first token as predicted where it would have gone, at the upper end; `tpot`: its
    pace there, `share`: how much of a promised one may be used; `whole`: all of the answer. `deadline`: until its
    deadline.
    """

    pool: str
    lacked: tuple[str, ...]
    waited: float
    queued: int
    ahead: float = UNKNOWN
    left: float = UNKNOWN
    ttft: float = UNKNOWN
    tpot: float = UNKNOWN
    whole: float = UNKNOWN
    share: float = 1.0
    deadline: float = UNKNOWN
