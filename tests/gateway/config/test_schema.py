"""The schema and the reference file say what the loader does."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.config import types
from gateway.config.kinds import NOTHING, Reader
from gateway.config.loader import load, load_bytes
from gateway.config.problems import ConfigError
from gateway.config.schema import json_schema
from gateway.config.shapes import ListOf, MapOf, Struct
from gateway.config.spec import CONFIG, ENGINES, POLICIES, PROFILES
from gateway.config.spec_routes import MODEL_OF, ROUTE
from gateway.config.tree import parse_tree

CONFIG_FOLDER = Path(__file__).resolve().parents[3] / "config"
REFERENCE = CONFIG_FOLDER / "headway.yaml"
EXAMPLES = sorted((CONFIG_FOLDER / "examples").glob("*.yaml"))
ENV = {"ADMIN_TOKEN": "token", "VLLM_KEY": "key", "TEST_KEY": "another", "CALLBACK_SECRET": "third"}


def faults(value: Any, schema: dict[str, Any], at: str = "$") -> Iterator[str]:
    """A validator of the few words of JSON Schema that ours uses. Any other word is a fault of the test."""
    used = {"$schema", "title", "description", "default", "type", "properties", "additionalProperties", "required",
            "anyOf", "items", "minItems", "minProperties", "maxProperties", "enum", "const", "pattern", "minLength",
            "minimum", "maximum", "not"}  # fmt: skip
    assert schema.keys() <= used, schema.keys() - used
    if "not" in schema:
        yield f"{at}: not allowed"
    if "anyOf" in schema and all(any(True for _ in faults(value, one, at)) for one in schema["anyOf"]):
        yield f"{at}: fits none"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{at}: not in enum"
    if "const" in schema and value != schema["const"]:
        yield f"{at}: not {schema['const']}"
    names = schema.get("type", [])
    if names and not any(is_a(value, name) for name in ([names] if isinstance(names, str) else names)):
        yield f"{at}: {value!r} is no {names}"
        return
    if isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
        yield f"{at}: {value!r} does not match"
    if isinstance(value, int) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        yield f"{at}: out of range"
    if isinstance(value, list):
        if len(value) < schema.get("minItems", 0):
            yield f"{at}: too few"
        yield from (f for n, item in enumerate(value) for f in faults(item, schema.get("items", {}), f"{at}[{n}]"))
    if isinstance(value, dict):
        yield from object_faults(value, schema, at)


def is_a(value: Any, name: str) -> bool:
    kinds = {"object": dict, "array": list, "string": str, "null": type(None), "boolean": bool}
    if name in ("integer", "number"):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kinds[name])


def object_faults(value: dict[str, Any], schema: dict[str, Any], at: str) -> Iterator[str]:
    yield from (f"{at}: {name} is missing" for name in schema.get("required", []) if name not in value)
    if not schema.get("minProperties", 0) <= len(value) <= schema.get("maxProperties", len(value)):
        yield f"{at}: number of keys"
    for name, part in value.items():
        inner = schema.get("properties", {}).get(name, schema.get("additionalProperties", {}))
        if inner is False:
            yield f"{at}: {name} is unknown"
        else:
            yield from faults(part, inner, f"{at}.{name}")


def plain(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize("path", [REFERENCE, *EXAMPLES], ids=lambda path: path.name)
def test_the_schema_takes_what_the_loader_takes(path: Path) -> None:
    assert list(faults(plain(path), json_schema())) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [("enigne", 1), ("limits", {"body": "8MB"}), ("drain", {"delay": "5"}), ("version", 2), ("classes", {}),
     ("pools", {}), ("pools", {"p": {"endpoints": 7}}), ("models", {"m": {"to": 7}}), ("log", {"level": "all"}),
     ("limits", {"connections": 0}), ("classes", {"a": {"default": True, "priority": "high"}}),
     ("classes", {"a": {"default": True, "queue": {"order": "lifo"}}}), ("jobs", {"class": "async"}),
     ("jobs", {"store": "jobs.db"}), ("shared", "sqlite:x"), ("keys", {"k": {"tenant": "t", "classes": []}}),
     ("keys", {"k": {"tenant": "t", "limits": {"requests": "100"}}}),
     ("keys", {"k": {"tenant": "t", "limits": {"requests": "0/s"}}}),
     ("keys", {"k": {"tenant": "t", "limits": {"concurrency": 0}}}), ("limits", {"file": 0}),
     ("trusted_proxies", "10.0.0.0/8"), ("paths", [{"model_from": "body"}]),
     *(("models", {"m": {"routes": rules}}) for rules in (
         [], [{"to": "p", "when": {"header": {}}}], [{"to": "p", "when": {"header": {"x": []}}}],
         [{"to": "p", "when": {"header": {"x": {"suffix": "a"}}}}], [{"to": "p", "when": {"days": ["mon"]}}],
         [{"to": "p", "when": {"time": {"from": "8:00"}}}], [{"to": "p", "when": {"prompt": {"at_least": "8k"}}}],
         [{"split": [{"arm": "a"}]}], [{"split": [{"arm": "a", "to": "p", "weight": "90%"}]}],
         [{"to": "p", "sticky": "cookie"}], [{"to": "p", "mirror": {"to": "p"}}],
         [{"to": "p", "canary": {"hold": "1m"}}], [{"to": "p", "canary": {"arm": "a", "steps": ["5"]}}],
         [{"to": "p", "shadow": "maybe"}])),
     ("models", {"m": {"to": "p", "lora": {"most": 0}}}), ("models", {"m": {"to": "p", "capture": {"share": "1%"}}}),
     ("models", {"m": {"to": "p", "capture": {"file": "f", "layout": "x"}}}), ("defaults", {"pool": {"cost": "2€"}}),
     ("keys", {"k": {"tenant": "t", "arms": "next"}}), ("classes", {"a": {"default": True, "shadow": "maybe"}})],
)  # fmt: skip
def test_the_schema_refuses_what_the_loader_refuses(key: str, value: Any) -> None:
    good = {"pools": {"p": {"endpoints": ["http://a"]}}, "models": {"m": {"to": "p"}}}
    assert not list(faults(good, json_schema()))
    assert list(faults(good | {key: value}, json_schema()))
    with pytest.raises(ConfigError):
        load_bytes(json.dumps(good | {key: value}).encode(), "f.yaml", {})


def test_the_schema_is_json_and_states_defaults_and_purposes() -> None:
    schema = json.loads(json.dumps(json_schema()))
    limits = schema["properties"]["limits"]["properties"]
    assert limits["body"]["default"] == "32MiB"
    assert limits["idle"]["default"] == "75s"
    assert schema["properties"]["expose"]["default"] == "url"
    assert all(part["description"] for part in schema["properties"].values())


def test_the_reference_file_says_the_defaults() -> None:
    loaded = load(REFERENCE, {})
    config = loaded.config
    assert loaded.warnings == ()
    endpoint = types.EndpointSpec("http://127.0.0.1:8000")
    assert config == types.Config(
        {"main": types.Pool("main", endpoints=(endpoint,))},
        {"my-model": types.model_to("my-model", "main")},
        digest=config.digest,
        source=str(REFERENCE),
    )


def test_what_the_reference_file_shows_as_comments_are_the_defaults() -> None:
    """The blocks that a default of nothing hides, read as if they were not comments."""
    text = REFERENCE.read_text()
    for name in ("jobs", "shared"):
        text = re.sub(rf"^{name}: null .*$", f"{name}:", text, flags=re.MULTILINE)
    text = text.replace("keys: {} ", "keys: ").replace("  # `headway key new` makes one.\n", "")
    text = re.sub(r"^  # (  |\w+: |\")", r"  \1", text, flags=re.MULTILINE)
    text = re.sub(r"^    (?:to|fallback): .*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"^    # (  |routes:)", r"    \1", text, flags=re.MULTILINE)
    config = load_bytes(text.encode(), str(REFERENCE), {}).config
    assert config.jobs == types.Jobs(types.Secret(f"sqlite:{CONFIG_FOLDER}/headway-jobs.db"))
    assert config.shared == types.Shared(types.Secret("redis://host:6379/1"))
    assert config.keys == (types.Key(config.keys[0].digest, "acme", limits=types.KeyLimits()),)
    first, second = config.models["my-model"].routes
    assert first == types.Route((types.Arm("", "main"),), when=first.when)
    assert all(value for value in (getattr(first.when, field.name) for field in fields(types.When)))
    stable, following = types.Arm("stable", "main"), types.Arm("next", "main", as_="my-model-v2")
    assert second == types.Route((stable, following), canary=types.CanaryRule("next"))


@pytest.mark.parametrize(
    ("key", "shown", "meant"),
    [
        ("lora", "{path: null, most: 4}", types.Lora()),
        ("capture", "{file: capture.jsonl, share: 1%, fields: [], redact: true, body: 64KiB, rotate: 64MiB, keep: 5, "
                    "layout: headway}", types.Capture(f"{CONFIG_FOLDER}/capture.jsonl")),
        ("mirror", "{to: other, share: 1%, as: null, concurrency: 8}", types.Mirror("other", 0.01)),
        ("sticky", "{by: session, salt: two}", types.Sticky("session", salt="two")),
        ("sticky", "{header: x-user}", types.Sticky("header", "x-user")),
    ],
)  # fmt: skip
def test_what_the_comments_show_in_one_line_are_the_defaults(key: str, shown: str, meant: object) -> None:
    comments = re.sub(r"\s+", " ", " ".join(re.findall(r"#(?: +#)?(.*)", REFERENCE.read_text())))
    assert shown in comments
    kind = MODEL_OF.keys[key].kind if key in MODEL_OF.keys else ROUTE.keys[key].kind
    reader = Reader("f", {}, str(CONFIG_FOLDER), {})
    assert kind.make(kind.read(parse_tree(shown.encode(), "f", reader.error), (key,), reader)) == meant


def keys_of(kind: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every key of the table; `*` is a name or an entry that the author chooses."""
    if isinstance(kind, Struct):
        for name, key in kind.keys.items():
            yield (*at, name)
            yield from keys_of(key.kind, (*at, name))
    elif isinstance(kind, MapOf | ListOf):
        yield from keys_of(kind.kind, (*at, "*"))


def test_the_reference_file_shows_every_key() -> None:
    text = REFERENCE.read_text()
    reader = Reader("f", {}, "/", {"engine": ENGINES, "policy": POLICIES, "profile": PROFILES})
    assert CONFIG.read(parse_tree(text.encode(), "f", reader.error), (), reader) is not NOTHING
    chosen = ("main", "my-model", "interactive", "async")
    written = {tuple("*" if isinstance(part, int) or part in chosen else part for part in place)
               for place in reader.places}  # fmt: skip
    for path in keys_of(CONFIG):
        if path[:2] == ("pools", "*") and ("defaults", "pool", *path[2:]) in written:
            continue
        # What stands under a value that is null or an empty list by default is shown in that line's comment.
        shown_in_comment = re.search(rf"#.*\b{path[-1]}\b", text)
        assert path in written or shown_in_comment, path


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_load(path: Path) -> None:
    try:
        load(path, ENV)
    except ConfigError as error:
        messages = {problem.message for problem in error.problems}
        assert path.name == "production.yaml"
        assert messages == {"file `tls/cert.pem` does not exist", "file `tls/key.pem` does not exist"}


def test_the_contracts_example_is_the_contracts() -> None:
    contract = CONFIG_FOLDER.parent.parent / "shared" / "contract.md"
    if not os.path.exists(contract):
        pytest.skip("the contract is not beside this checkout")
    block = contract.read_text().partition("```yaml\n")[2].partition("```")[0]
    example = (CONFIG_FOLDER / "examples" / "contract.yaml").read_text()
    # The contract shortens one hash with an ellipsis, which no file can.
    assert re.sub(r"sha256:[0-9a-f]{64}", "sha256:9f86d0…", example) == block
