"""Models and the names clients use for them: can each of them be reached?

The idea: the order of matching (exact name, exact alias, longest pattern) decides what can never match; that is an
error, because whoever wrote it expects it to. A tie between two patterns is one too: the answer would depend on the
order.

Left to others: where a model leads (`check_routes`), what else it has (`check_parts`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from gateway.config.check_routes import check_routes
from gateway.config.kinds import Reader
from gateway.config.known import Known
from gateway.config.names import length, matches, overlap
from gateway.config.problems import shown
from gateway.config.types import ANY_MODEL

MOST_PATTERNS = 200
"""Every two of one length are compared, and every request without an exact name tries them in turn."""


def check_models(raw: Mapping[str, Any], known: Known, reader: Reader) -> None:
    """Report what `models:` gets wrong. `raw` is the file as it was read: names to parsed values, faulty ones too."""
    models = {name: model for name, model in raw["models"].items() if isinstance(model, Mapping)}
    used: set[str] = set()
    for name, model in models.items():
        used |= check_routes(name, model, raw["pools"], known, reader)
    for name in raw["pools"].keys() - used:
        reader.warn(reader.key_at("pools", name), f"pool {shown(name)} is unused", "no model leads to it")
    _check_exact(models, reader)
    _check_patterns(models, reader)


def _texts(model: Mapping[str, Any], key: str) -> Iterator[tuple[int, str]]:
    return ((row, text) for row, text in enumerate(model.get(key) or ()) if isinstance(text, str))


def _aliased(model: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    return ((text, row) for row, text in _texts(model, "aliases"))


def _check_exact(models: Mapping[str, Any], reader: Reader) -> None:
    """An exact alias must not be taken already: by a model's own name, or by an alias further up."""
    owner: dict[str, str] = {}
    for name, model in models.items():
        # Enough for every real file, and a bound for the others: the warning below is a courtesy.
        patterns = [alias for _, alias in _texts(model, "aliases") if "*" in alias][:10]
        for row, alias in _texts(model, "aliases"):
            where, told = reader.value_at("models", name, "aliases", row), shown(alias)
            if alias in models and alias != ANY_MODEL:
                is_loop = name in dict(_aliased(models[alias]))
                hint = f"a loop: {told} has {shown(name)} as an alias" if is_loop else "exact names come first"
                reader.error(where, f"unreachable: alias {told} is the name of a model", hint)
            elif alias in owner:
                reader.error(where, f"alias repeated: {told} is already one of {shown(owner[alias])}")
            elif "*" not in alias and any(matches(pattern, alias) for pattern in patterns):
                reader.warn(where, f"alias {told} is unused: a pattern of the same model matches it")
            owner.setdefault(alias, name)


def _check_patterns(models: Mapping[str, Any], reader: Reader) -> None:
    """No two patterns of one length, of different models, may match one name."""
    by_length = defaultdict(list)
    for name, model in models.items():
        for row, pattern in _texts(model, "aliases"):
            if "*" in pattern:
                by_length[length(pattern)].append((name, pattern, reader.value_at("models", name, "aliases", row)))
    if ANY_MODEL in models:
        by_length[0].append((ANY_MODEL, ANY_MODEL, reader.key_at("models", ANY_MODEL)))
    if sum(map(len, by_length.values())) > MOST_PATTERNS:
        reader.error(reader.key_at("models"), f"more than {MOST_PATTERNS} patterns", "use exact aliases")
        return
    for group in by_length.values():
        for row, (name, pattern, where) in enumerate(group):
            for other_name, other, _ in group[:row]:
                is_told = pattern == other and ANY_MODEL not in (name, other_name)  # as a repeated alias
                if name != other_name and not is_told and overlap(pattern, other):
                    told = f"a tie: {shown(pattern)} and {shown(other)} of model {shown(other_name)} can match one name"
                    reader.error(where, told, "make one of them longer")
