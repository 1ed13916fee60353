"""Prompts of an exact length, made so that shared blocks are shared text and nothing else is.

One token is four bytes: a space and a common English word of three letters. The simulated model server counts
that way, and the tokenizers of real models give about one token for such a word, so the same workload
means the same thing against both. Prompts without block ids begin with words drawn from the request's
number, so no two share a prefix and a prefix cache cannot help by accident. With block ids (`Item.blocks`),
two prompts share exactly as many leading blocks as they have leading ids in common.
"""

from __future__ import annotations

import hashlib
import json

from loadtest.workload import Item

TOKEN_BYTES = 4
_WORD_LIST = (  # 64: six bits each
    "the and for are but not you all any can had her was one our out day get has him his how man new now old see two "
    "way who boy did its let put say she too use air ask bad big box buy car cut dog eat end eye far few got hot job "
    "key law lot low may men run sun"
)
_WORDS = _WORD_LIST.split()
_BODY_TOKENS = 1 << 14  # a stock of words; prompts take slices of it
_HEAD_TOKENS = 8  # words that name a block: 48 bits, so two blocks of different ids differ at once


def _stock(seed: int) -> str:
    raw = hashlib.shake_256(b"prompt stock %d" % seed).digest(_BODY_TOKENS)
    return "".join(" " + _WORDS[byte & 63] for byte in raw)


class PromptMaker:
    """Makes the text and the request body of each item. Deterministic in (seed, number, item)."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._stock = _stock(seed)

    def text(self, item: Item, number: int) -> str:
        """The prompt of the item that is `number` in its workload: exactly 4 x prompt_tokens ASCII characters."""
        parts = []
        left = item.prompt_tokens
        for block in item.blocks:
            if left <= 0:
                break
            size = min(left, item.block_size)
            parts.append(self._piece(b"block", block, size))
            left -= size
        if left > 0:
            parts.append(self._piece(b"own", number, left))
        return "".join(parts)

    def _piece(self, kind: bytes, number: int, tokens: int) -> str:
        digest = hashlib.blake2b(b"%s %d %d" % (kind, self._seed, number), digest_size=12).digest()
        head = "".join(" " + _WORDS[byte & 63] for byte in digest[:_HEAD_TOKENS])[: tokens * TOKEN_BYTES]
        rest = tokens * TOKEN_BYTES - len(head)
        start = int.from_bytes(digest[8:], "big") % _BODY_TOKENS * TOKEN_BYTES
        tail = self._stock[start : start + rest]
        while len(tail) < rest:
            tail += self._stock[: rest - len(tail)]
        return head + tail

    def body(self, item: Item, number: int, model: str, path: str, stream: bool = True) -> bytes:
        """The JSON body of a request for `path`: exactly output_tokens tokens of answer are asked for.

        `ignore_eos` makes an engine go on to `max_tokens`; other servers ignore it or refuse it.
        """
        text = self.text(item, number)
        value: dict[str, object] = {"model": model}
        if path.endswith(("/chat/completions", "/messages")):
            value["messages"] = [{"role": "user", "content": text}]
        else:
            value["prompt"] = text
        value["max_tokens"] = item.output_tokens
        value["ignore_eos"] = True
        if stream:
            value["stream"] = True
            if not path.endswith("/messages"):
                value["stream_options"] = {"include_usage": True}
        return json.dumps(value, separators=(",", ":")).encode()
