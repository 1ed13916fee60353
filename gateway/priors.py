"""What a pool's predictor starts from: the fitted timing of a named GPU and model, as prices in seconds.

The table of profiles is the simulated engines'; what both need is one set of figures. A profile knows nothing of what
lies between the gateway and its engine, so the time that a request takes to get there stays the neutral guess.
"""

from __future__ import annotations

from gateway.core.prediction import Prior

# A price of zero in a fit means "too small to be seen there". The predictor learns factors, and those of zero are lost.
_LEAST = 0.05


def prior_of(name: str) -> Prior:
    """The prior of the profile with this name, or in this file. Raises ValueError, with hints, if there is none."""
    from backends.sim.profiles import profile

    found, neutral = profile(name), Prior()

    def seconds(milliseconds: float, guess: float) -> float:
        return max(milliseconds * 1e-3, _LEAST * guess)

    return Prior(
        base=seconds(found.base + found.overhead_iter, neutral.base),
        decode=seconds(found.seq + found.overhead_seq + found.slope1, neutral.decode),
        context=seconds(found.ctx, neutral.context),
        slope1=seconds(found.slope1, neutral.slope1),
        slope2=seconds(found.slope2, neutral.slope2),
        slope3=seconds(found.slope3, neutral.slope3),
        pair=seconds(found.pair, neutral.pair),
        knee1=float(found.knee1),
        knee2=float(found.knee2),
        kv_tokens=float(found.kv_tokens),
        sure=True,
    )
