"""What `headway check` and `headway schema` do.

Left to others: arguments and the process's exit (`cli`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping

from gateway.config.checks import CheckPick
from gateway.config.loader import load
from gateway.config.problems import ConfigError
from gateway.config.schema import json_schema

Say = Callable[[str], object]


def check(
    path: str,
    strict: bool = False,
    *,
    env: Mapping[str, str] | None = None,
    check_pick: CheckPick | None = None,
    say: Say = print,
) -> int:
    """Check the file and say what was found, one finding a line. Returns 0 if it may be used, else 1.

    With `strict` a warning is enough to refuse it. `env` defaults to the process's.
    """
    try:
        loaded = load(path, os.environ if env is None else env, check_pick=check_pick)
    except ConfigError as error:
        say(str(error))
        return 1
    word = "error (strict)" if strict else "warning"
    for warning in loaded.warnings:
        say(f"{warning.file}:{warning.line}:{warning.column}: {word}: {warning.told}")
    if strict and loaded.warnings:
        return 1
    say(f"{path}: ok")
    return 0


def schema() -> str:
    """The JSON Schema as text."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False)
