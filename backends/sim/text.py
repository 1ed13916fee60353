"""Text and tokens of a simulated model: four bytes are one token, both ways.

The idea: a prompt of `n` bytes is exactly ceil(n / 4) tokens, so a client that wants a prompt length sends four times
as many bytes; the answer's tokens are four bytes each, so an answer sent back as history is the same bytes, hence the
same cache blocks, again. A block's key is a hash of its bytes and of the key before it. Roles, names and templates
add no tokens: the prompt is the concatenation of the texts it is made of.
"""

from collections.abc import Iterator
from random import Random

BYTES = 4  # per token
VOCABULARY = 4096  # tokens of the text that answers are cut from


def count_tokens(text: bytes) -> int:
    """Tokens of a prompt, at least one."""
    return max(1, -(-len(text) // BYTES))


def block_keys(text: bytes, block_size: int) -> tuple[int, ...]:
    """Keys of the full blocks of `text`; `block_size` in tokens."""
    return tuple(_chain(text, block_size * BYTES))


def _chain(text: bytes, width: int) -> Iterator[int]:
    key = 0
    for start in range(0, len(text) - width + 1, width):
        key = hash((key, text[start : start + width]))
        yield key


def encode(text: bytes) -> list[int]:
    """Token ids: each the number its four bytes make, so that `decode` gives them back."""
    return [int.from_bytes(text[i : i + BYTES], "little") for i in range(0, len(text), BYTES)]


def decode(tokens: list[int]) -> bytes:
    """The bytes of token ids. Raises ValueError for an id that is not one."""
    try:
        raw = [token.to_bytes(BYTES, "little") for token in tokens]
    except OverflowError as error:
        raise ValueError("token ids are numbers from 0 to 2**32 - 1") from error
    return b"".join(raw[:-1]) + raw[-1].rstrip(b"\0") if raw else b""


class Speaker:
    """Makes answers: pseudo-words of a fixed text, started at a different place for each answer."""

    def __init__(self, seed: int) -> None:
        random = Random(seed)
        words = (
            " " + random.choice("bdfghklmnprstvw") + random.choice("aeiou") + random.choice("lmnrst")
            for _ in range(VOCABULARY)
        )
        self._text = "".join(words) * 2
        self.tokens = [self._text[i * BYTES : (i + 1) * BYTES] for i in range(VOCABULARY)]

    def token(self, start: int, index: int) -> str:
        """Token `index` of the answer that starts at `start`."""
        return self.tokens[(start + index) % VOCABULARY]

    def text(self, start: int, count: int) -> str:
        """The first `count` tokens of the answer that starts at `start`."""
        first = start % VOCABULARY
        whole, rest = divmod(first + count, VOCABULARY)
        if not whole:
            return self._text[first * BYTES : (first + count) * BYTES]
        text = self._text[: VOCABULARY * BYTES]
        return text[first * BYTES :] + text * (whole - 1) + text[: rest * BYTES]
