"""What exists on the client port, and nothing else does: an allow-list over the raw path, before any decoding.

A model server's management paths (`/sleep`, `/flush_cache`, `/v1/load_lora_adapter`, ...) are not in it, however they
are spelled, because nothing here is normalised.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from gateway.config.types import PathRule
from gateway.dialects import ANTHROPIC, OPENAI, RESPONSES, TRITON, Dialect

_MODEL = rb"([A-Za-z0-9._~%:@+-]+)"

# A model's name that a server which decodes and normalises paths would read as "one level up".
_CLIMBS = re.compile(rb"(?:^|%2f|%5c)(?:\.|%2e){1,2}(?:$|(?=%2f|%5c))", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Path:
    """One inference path. `source` says where the model is named: body, path, header, default or form."""

    dialect: Dialect
    source: str = "body"
    name: str | None = None  # the header's, or the default model's
    json: bool = True  # the body must be a JSON object
    streams: bool = False  # always, whatever the body says
    generates: bool = True  # its answer is written token by token


_BUILT_IN = {
    b"/v1/chat/completions": Path(OPENAI),
    b"/v1/completions": Path(OPENAI),
    b"/v1/responses": Path(RESPONSES),
    b"/v1/embeddings": Path(OPENAI, generates=False),
    b"/v1/messages": Path(ANTHROPIC),
    b"/v1/messages/count_tokens": Path(ANTHROPIC, generates=False),
    b"/v1/score": Path(OPENAI, generates=False),
    b"/v1/rerank": Path(OPENAI, generates=False),
    b"/tokenize": Path(OPENAI, generates=False),
    b"/detokenize": Path(OPENAI, generates=False),
    b"/v1/audio/transcriptions": Path(OPENAI, "form", json=False),
    b"/v1/audio/translations": Path(OPENAI, "form", json=False),
}
_TRITON = {
    re.compile(rb"/v2/models/" + _MODEL + rb"/(?:infer|generate)"): Path(TRITON, "path"),
    re.compile(rb"/v2/models/" + _MODEL + rb"/generate_stream"): Path(TRITON, "path", streams=True),
}
OWN = frozenset((b"/v1/models", b"/healthz", b"/readyz"))
MODELS = b"/v1/models/"
_ASYNCHRONOUS = (b"/v1/files", b"/v1/batches", b"/v1/jobs")


def is_asynchronous(raw: bytes) -> bool:
    """Whether this is a path of asynchronous work: files, batches, jobs."""
    return any(raw == path or raw.startswith(path + b"/") for path in _ASYNCHRONOUS)


class Paths:
    """The paths of one configuration."""

    def __init__(self, rules: Sequence[PathRule]):
        self._exact = dict(_BUILT_IN)
        self._patterns: list[tuple[re.Pattern[bytes], Path]] = list(_TRITON.items())
        for rule in rules:
            source = rule.model_from.source
            path = Path(OPENAI, source, rule.model_from.name, json=source == "body")
            raw = rule.path.encode()
            if source == "path":
                before, _, after = raw.partition(b"{model}")
                self._patterns.append((re.compile(re.escape(before) + _MODEL + re.escape(after)), path))
            else:
                self._exact[raw] = path

    def find(self, raw: bytes) -> tuple[Path, str | None] | None:
        """The inference path and the model it names, or None."""
        exact = self._exact.get(raw)
        if exact is not None:
            return exact, None
        for pattern, path in self._patterns:
            match = pattern.fullmatch(raw)
            if match is not None and _CLIMBS.search(match[1]) is None:
                return path, match[1].decode("ascii")
        return None

    def renamed(self, raw: bytes, model: str) -> bytes:
        """A path that names its model, with this model in its place (as one segment, whatever is in the name)."""
        for pattern, _ in self._patterns:
            match = pattern.fullmatch(raw)
            if match is not None:
                return raw[: match.start(1)] + quote(model, safe="~:@+").encode() + raw[match.end(1) :]
        return raw

    def dialect(self, raw: bytes) -> Dialect:
        """How to word an error on this path, known or not."""
        found = self.find(raw)
        if found is None:
            return TRITON if raw.startswith(b"/v2/") else OPENAI
        return found[0].dialect
