"""What a request can be at all under one configuration: the tenants, keys, classes and paths that there are.

The idea: a rule for a tenant that no key has, or for a path that is not served, can never be used. Whoever wrote it
expects it to, so it is an error at its line; to find it, all that can be must be known in one place.

Left to others: what is wrong with classes, keys and paths themselves (`check_traffic`, `check_paths`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.config.kinds import Reader
from gateway.config.types import Config
from gateway.core.routes import Text

_ROUTED = frozenset((
    *(f"/v1/{name}" for name in ("chat/completions", "completions", "responses", "embeddings", "messages", "score",
                                 "messages/count_tokens", "rerank", "audio/transcriptions", "audio/translations")),
    *(f"/v2/models/{{model}}/{verb}" for verb in ("infer", "generate", "generate_stream")),
    "/tokenize", "/detokenize",
))  # fmt: skip
BUILT_IN_PATHS = _ROUTED | {
    *(f"/v1/{name}" for name in ("models", "models/{model}", "files", "batches", "jobs")), "/healthz", "/readyz",
}  # fmt: skip
MANAGEMENT_PATHS = frozenset((
    "/sleep", "/wake_up", "/is_sleeping", "/collective_rpc", "/reset_prefix_cache", "/reset_mm_cache",
    "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/flush_cache", "/start_profile", "/stop_profile",
    "/release_memory_occupation", "/resume_memory_occupation", "/update_weights_from_disk", "/metrics",
))  # fmt: skip
"""Paths of model servers that manage them: a client that reaches one can stop the server for everyone."""


@dataclass(frozen=True, slots=True)
class Known:
    """What there is, to be looked up. None: it could not be read whole, so nothing can be said of it.

    `keys` are spelt `sha256:` and the digest. In `paths`, `{model}` is any one segment.
    """

    tenants: Collection[str] | None
    keys: Collection[str] | None
    classes: Collection[str] | None
    paths: Collection[str]


def known_of(config: Config, raw: Mapping[str, Any], reader: Reader) -> Known:
    """What there is in a file as it was read."""
    keys: Mapping[str, Any] = raw.get("keys") or {}
    is_whole = ("keys",) not in reader.broken
    named = {key["tenant"] for key in keys.values() if isinstance(key, Mapping) and "tenant" in key}
    classes: Collection[str] | None = raw.get("classes", config.classes)
    if "classes" not in raw and ("classes",) in reader.places:
        classes = None
    rules = raw.get("paths") or ()
    paths = {rule["path"] for rule in rules if isinstance(rule, Mapping) and isinstance(rule.get("path"), str)}
    tenants: Collection[str] = named if keys else {"anonymous"}
    return Known(tenants if is_whole else None, {f"sha256:{digest}" for digest in keys} if is_whole else None,
                 classes, _ROUTED | paths)  # fmt: skip


def fits(text: Text, value: str) -> bool:
    """Whether `value` is what the condition asks for."""
    if text.unlike is not None and fits(text.unlike, value):
        return False
    if not (text.exact or text.prefix or text.regex):
        return True
    return (value in text.exact or value.startswith(text.prefix)
            or any(re.fullmatch(regex, value) for regex in text.regex))  # fmt: skip


def is_template(path: str) -> bool:
    return "{model}" in path.split("/")


def path_fits(template: str, path: str) -> bool:
    """Whether a client's `path` is one of those that `template` stands for."""
    return re.fullmatch(re.escape(template).replace(r"\{model\}", "[^/]+"), path) is not None


def covers(wide: Text | None, narrow: Text | None) -> bool:
    """Whether every text that `narrow` takes is taken by `wide` too, as far as that is easily seen."""
    if wide is None or wide == narrow:
        return True
    if narrow is None:
        return False
    if not (narrow.exact or narrow.prefix or narrow.regex):
        return False  # it takes what is absent, too
    if wide == Text():
        return True
    if narrow.regex:
        return False
    if narrow.prefix and (wide.unlike is not None or not wide.prefix):
        return False
    return all(fits(wide, text) for text in narrow.exact) and all(p.startswith(wide.prefix) for p in narrow.prefix)
