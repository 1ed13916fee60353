"""The whole way from text to configuration: what a file means, every kind of defect at its line, and bounded cost."""

import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from gateway.config import types
from gateway.config.loader import Loaded, changes_needing_restart, for_urls, load
from gateway.config.problems import MOST_PROBLEMS, ConfigError, Problem

Read = Callable[..., Loaded]
Faults = Callable[..., tuple[Problem, ...]]
CORPUS = Path(__file__).resolve().parents[4] / "shared" / "http_corpus" / "yaml_bad"


def test_the_shortest_file_gives_the_defaults(read: Read, good: str) -> None:
    loaded = read(good)
    pool = types.Pool("p", "http", (types.EndpointSpec("http://127.0.0.1:9900"),))
    assert loaded.warnings == ()
    assert loaded.config == types.Config(
        {"p": pool},
        {"corpus-model": types.model_to("corpus-model", "p")},
        digest=loaded.config.digest,
        source="headway.yaml",
    )


FULL = """\
version: 1
listen: {address: "[::]:443"}
admin: {address: 0.0.0.0:9090, token: "${ADMIN_TOKEN}"}
trusted_proxies: [10.0.0.0/8, "::1"]
drain: {delay: 0s, timeout: 5m}
defaults:
  pool:
    scrape: {every: 2s, timeout: 100ms}
    pick: {policy: prefix_affinity, weight: 2, note: "2"}
    api_key: ${UPSTREAM:-none}
pools:
  a:
    engine: vllm
    endpoints:
      - http://10.0.0.1:8000
      - {url: "http://10.0.0.2:8000/x", id: two, max_concurrency: 256, labels: {gpu: no, n: 010}}
    scrape: {every: 500ms}
    timeouts: {connect: 1s, total: 1h}
    retry: {tries: 3, budget: 5%}
    eject: {after: 2, base: 1s, max: 2s, at_most: 100%}
    health: {path: /ping, every: 5s}
    usage: inject
    keepalive: 10s
    max_concurrency: 100
    priority: true
  b:
    dns: {name: vllm.prod.svc, port: 8000}
    pick: round_robin
    api_key: null
  c: {file: endpoints.yaml}
models:
  m: {to: a, as: served, aliases: [x, "y-*"], fallback: [b, c], fallback_after: 1s, class: bulk}
  "*": {to: b}
classes:
  chat: {default: true, priority: -1, reserve: 12.5%, late: serve, filler: null}
  bulk:
    priority: -20
    queue: {limit: 0, wait: 0s, order: fifo}
    filler: {protect: chat, slowdown: 0.5%, promote: true, aborts: 0}
jobs: {store: "sqlite:jobs.db", class: bulk, retention: 7d, callbacks: [Hooks.Example.com, "*.example.org"], secret: s}
shared: {url: "rediss://u:p@r/2", when_lost: refuse}
keys:
  "sha256:9F86D081884C7D659A2FEAA0C55AD015A3BF4F1B2B0B822CD15D6C15B0F00A08":
    tenant: acme
    models: [m]
    classes: [bulk]
    limits: {requests: 100/s, tokens: 200000/m, concurrency: 64, tokens_per_day: 50000000, reserve: max_tokens}
  other: {tenant: acme, classes: [bulk, chat], limits: {}}
limits: {body: 1MiB, connections: 5, file: 1GiB}
paths:
  - {path: /predict}
  - {path: /run/{model}/go, model_from: path}
  - {path: /h, model_from: {header: x-model}}
  - {path: /d, model_from: {default: m}}
log: {level: debug}
decisions: {keep: 0, file: d.jsonl}
expose: id
"""


def test_every_key_lands_where_it_belongs(read: Read) -> None:
    config = read(FULL.replace("{path: /run/{model}/go", '{path: "/run/{model}/go"'), {"ADMIN_TOKEN": "t"}).config
    a, b, c = config.pools.values()
    assert config.listen == types.Listen("::", 443)
    assert config.admin == types.Admin("0.0.0.0", 9090, types.Secret("t"))
    assert config.trusted_proxies == (ip_network("10.0.0.0/8"), ip_network("::1"))
    assert config.drain == types.Drain(0.0, 300.0)
    assert a.endpoints[1] == types.EndpointSpec("http://10.0.0.2:8000/x", "two", 256, {"gpu": "no", "n": "010"})
    assert (a.engine, b.engine, c.engine) == ("vllm", "auto", "auto")
    assert (a.scrape, b.scrape) == (types.Scrape(0.5, 0.1), types.Scrape(2.0, 0.1))
    assert a.pick == types.Pick("prefix_affinity", {"weight": 2, "note": "2"})
    assert b.pick == types.Pick("round_robin")
    assert (a.api_key, b.api_key) == (types.Secret("none"), None)
    assert a.timeouts == types.Timeouts(connect=1.0, total=3600.0)
    assert a.retry == types.Retry(3, 0.05)
    assert a.eject == types.Eject(2, 1.0, 2.0, 1.0)
    assert a.health == types.HealthCheck("/ping", 5.0)
    assert (a.usage, a.keepalive, a.max_concurrency, a.priority) == ("inject", 10.0, 100, True)
    assert b.dns == types.Dns("vllm.prod.svc", 8000)
    assert c.file is not None
    assert c.file.endswith("/endpoints.yaml")
    assert config.models["m"] == types.model_to("m", "a", ("b", "c"), 1.0, aliases=("x",), patterns=("y-*",),
                                                 as_="served", klass="bulk")  # fmt: skip
    assert config.classes == {
        "chat": types.TrafficClass("chat", True, -1, reserve=0.125, late="serve"),
        "bulk": types.TrafficClass("bulk", False, -20, types.QueueRule(0, 0.0, "fifo"),
                                   types.FillerRule("chat", 0.005, True, 0)),
    }  # fmt: skip
    store = types.Secret(f"sqlite:{Path.cwd()}/jobs.db")
    hosts = ("hooks.example.com", "*.example.org")
    assert config.jobs == types.Jobs(store, "bulk", 7 * 86_400.0, hosts, types.Secret("s"))
    assert config.shared == types.Shared(types.Secret("rediss://u:p@r/2"), "refuse")
    limits = types.KeyLimits(types.Rate(100.0, 1.0), types.Rate(200_000.0, 60.0), 64, 50_000_000, "max_tokens")
    acme, other = config.keys
    assert (acme.tenant, acme.models, acme.classes, acme.default_class) == ("acme", {"m"}, {"bulk"}, "bulk")
    assert acme.limits == limits
    assert (other.classes, other.default_class, other.limits) == ({"chat", "bulk"}, None, types.KeyLimits())
    assert config.limits == types.Limits(body=1 << 20, connections=5, file=1 << 30)
    assert [rule.model_from for rule in config.paths] == [
        types.ModelFrom(), types.ModelFrom("path"), types.ModelFrom("header", "x-model"),
        types.ModelFrom("default", "m")]  # fmt: skip
    assert (config.log.level, config.decisions.keep, config.expose) == ("debug", 0, "id")


# What each defect of the good file is, the line it is on, and what must be said of it.
DEFECTS = {
    "empty": (b"", 1, "empty file"),
    "top-level list": (b"- a\n- b\n", 1, "a mapping is expected"),
    "tab": ("    engine: http", "\tengine: http", 4, "tab in indentation"),
    "quote": ("listen: 127", 'listen: "127', 1, "unclosed quote"),
    "tag": ("engine: http", 'engine: !!python/object/apply:os.system ["touch PWNED"]', 4, "tag"),
    "alias bomb": ("", "a: &a [x,x]\nb: &b [*a,*a]\n", 9, "anchor or alias"),
    "merge bomb": ("", "x0: &a0 {k: 1}\nx1: &a1 {<<: [*a0,*a0], k1: 1}\n", 9, "anchor or alias"),
    "repeated key": ("", "pools: {}\n", 9, "key repeated"),
    "two documents": ("", "---\nlisten: 127.0.0.1:8080\n", 9, "second document"),
    "deep": ("", "limits: " + "[" * 5000, 9, "too deep"),
    "digits": ("", "limits: {connections: " + "9" * 5000 + "}", 9, "number out of range"),
    "unknown key": ("engine: http", "enigne: http", 4, "unknown key `enigne` (did you mean `engine`?)"),
    "wrong type": ("endpoints:\n      - http://127.0.0.1:9900", "endpoints: 7", 5, "a list is expected"),
    "unknown pool": ("{to: p}", "{to: q}", 8, "pool `q` does not exist (did you mean `p`?)"),
    "duration": ("engine: http", "engine: http\n    scrape: {every: 5 parsecs}", 5, "not a duration"),
    "engine": ("engine: http", "engine: vlm", 4, "unknown engine `vlm` (did you mean `vllm`?)"),
    "variable": ("engine: http", 'engine: http\n    api_key: "${NO_SUCH}"', 5, "environment variable is not set"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_refused_at_its_line(faults: Faults, good: str, defect: str) -> None:
    *change, line, said = DEFECTS[defect]
    if len(change) == 2:
        old, new = change
        text: str | bytes = good.replace(old, new) if old else good + new
    else:
        text = change[0]
    first = faults(text)[0]
    assert first.line == line
    assert said in str(first)


def test_bad_utf8_is_refused_at_its_line(faults: Faults, good: str) -> None:
    (fault,) = faults(good.encode().replace(b"engine: http", b"engine: http # \xff"))
    assert (fault.line, fault.column) == (4, 20)
    assert "not UTF-8" in fault.message


@pytest.mark.skipif(not CORPUS.is_dir(), reason="the shared corpus is not beside this checkout")
def test_every_bad_file_of_the_corpus_is_refused_at_its_line_and_cheaply(tmp_path: Path) -> None:
    for case in json.loads((CORPUS / "index.json").read_text()):
        tracemalloc.start()
        with pytest.raises(ConfigError) as caught:
            load(CORPUS / case["file"], {})
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        first, (kind, _, meant) = caught.value.problems[0], case["defect"].partition(", meant ")
        assert first.line == case["line"], case["file"]
        assert kind in str(first), case["file"]
        assert meant in str(first), case["file"]
        assert str(first).startswith(f"{CORPUS / case['file']}:{case['line']}:")
        assert peak < 5 << 20, case["file"]


def test_all_faults_are_told_in_one_pass_in_the_order_of_the_file(faults: Faults) -> None:
    found = faults("""\
listen: nowhere
pools:
  p:
    enigne: vllm
    endpoints: [ftp://x, http://10.0.0.1, http://10.0.0.1:80/]
    retry: {tries: many, budget: 5}
  q: 7
models:
  m: {to: pp, fallback: [q, q]}
  n: {}
limits: {body: 2GiB}
expsoe: url
""")
    assert [(problem.line, problem.message) for problem in found] == [
        (1, "not an address: `nowhere`"),
        (4, "unknown key `enigne`"),
        (5, "not a URL with http:// or https://: `ftp://x`"),
        (5, "endpoint repeated: `http://10.0.0.1:80`"),
        (6, "`many` is not a number"),
        (6, "not a share: `5`"),
        (7, "a mapping is expected"),
        (9, "pool `pp` does not exist"),
        (9, "unreachable: pool `q` is already one of this model's"),
        (10, "model `n` leads nowhere: `to` is missing"),
        (11, "contradictory: `body` is larger than `buffered`"),
        (12, "unknown key `expsoe`"),
    ]


def test_secrets_are_nowhere_but_where_they_are_used(faults: Faults, read: Read, good: str) -> None:
    text = good.replace("engine: http", "api_key: ${SECRET}") + "keys: {'${SECRET}': {tenant: t}}\n"
    loaded = read(text, {"SECRET": "hunter2"})
    key = loaded.config.pools["p"].api_key
    assert key is not None
    assert key.reveal() == "hunter2"
    assert "hunter2" not in repr(loaded)
    for bad in ("listen: '${SECRET}'\n", "limits: {body: '${SECRET}'}\n", "expose: ${SECRET}\n",
                "keys: {'sha256:${SECRET}': {tenant: t}}\n"):  # fmt: skip
        base = good.replace("listen: 127.0.0.1:8080\n", "")
        assert "hunter2" not in "".join(map(str, faults(base + bad, {"SECRET": "hunter2"})))
    spaced = faults(text, {"SECRET": "hunter2 \u00e9"})
    assert "hunter2" not in "".join(map(str, spaced))
    assert len(spaced) == 2


def test_a_value_cannot_smuggle_control_characters(faults: Faults, good: str) -> None:
    text = good.replace("engine: http", 'api_key: "a\\r\\nx: y"')
    assert "control character U+000D" in faults(text)[0].message
    assert "control character U+000A" in faults(good.replace("http\n", "${E}\n", 1), {"E": "a\nb"})[0].message


def test_what_a_variable_holds_never_becomes_yaml(faults: Faults, good: str) -> None:
    (fault,) = faults(good.replace("engine: http", "engine: ${E}"), {"E": "{a: [b"})
    assert fault.message == "unknown engine `${E}`"


def test_a_file_wrong_everywhere_is_given_up_early(faults: Faults) -> None:
    assert len(faults("".join(f"k{n}: 1\n" for n in range(20_000)))) == MOST_PROBLEMS


def test_references_cannot_make_a_short_file_large(faults: Faults, good: str, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * (64 << 10))
    reference = f"${{file:{tmp_path}/big}}"
    (fault,) = faults(good + f"expose: '{reference * 101}'\n")
    assert fault.message == "too many references in one value"
    models = "".join(f"  ? '{reference * 9}{n}'\n  : {{to: p}}\n" for n in range(9))
    assert faults(good.replace("  corpus-model: {to: p}\n", models))[-1].message == "too large"


def test_the_digest_tells_configurations_apart_and_not_files(read: Read, good: str) -> None:
    config = read(good).config
    assert read("# a comment\n" + good).config.digest == config.digest
    assert read(good.replace("9900", "9901")).config.digest != config.digest
    keyed = good.replace("engine: http", "engine: http\n    api_key: ${K}")
    assert read(keyed, {"K": "a"}).config.digest != read(keyed, {"K": "b"}).config.digest


def test_what_needs_a_restart_is_named(read: Read, good: str) -> None:
    config = read(good).config
    assert changes_needing_restart(config, replace(config, pools={}, digest="x")) == []
    assert changes_needing_restart(
        config, replace(config, listen=types.Listen(port=1), admin=types.Admin(port=2), state="x")
    ) == ["listen", "admin", "state"]


def test_what_jobs_are_kept_in_needs_a_restart_and_the_rest_of_jobs_does_not(read: Read, good: str) -> None:
    without = read(good).config
    one, longer, other = (read(f"{good}jobs: {text}\n").config
                          for text in ("{store: 'sqlite:a.db'}", "{store: 'sqlite:./a.db', retention: 1d}",
                                       "{store: 'sqlite:b.db'}"))  # fmt: skip
    assert changes_needing_restart(one, longer) == []
    for old, new in ((one, other), (without, one), (one, without)):
        assert changes_needing_restart(old, new) == ["jobs.store"]


def test_urls_alone_make_a_configuration_for_any_model() -> None:
    config = for_urls(["http://10.0.0.1:8000/", "https://b"])
    (pool,), (model,) = config.pools.values(), config.models.values()
    assert [endpoint.url for endpoint in pool.endpoints] == ["http://10.0.0.1:8000", "https://b:443"]
    assert (pool.name, pool.engine, model.pools) == ("default", "auto", ("default",))
    assert model.upstream_name("Anything/at all") == "Anything/at all"
    assert len(config.digest) == 64


@pytest.mark.parametrize("urls", [[], ["10.0.0.1:8000"], ["http://a", "http://a:80"]])
def test_bad_urls_are_refused(urls: list[str]) -> None:
    with pytest.raises(ConfigError, match="--to:"):
        for_urls(urls)
