"""The kinds of single values that the keys of the file take, each with its schema and its spelling.

Left to others: which key takes which (`spec`), what must agree with what (`checks`).
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from functools import partial
from typing import Any

from gateway.config import types
from gateway.config.kinds import (
    NOTHING,
    REFERENCE,
    FilePath,
    FolderPath,
    Kind,
    NameOrFile,
    Nothing,
    Option,
    Path,
    Reader,
    Value,
)
from gateway.config.kinds import parse_text as text_of
from gateway.config.problems import Fault, did_you_mean, shown, shown_path
from gateway.config.scalars import (
    DURATION,
    HOST_NAME,
    LARGEST,
    SHARE,
    SIZE,
    format_duration,
    format_rate,
    format_share,
    format_size,
    parse_address,
    parse_bool,
    parse_callback,
    parse_cost,
    parse_decimal,
    parse_duration,
    parse_endpoint_url,
    parse_int,
    parse_network,
    parse_quota,
    parse_rate,
    parse_redis_url,
    parse_share,
    parse_size,
    parse_weight,
    without_password,
)
from gateway.config.scalars import (
    RATE as RATE_TEXT,
)
from gateway.config.tree import Node, Scalar


def written(pattern: str) -> dict[str, Any]:
    """The schema of a text that matches, or that a variable will give."""
    return {"type": "string", "pattern": rf"^(?:{pattern})$|{REFERENCE}"}


def matching(pattern: str, expected: str) -> Value:
    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise Fault(f"{shown(text)} is not {expected}")
        return text

    return Value(parse, expected, written(pattern))


def choice(*names: str) -> Value:
    def parse(text: str) -> str:
        if text not in names:
            raise Fault(f"{shown(text)} is not one of {', '.join(names)}", did_you_mean(text, names))
        return text

    return Value(parse, f"one of {', '.join(names)}", {"anyOf": [{"enum": list(names)}, written(REFERENCE)]})


def count(least: int = 0, most: int = LARGEST) -> Value:
    schema = {"type": ["integer", "string"], "minimum": least, "maximum": most, "pattern": rf"^[0-9]+$|{REFERENCE}"}
    return Value(partial(parse_int, least=least, most=most), "a number", schema)


def decimal() -> dict[str, Any]:
    return {"type": ["number", "string"], "minimum": 0, "pattern": rf"^[0-9]+(\.[0-9]+)?$|{REFERENCE}"}


def quota() -> Value:
    schema = {"type": ["integer", "string"], "minimum": 1, "maximum": LARGEST, "pattern": rf"^[0-9]+$|{REFERENCE}"}
    return Value(parse_quota, "a number", schema)


def priority_of(text: str) -> int:
    """A whole number, also below zero."""
    if re.fullmatch(r"-[1-9][0-9]{0,5}", text):
        return int(text)
    return parse_int(text, 0, 999_999)


def secret_of(what: str) -> Value:
    """A text that goes into a header and is never shown."""

    def parse(text: str) -> types.Secret:
        if not re.fullmatch(r"[!-~]+", text):
            raise Fault(f"this {what} is empty or has signs that a header cannot carry", "printable ASCII, no spaces")
        return types.Secret(text)

    return Value(parse, f"a {what}")


def parse_version(text: str) -> int:
    if parse_int(text) != 1:
        raise Fault(f"version {shown(text)} is not known", "this is version 1")
    return 1


def parse_path_rule(text: str) -> str:
    parts = text.split("/")
    plain = re.compile(r"[A-Za-z0-9._~:@!$&'()*+,;=-]+|\{model\}")
    if not text.startswith("/") or not all(plain.fullmatch(p) and p not in (".", "..") for p in parts[1:]):
        raise Fault(f"not a path: {shown(text)}", "write it as /predict or /models/{model}/run")
    if parts.count("{model}") > 1:
        raise Fault(f"not a path: {shown(text)} has `{{model}}` twice")
    return text


@dataclass(frozen=True, slots=True)
class KeyName(Kind):
    """A client's key as the file has it, to the hexadecimal SHA-256 of the key. Neither is ever shown."""

    def read(self, node: Node, at: Path, reader: Reader) -> Any:
        text = reader.text(node) if isinstance(node, Scalar) else NOTHING
        if isinstance(text, Nothing):
            return NOTHING
        if text.startswith("sha256:"):
            if re.fullmatch(r"sha256:[0-9a-fA-F]{64}", text):
                return text.removeprefix("sha256:").lower()
            reader.error(node.mark, "not a SHA-256", "`sha256:` and 64 hexadecimal digits are expected")
            return NOTHING
        if not re.fullmatch(r"[!-~]+", text):
            reader.error(node.mark, "this key is empty or has signs that a header cannot carry")
            return NOTHING
        reader.warn(node.mark, "a plain key", "write `sha256:` and its SHA-256 in hexadecimal instead")
        return hashlib.sha256(text.encode()).hexdigest()

    def schema(self) -> dict[str, Any]:
        return {"type": "string"}


@dataclass(frozen=True, slots=True)
class StoreUrl(Kind):
    """Where jobs are kept: `sqlite:` and a path, counted from the configuration's folder, or the URL of a Redis."""

    def read(self, node: Node, at: Path, reader: Reader) -> Any:
        return Value(lambda text: _store(text, reader.folder), "a store such as sqlite:jobs.db").read(node, at, reader)

    def schema(self) -> dict[str, Any]:
        return written(r"sqlite:[^/].*|sqlite:/[^/].*|rediss?://.+")


def _store(text: str, folder: str) -> types.Secret:
    hint = "write sqlite:headway-jobs.db or redis://host:6379/0"
    scheme, colon, path = text.partition(":")
    if scheme in ("redis", "rediss"):
        return types.Secret(parse_redis_url(text))
    if scheme != "sqlite" or not colon:
        is_path = re.fullmatch(r"[\w./-]+\.(?:db|sqlite3?)", text)
        meant = f"did you mean `sqlite:{text}`?" if is_path else did_you_mean(scheme, ("sqlite", "redis", "rediss"))
        raise Fault(f"not a store: {shown(without_password(text))}", meant or hint)
    if path.startswith("//") or not path.strip():
        raise Fault(f"not a store: {shown(text)}", f"{hint}; an absolute path is sqlite:/var/lib/headway/jobs.db")
    if path == ":memory:":
        raise Fault("a store in memory does not keep what was accepted", hint)
    whole = os.path.normpath(os.path.join(folder, path))
    if os.path.isdir(whole):
        raise Fault(f"not a store: {shown_path(path)} is a folder", f"name a file in it: sqlite:{path}/headway-jobs.db")
    if not os.path.isdir(os.path.dirname(whole)):
        raise Fault(f"the folder of {shown_path(path)} does not exist", f"looked for {shown_path(whole)}")
    return types.Secret(f"sqlite:{whole}")


def redis_of(text: str) -> types.Secret:
    if text.startswith("sqlite:"):
        raise Fault("a file cannot be shared by several gateways", "write it as redis://host:6379/1")
    return types.Secret(parse_redis_url(text))


def profile_fault(path: str) -> str | None:
    """What is wrong with a file that should hold a profile, or None."""
    from gateway.priors import prior_of

    try:
        prior_of(path)
    except ValueError as error:
        return str(error).removeprefix("profile file ")
    return None


def show_address(address: tuple[str, int]) -> str:
    """`host:port`, IPv6 in brackets."""
    return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"


TEXT = Value(text_of, "a text", {"type": "string", "minLength": 1})
BOOL = Value(parse_bool, "true or false", {"anyOf": [{"type": "boolean"}, written(rf"true|false|.*{REFERENCE}.*")]})
TIME = Value(parse_duration, "a duration such as 250ms", written(DURATION), format_duration)
TIME_OR_NONE = Value(partial(parse_duration, zero=True), TIME.expected, TIME.described, format_duration)
SIZE_OF = Value(parse_size, "a size such as 8MiB", written(SIZE), format_size)
SHARE_OF = Value(parse_share, "a share such as 5%", written(SHARE), format_share)
ADDRESS = Value(parse_address, "an address such as 127.0.0.1:8080", {"type": "string"}, show_address)
URL = Value(parse_endpoint_url, "a URL such as http://10.0.0.1:8000", written("https?://.+"))
LABEL = matching(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", "a name of letters, digits and ._- (at most 64)")
ARM_NAME = matching(r"\*|[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", "an arm's name, or `*` for any")
MODEL = matching(r"\*|[!-)+-~]{1,256}", "a model name: printable, without spaces and `*`")
ALIAS = matching(r"[!-~]{1,256}", "a model name or pattern: printable, without spaces")
HOST = matching(HOST_NAME, "a host name")
HEADER = matching(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}", "a header's name")
URL_PATH = matching(r"/[!-\"$->@-\[\]-~]*", "a path such as /health")
FILE = FilePath()
WRITTEN_FILE = FilePath(is_read=False)
FOLDER = FolderPath()
PROFILE = NameOrFile("profile", is_open=False, fault=profile_fault)
WEIGHT = Value(parse_weight, "a number such as 90 or 2.5", decimal())
COST = Value(parse_cost, "a number such as 1 or 2.5", decimal())
FIELD = matching(r"[A-Za-z_][A-Za-z0-9_-]{0,63}(?:\.[A-Za-z0-9_-]{1,64}){0,8}", "a field such as usage.total_tokens")
PRIORITY = Value(priority_of, "a whole number", {"type": ["integer", "string"], "pattern": rf"^-?[0-9]+$|{REFERENCE}"})
RATE = Value(lambda text: types.Rate(*parse_rate(text)), "a rate such as 100/s", written(RATE_TEXT),
             lambda rate: format_rate(rate.amount, rate.per))  # fmt: skip
REDIS = Value(redis_of, "a URL such as redis://host:6379/1", written("rediss?://.+"))
STORE = StoreUrl()
CALLBACK = Value(parse_callback, "a host name", {"type": "string", "minLength": 1})
OPTION = Option((parse_int, parse_decimal, parse_bool, parse_duration, parse_size, parse_share))
VERSION = Value(parse_version, "the number 1", {"const": 1})
RULE = Value(parse_path_rule, "a path such as /predict", written("/.*"))
NETWORK = Value(parse_network, "a network such as 10.0.0.0/8")
