"""What must agree with what: each contradiction, dangling name and thing that can never happen, at its line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.config.checks import is_loopback
from gateway.config.loader import Loaded
from gateway.config.problems import Problem
from gateway.config.spec import PROFILES

Read = Callable[..., Loaded]
Faults = Callable[..., tuple[Problem, ...]]


def in_pool(good: str, text: str) -> str:
    return good.replace("    engine: http\n", f"    engine: http\n    {text}\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("timeouts: {first_token: 1h}", "contradictory: `first_token` is longer than `total`"),
        ("timeouts: {between_tokens: 31m}", "contradictory: `between_tokens` is longer than `total`"),
        ("eject: {base: 10m}", "contradictory: `base` is longer than `max`"),
        ("dns: {name: a, port: 1}", "contradictory: `endpoints` and `dns`"),
        ("file: f.yaml", "contradictory: `endpoints` and `file`"),
        ("tls: {insecure: true, ca: TREE}", "contradictory: `insecure` believes anyone, `ca` says whom to believe"),
        ("tls: {cert: TREE}", "contradictory: `cert` and `key` belong together"),
        ("tls: {ca: none.pem}", "file `none.pem` does not exist"),
    ],
)
def test_a_pool_that_contradicts_itself_is_refused(faults: Faults, good: str, text: str, message: str) -> None:
    here = Path(__file__).with_name("conftest.py")
    first = faults(in_pool(good, text.replace("TREE", str(here))))[0]
    assert (first.line, first.message) == (5, message)


def test_a_contradiction_with_the_defaults_is_told_where_it_was_written(faults: Faults, good: str) -> None:
    text = "defaults: {pool: {timeouts: {total: 1s}}}\n" + in_pool(good, "timeouts: {first_token: 900ms}")
    assert [(p.line, p.column) for p in faults(text)] == [(1, 37), (1, 37)]  # connect and between_tokens


@pytest.mark.parametrize("endpoints", ["", "    endpoints: null\n", "    labels: {}\n"])
def test_a_pool_without_endpoints_is_refused(faults: Faults, endpoints: str) -> None:
    found = faults(f"pools:\n  p:\n    engine: http\n{endpoints}models: {{m: {{to: p}}}}\n")
    assert found


def test_an_empty_list_of_endpoints_is_refused(faults: Faults) -> None:
    (fault,) = faults("pools: {p: {endpoints: []}}\nmodels: {m: {to: p}}\n")
    assert fault.message == "`endpoints` is empty"


def test_an_endpoint_twice_in_a_pool_is_refused_and_in_two_pools_a_warning(read: Read, faults: Faults) -> None:
    models = "models: {m: {to: p, fallback: [q]}}\n"
    (fault,) = faults(f"pools: {{p: {{endpoints: [http://a, http://A:80/]}}, q: {{endpoints: [http://c]}}}}\n{models}")
    assert fault.message == "endpoint repeated: `http://a:80`"
    same_id = "endpoints: [{url: http://a, id: x}, {url: http://b, id: x}]"
    (fault,) = faults(f"pools: {{p: {{{same_id}}}, q: {{endpoints: [http://c]}}}}\n{models}")
    assert fault.message == "endpoint repeated: id `x`"
    loaded = read(f"pools: {{p: {{endpoints: [http://a]}}, q: {{endpoints: [http://a]}}}}\n{models}")
    assert [warning.message for warning in loaded.warnings] == ["`http://a:80` is also in pool `p`"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("admin: 0.0.0.0:9090\n", "`admin` is not on loopback and has no token"),
        ("admin: 127.0.0.1:8080\n", "contradictory: `admin` and `listen` are the same address"),
        ("limits: {body: 2GiB}\n", "contradictory: `body` is larger than `buffered`"),
        ("paths: [{path: /v1/models}]\n", "unreachable: `/v1/models` is already served"),
        ("paths: [{path: /sleep}]\n", "`/sleep` manages the model server and is never reachable"),
        ("paths: [{path: /a}, {path: /a}]\n", "path repeated: `/a`"),
        ("paths: [{path: '/a/{model}'}]\n", "contradictory: where the model of `/a/{model}` is named"),
        ("paths: [{path: /a, model_from: path}]\n", "contradictory: where the model of `/a` is named"),
        ("paths: [{path: '/a/../b'}]\n", "not a path: `/a/../b`"),
        ("paths: [{path: /a, model_from: {header: h, default: d}}]\n", "contradictory: exactly one key is expected"),
        ("paths: [{path: /a, model_from: query}]\n", "`query` is not one of body, path"),
        ("keys: {k: {}}\n", "`tenant` is missing"),
        ("keys: {k: {tenant: t, models: [corpus-modle]}}\n", "model `corpus-modle` does not exist"),
        ("keys: {'sha256:00': {tenant: t}}\n", "not a SHA-256"),
        ("keys: {'a b': {tenant: t}}\n", "this key is empty or has signs that a header cannot carry"),
        ("version: 2\n", "version `2` is not known"),
        ("log: {level: inf}\n", "`inf` is not one of debug, info, warning, error"),
        ("drain:\n", "a mapping is expected"),
        ("keys: {a: {tenant: t}, \"${A}\": {tenant: u}}\n", "key repeated"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_at_its_line(faults: Faults, good: str, text: str, message: str) -> None:
    (fault,) = faults(good + text, {"A": "a"})
    assert (fault.line, fault.message) == (9, message)


@pytest.mark.parametrize(
    ("model", "what"),
    [
        ("to: p, lora: {path: /adapters/a}", "adapter"),
        ("routes: [{split: [{arm: a, to: p, as: a-1, weight: 1}, {arm: b, to: p, as: a-2, weight: 1}]}]", "`as`"),
        ("to: p, as: theirs", ""),
    ],
)
def test_a_path_whose_bodies_need_not_name_a_model_cannot_tell_servers_which(read: Read, model: str, what: str) -> None:
    pools = "pools: {p: {endpoints: [http://a]}}\n"
    text = f"{pools}models: {{m: {{{model}}}}}\npaths: [{{path: /predict, model_from: {{default: m}}}}]\n"
    told = [f"{what} of `m` is unheard where a body on `/predict` names no model"] if what else []
    found = [warning for warning in read(text).warnings if "unheard" in warning.message]
    assert [warning.message for warning in found] == told and [warning.line for warning in found] == [3] * len(told)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("listen: 0.0.0.0:1\n", "no keys: every client is tenant `anonymous`"),
        ("keys: {secret: {tenant: t}}\n", "a plain key"),
        ("paths: [{path: /p, model_from: {default: other}}]\n", "model `other` does not exist: `/p` answers 404"),
    ],
)
def test_what_is_only_doubtful_is_a_warning(read: Read, good: str, text: str, message: str) -> None:
    (warning,) = read(good.replace("listen: 127.0.0.1:8080\n", "\n") + text).warnings
    assert (warning.line, warning.message) == (9, message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tls: {insecure: false}", "`tls` is unused: no endpoint of pool `p` is https://"),
        ("tls: {insecure: true}", "any certificate is believed"),
    ],
)
def test_doubtful_tls_is_a_warning(read: Read, good: str, text: str, message: str) -> None:
    assert read(in_pool(good, text)).warnings[0].message == message


def test_only_this_machines_addresses_are_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.org")))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("engine: http", f"profile: {PROFILES[0]}", "`profile` is unused: `least_tokens` does not predict"),
        ("{to: p}", "{to: p, slo: {ttft: 1s}}", "`slo` is unused: no policy of `corpus-model`'s pools predicts"),
    ],
)
def test_what_is_told_to_a_predictor_that_nobody_asks_is_a_warning(
    read: Read, good: str, old: str, new: str, message: str
) -> None:
    (warning,) = read(good.replace(old, new)).warnings
    assert (warning.line, warning.message) == (4 if "profile" in new else 8, message)
    asked = good.replace(old, new).replace("    endpoints", "    pick: my.policies:Mine\n    endpoints")
    assert read(asked).warnings == ()
    assert read(good.replace("{to: p}", "{to: p, slo: {}}")).warnings == ()
