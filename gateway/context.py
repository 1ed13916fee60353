"""Where a prompt can fit: pools whose servers take so many tokens, and a clear no where nobody does.

The idea: how long prompt and answer may be together is what the operator wrote (`max_context`) or what the servers say
of themselves. How long a prompt is is an estimate until an engine has counted it, so a pool is passed over when the
estimate does not fit and another pool is there for it, but a request is refused only when even `SURELY` of its estimate
fits nowhere: in between, the engine that counts decides.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.core.errors import BadRequest

_ANY = 1 << 62  # tokens: as many as come
SURELY = 0.7  # of an estimate of tokens: prompts are hardly ever shorter

Longest = Callable[[str, str], int | None]
"""The most tokens of prompt and answer that a pool takes for a model, as its servers call it; None: not known."""


def fitting(pools: tuple[str, ...], name: str, most: int | None, longest: Longest, prompt: float,
            answer: int | None) -> tuple[str, ...]:  # fmt: skip
    """The pools that a prompt of about so many tokens, with an answer of at most `answer`, can go to, in their order.

    `most` is the operator's own limit. Raises BadRequest (`context_length_exceeded`) where it surely fits nowhere.
    """
    if most is not None:
        lengths = [most] * len(pools)
    else:
        said = [longest(pool, name) for pool in pools]
        lengths = [length if length is not None else _ANY for length in said]
    wanted = prompt + (answer or 1)
    fits = tuple(pool for pool, length in zip(pools, lengths, strict=True) if wanted <= length)
    if fits:
        return pools if len(fits) == len(pools) else fits
    if SURELY * prompt + 1.0 > max(lengths):
        raise BadRequest(
            f"this prompt has about {prompt:.0f} tokens and this model takes {max(lengths)}, the answer included: make "
            "the prompt shorter", code="context_length_exceeded", param="messages",
        )  # fmt: skip
    return pools
