"""Which engines a pool has, found in its own decision records: what a plan runs requests on.

The idea: the same fit as `headway lab calibrate` (`fitting`), for the engines themselves and not only for a file that a
person names: the chunk budget that explains the streams best, the time from the gateway to the engine, how fast each
endpoint is compared to the others, and what its KV cache holds. Nothing is asked of the engines.

What requests share of their prompts is found there as well, as far as records tell it: how much of each was cached. In
a session whose later turns were mostly cached each prompt is taken to go on from the last one; elsewhere what was
cached is taken to be the common beginning of that tenant's prompts for the model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from backends.sim.profiles import read_profile
from gateway.core.prices import NAMES
from gateway.core.types import Floats
from gateway.plan.values import Found, Turn
from loadtest.lab.calibrate import profile_of
from loadtest.lab.evidence import Evidence, read
from loadtest.lab.fitting import Fitted, TooLittle, fit

BLOCK = 16
LEAST_OVERHEAD = 0.0005  # seconds
_PREFILL = ("slope1", "slope2", "slope3", "pair")
_GROWS = 0.5  # of the last prompt, cached at the next turn: the session goes on from it
_CHAIN = 1 << 20  # blocks of one chain; ids of chains do not meet


def fitted(records: Path, pool: str, folder: Path) -> Found:
    """The engines of `pool` as its records show them; their profiles are written into `folder`.

    Where the records do not say enough, or the pool's policy did not predict, it says so and nothing is found.
    """
    evidence = read([records], pool)
    try:
        found = fit(evidence.answers(), evidence.knees, len(evidence.endpoints))
    except TooLittle as error:
        return Found(told=str(error))
    if not evidence.kv_tokens:
        return Found(told="no endpoint said how many tokens its KV cache holds")
    middle = np.exp(np.median(np.log(found.factors), axis=0))
    own = {name: _write(folder / f"{pool}-{row}.json", pool, found, evidence, found.factors[row])
           for row, name in enumerate(evidence.endpoints)}  # fmt: skip
    told = (f"fitted to {len(evidence.streams)} recorded streams (errors of those held out: first tokens "
            f"{found.ttft_error:.1%}, per token {found.tpot_error:.1%})")  # fmt: skip
    return Found(_write(folder / f"{pool}.json", pool, found, evidence, middle), int(found.chunk),
                 max(LEAST_OVERHEAD, float(found.prices[0])), own, (found.ttft_error, found.tpot_error),
                 told)  # fmt: skip


def _write(path: Path, pool: str, found: Fitted, evidence: Evidence, factors: Floats) -> str:
    """The profile of an endpoint on which decoding and prefill take so many times as long as the common prices say."""
    decoding, prefill = factors.tolist()
    times = np.array([prefill if name in _PREFILL else 1.0 if name == "overhead" else decoding for name in NAMES])
    own = replace(found, prices=found.prices * times)
    path.write_text(json.dumps(profile_of(pool, own, evidence)), encoding="utf-8")
    read_profile(path)
    return str(path)


def shared_blocks(turns: Iterable[Turn]) -> list[tuple[int, ...]]:
    """For each prompt, in the order of arrival, ids of its blocks of `BLOCK` tokens that another may have, too."""
    turns = list(turns)
    growing = _growing(turns)
    chains: dict[object, int] = {}
    found = []
    for turn in turns:
        own = turn.session and (turn.model, turn.session) in growing
        chain = (turn.model, turn.session) if own else (turn.model, turn.tenant)
        tokens = turn.prompt if own else turn.cached
        count = int(tokens) // BLOCK if tokens > 0.0 else 0
        first = _CHAIN * chains.setdefault((bool(own), chain), len(chains)) if count else 0
        found.append(tuple(range(first, first + min(count, _CHAIN))))
    return found


def _growing(turns: Iterable[Turn]) -> set[tuple[str, str]]:
    """Sessions whose prompts go on from one another."""
    last: dict[tuple[str, str], float] = {}
    found = set()
    for turn in turns:
        key = (turn.model, turn.session)
        if turn.session and key in last and turn.cached >= _GROWS * last[key]:
            found.add(key)
        if turn.session and turn.prompt > 0.0:
            last[key] = turn.prompt
    return found
