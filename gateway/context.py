"""Where a prompt can fit: pools whose servers take so many tokens, and a clear no where nobody does.

The idea: how long prompt and answer may be together is what the operator wrote (`max_context`) or what the servers say
of themselves. How long a prompt is is an estimate until an engine has counted it, so a pool is passed over when the
estimate does not fit and another pool is there for it, but a request is refused only when even `SURELY` of its estimate
fits nowhere: in between, the engine that counts decides. Nothing is known of a body that is no single text: several
prompts each have the whole length for themselves, and an image in it is worth few tokens however many bytes it has.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from gateway.core.errors import BadRequest

_ANY = 1 << 62  # tokens: as many as come
SURELY = 0.7  # of an estimate of tokens: prompts are hardly ever shorter
ESCAPED = 3.0  # bytes that a character is longer than itself where it is written as an escape
_MEDIA = re.compile(rb'base64|"input_audio"|"data"\s*:')

Longest = Callable[[str, str], int | None]
"""The most tokens of prompt and answer that a pool takes for a model, as its servers call it; None: not known."""


def certain(text: bytes, generates: bool) -> float:
    """How much of an estimate of a prompt's tokens (0 to 1) there surely is; 0 where its size says nothing of them.

    `text` is its raw JSON. A list of prompts generates nothing, or is a list of texts and not of messages.
    """
    if not generates or not text or (text[:1] == b"[" and text[1:].lstrip()[:1] != b"{") or _MEDIA.search(text):
        return 0.0
    return SURELY * (1.0 - ESCAPED * text.count(b"\\u") / len(text))


def fitting(pools: tuple[str, ...], name: str, most: int | None, longest: Longest, prompt: float,
            answer: int | None, surely: Callable[[], float] = lambda: SURELY) -> tuple[str, ...]:  # fmt: skip
    """The pools that a prompt of about so many tokens, with an answer of at most `answer`, can go to, in their order.

    `most` is the operator's own limit; `surely` (see `certain`) is asked where the estimate does not fit everywhere.
    Raises BadRequest (`context_length_exceeded`) where it surely fits nowhere.
    """
    if most is not None:
        lengths = [most] * len(pools)
    else:
        said = [longest(pool, name) for pool in pools]
        lengths = [length if length is not None else _ANY for length in said]
    wanted = prompt + (answer or 1)
    fits = tuple(pool for pool, length in zip(pools, lengths, strict=True) if wanted <= length)
    if len(fits) == len(pools):
        return pools
    share = surely()
    if fits and share:
        return fits
    if share * prompt + 1.0 > max(lengths):
        raise BadRequest(
            f"this prompt has about {prompt:.0f} tokens and this model takes {max(lengths)}, the answer included: make "
            "the prompt shorter", code="context_length_exceeded", param="messages",
        )  # fmt: skip
    return pools
