"""Promises that cannot be kept: an SLO below what an idle server of the pool's profile takes.

The idea: the profile says what one iteration costs. A prompt of one token on an idle server needs one iteration with
one token in it, each token after that one iteration that decodes one sequence; nothing is faster. Without a profile
nothing is said. If every pool is too slow the file is wrong; if some are, the promise holds only on the others.

Left to others: what is predicted of real requests (`gateway.core.formula`).
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.config.kinds import Reader
from gateway.config.problems import shown
from gateway.config.types import Config, Model

Floor = Mapping[str, float]
_WHAT = {"ttft": "the first token", "tpot": "each token"}


def check_slo(config: Config, reader: Reader) -> None:
    """Report promises below the floor of the pools that may serve them."""
    floors = {name: floor for name, pool in config.pools.items() if (floor := _floor(pool.profile)) is not None}
    for model in config.models.values():
        for key in ("ttft", "tpot"):
            promised = getattr(model.slo, key)
            if promised is not None:
                _check(model, key, promised, floors, reader)


def _floor(profile: str | None) -> Floor | None:
    """The least seconds to the first token, and per token after it; None where no profile says so."""
    from gateway.priors import prior_of  # not at the top: it reads a table that most files do not need

    if profile is None:
        return None
    try:
        prior = prior_of(profile)
    except ValueError:  # a name of somebody else's registry
        return None
    return {"ttft": prior.base + prior.slope1, "tpot": prior.base + prior.decode}


def _check(model: Model, key: str, promised: float, floors: Mapping[str, Floor], reader: Reader) -> None:
    slow = [pool for pool in model.pools if pool in floors and floors[pool][key] > promised]
    if not slow:
        return
    best = min(floors[pool][key] for pool in slow)
    where = reader.value_at("models", model.name, "slo", key)
    if len(slow) == len(model.pools):
        told = f"unreachable: {_WHAT[key]} takes at least {best * 1e3:.3g} ms on an idle server of {shown(slow[0])}"
        reader.error(where, told, "promise more than that, or use a faster pool")
    else:
        told = f"pool {shown(slow[0])} cannot keep this: {_WHAT[key]} takes at least {best * 1e3:.3g} ms there"
        reader.warn(where, told, "only the other pools can")
