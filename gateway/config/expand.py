"""`${NAME}`, `${NAME:-default}` and `${file:/run/secrets/x}` in a value; `$${` is a plain `${`.

The idea: expansion happens inside one scalar after the file was parsed, so what a variable holds can never become YAML.
A missing one is a `Fault`. What it holds is no part of a message here, because it is often a secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from gateway.config.files import read_regular
from gateway.config.problems import Fault, did_you_mean, shown, shown_path

MOST_REFERENCES = 100
LARGEST_SECRET = 64 << 10
"""Bytes of a file that is put into a value: tokens and keys are far smaller."""
_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)


def expand(text: str, env: Mapping[str, str], folder: str) -> str:
    """`text` with its references replaced. Relative `file:` paths count from `folder`. Raises Fault."""
    if "${" not in text:
        return text
    if text.count("${") > MOST_REFERENCES:
        raise Fault("too many references in one value", f"at most {MOST_REFERENCES}")
    return _REFERENCE.sub(lambda found: _value(found, env, folder), text)


def _value(found: re.Match[str], env: Mapping[str, str], folder: str) -> str:
    if found[0] == "$${":
        return "${"
    inside, end = found[1], found[2]
    if not end:
        raise Fault(f"`${{` is never closed: {shown(found[0])}", "write ${NAME}, or $${ for a plain ${")
    if inside.startswith("file:"):
        return _content(os.path.join(folder, inside.removeprefix("file:")))
    named = _NAME.fullmatch(inside)
    if named is None:
        raise Fault(f"not a variable: {shown(found[0])}", "write ${NAME}, ${NAME:-default} or ${file:/path}")
    name, default = named[1], named[2]
    if default is not None:
        return env.get(name) or default
    if name not in env:
        hint = did_you_mean(name, env) or f"set it, or write ${{{name}:-default}}"
        raise Fault(f"environment variable is not set: `{name}`", hint)
    return env[name]


def _content(path: str) -> str:
    hint = "it is named by ${file:…}"
    try:
        content = read_regular(path, LARGEST_SECRET + 1)
        text = content.decode()
    except OSError as error:
        raise Fault(f"file {shown_path(path)}: cannot be read: {error.strerror or error}", hint) from None
    except UnicodeDecodeError:
        raise Fault(f"file {shown_path(path)}: not UTF-8", hint) from None
    except ValueError as error:  # a path that no file system takes
        raise Fault(f"file {shown_path(path)}: {error}", hint) from None
    if len(content) > LARGEST_SECRET:
        raise Fault(f"file {shown_path(path)}: too large", f"at most {LARGEST_SECRET >> 10} KiB")
    return text.removesuffix("\n").removesuffix("\r")
