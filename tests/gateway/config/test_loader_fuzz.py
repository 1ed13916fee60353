"""Whatever is in the file, loading gives a configuration or says what is wrong with it."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.config.kinds import Kind
from gateway.config.loader import digest_of, load_bytes
from gateway.config.problems import ConfigError, Fault
from gateway.config.regexes import parse_regex
from gateway.config.shapes import ListOf, MapOf, Struct
from gateway.config.spec import CONFIG
from gateway.config.types import Config
from policies.picking import check as check_pick
from tests.support.mutating import Mutator

FOLDER = Path(__file__).resolve().parents[3] / "config"
ENV = {"ADMIN_TOKEN": "token", "VLLM_KEY": "key", "TEST_KEY": "another", "CALLBACK_SECRET": "third"}

SCALARS = st.sampled_from(
    ["p", "http", "2s", "5%", "8MiB", "${X}", "~", "7", "http://a", "*", "'", '"a"', "&a", "*a", "!t", "<<", "/x",
     "sha256:", "{model}", "1/s", "redis://a", "sqlite:x", "127.0.0.1:1", "\u2028", '"\\ud800"', '"\\0"', "true"]
) | st.text(max_size=5)  # fmt: skip
KEYS = st.sampled_from(
    ["pools", "models", "p", "to", "endpoints", "url", "aliases", "fallback", "listen", "tls", "pick", "keys", "tenant",
     "paths", "path", "model_from", "header", "default", "defaults", "pool", "dns", "file", "labels", "limits", "body",
     "routes", "drain", "delay", "classes", "class", "filler", "protect", "queue", "jobs", "store", "shared", "reserve",
     "priority", "requests", "tokens", "callbacks", "retry", "ca", "*", "as", "id", "admin", "trusted_proxies", "when",
     "split", "arm", "weight", "canary", "steps", "margin", "mirror", "share", "sticky", "prompt", "time", "not",
     "prefix", "regex", "tenant", "lora", "capture", "slo", "arms", "shadow", "zone", "from", "days", "at_least"]
)  # fmt: skip
POOL = "pools: {p: {endpoints: [http://a]}}\n"
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(KEYS, inner, max_size=4).map(
            lambda pairs: "{" + ", ".join(f"{key}: {value}" for key, value in pairs.items()) + "}"
        )
    ),
    max_leaves=25,
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(TREES)
def test_no_yaml_text_makes_loading_raise_anything_but_config_error(text: str) -> None:
    one = f"pools: {{p: {text}}}\nmodels: {{m: {text}}}\nkeys: {{k: {text}}}\nclasses: {{a: {text}, b: {text}}}\n"
    rules = f"{POOL}models: {{m: {{routes: [{text}, {{when: {text}, split: [{text}], canary: {text}}}]}}}}\n"
    many = f"pools: {text}\nmodels: {text}\nkeys: {text}\nclasses: {text}\njobs: {text}\nshared: {text}\n"
    for whole in (text, one, many, rules):
        try:
            load_bytes(whole.encode("utf-8", "surrogatepass"), "f.yaml", {})
        except ConfigError as error:
            assert error.problems


@given(st.text(max_size=100))
def test_a_line_of_anything_added_to_a_good_file_is_refused_or_read(text: str) -> None:
    base = b"pools: {p: {endpoints: [http://a]}}\nmodels: {m: {to: p}}\n"
    try:
        load_bytes(base + text.encode("utf-8", "surrogatepass"), "f.yaml", {})
    except ConfigError as error:
        assert error.problems


def words_of(kind: Kind) -> set[str]:
    """The keys of the language under one kind of value."""
    if isinstance(kind, Struct):
        return set(kind.keys).union(*(words_of(key.kind) for key in kind.keys.values()))
    return words_of(kind.kind) if isinstance(kind, MapOf | ListOf) else set()


@pytest.mark.parametrize("file", sorted(FOLDER.rglob("*.yaml")), ids=lambda file: file.name)
def test_random_edits_of_a_good_file_are_refused_or_read_whole(file: Path) -> None:
    mutator, good = Mutator(len(file.name), sorted(words_of(CONFIG))), file.read_text()
    refused = read = 0
    for _ in range(150):
        data = mutator.edit(good).encode("utf-8", "surrogatepass")
        try:
            loaded = load_bytes(data, str(file), ENV, check_pick=check_pick)
        except ConfigError as error:
            refused += 1
            assert error.problems
            assert all(problem.line >= 1 and problem.column >= 1 and problem.message for problem in error.problems)
        else:
            read += 1
            is_whole(loaded.config)
    assert refused and (read or file.name == "production.yaml")  # (whose certificate is not there)


def is_whole(config: Config) -> None:
    """Whatever is read can be used: every name leads somewhere, every rule has arms."""
    for model in config.models.values():
        assert model.routes and model.pools
        arms = [arm for route in model.routes for arm in route.arms]
        assert {pool for arm in arms for pool in (arm.to, *arm.fallback)} <= set(config.pools)
        assert any(not route.shadow for route in model.routes)
        for route in model.routes:
            assert route.arms and (route.canary is None or route.canary.arm in {arm.name for arm in route.arms})
            assert route.mirror is None or route.mirror.to in config.pools
    assert [kind.default for kind in config.classes.values()].count(True) == 1
    assert digest_of(config) == config.digest


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.text("ab().*+?{}[]|\\12,^$-:", max_size=30))
def test_no_regular_expression_makes_reading_raise_anything_but_fault(text: str) -> None:
    try:
        assert parse_regex(text) == text
    except Fault as fault:
        assert fault.message
