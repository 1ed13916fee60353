"""The table of keys: what may stand in the file, how each value is read, and what it is for.

The idea: this one table drives the loader, the JSON Schema, the `did you mean` hints and the test that holds
`config/headway.yaml` to the defaults. To add a key: a field with its default in `types`, a line here, a line there.

Left to others: single values (`leaves`), models and rules (`spec_routes`), classes, keys and jobs (`spec_traffic`),
what must agree (`checks`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gateway.config import types
from gateway.config.kinds import Name
from gateway.config.leaves import (
    ADDRESS,
    BOOL,
    COST,
    FILE,
    FOLDER,
    HEADER,
    HOST,
    LABEL,
    MODEL,
    NETWORK,
    OPTION,
    PROFILE,
    RULE,
    SHARE_OF,
    SIZE_OF,
    TEXT,
    TIME,
    TIME_OR_NONE,
    URL,
    URL_PATH,
    VERSION,
    WRITTEN_FILE,
    KeyName,
    choice,
    count,
    secret_of,
)
from gateway.config.shapes import Key, ListOf, MapOf, Struct
from gateway.config.spec_routes import MODEL_OF
from gateway.config.spec_traffic import CLASS, CLIENT_KEY, JOBS, SHARED

ENGINES = ("auto", "vllm", "sglang", "trtllm", "triton", "tgi", "llamacpp", "lmdeploy", "jetstream", "http")
POLICIES = ("round_robin", "least_inflight", "least_tokens", "power_of_two", "session_hash", "prefix_affinity",
            "sticky_until_saturated", "uncached_tokens", "lmetric", "sglang_cache_aware", "dynamo_kv", "predicted_ttft",
            "llmd_predicted", "predicted_latency")  # fmt: skip
PREDICTING = frozenset(("predicted_latency", "predicted_ttft", "llmd_predicted"))
"""The policies that look at a predictor: `profile` and `slo` mean something only to them."""
PROFILES = (
    *(f"a100_llama-3.1-{kind}" for kind in ("8b_bf16_tp1", "70b_bf16_tp4", "70b_bf16_tp8")),
    *(f"h100_llama-3.1-{kind}" for kind in ("8b_bf16_tp1", "8b_bf16_tp2", "8b_fp8_tp1", "70b_bf16_tp4", "70b_bf16_tp8",
                                            "70b_fp8_tp2", "70b_fp8_tp4", "70b_fp8_tp8")),
    "l40s_llama-3.1-8b_bf16_tp1", "l40s_llama-3.1-8b_fp8_tp1", "rtxpro6000_llama-3.1-8b_bf16_tp1",
    "rtxpro6000_qwen3-30b-a3b_bf16_tp1", "rtx4090_llama-3.1-8b_bf16_tp1",
    *(f"{gpu}-80gb{limit}_llama2-70b_fp16_tp{size}-measured" for size in (2, 4, 8)
      for gpu, limit in (("a100", ""), ("h100", ""), ("h100", "-pcap"))),
)  # fmt: skip
"""The names in the table of `backends/sim/profiles.json`; a test holds them to it."""


_DEFAULT = types.Config({}, {})


def _make_listen(
    address: tuple[str, int] = (_DEFAULT.listen.host, _DEFAULT.listen.port), tls: types.Tls | None = None
) -> types.Listen:
    return types.Listen(*address, tls)


def _make_admin(
    address: tuple[str, int] = (_DEFAULT.admin.host, _DEFAULT.admin.port), token: types.Secret | None = None
) -> types.Admin:
    return types.Admin(*address, token)


def _make_model_from(
    source: types.ModelSource | None = None, header: str | None = None, default: str | None = None
) -> types.ModelFrom:
    if source is not None:
        return types.ModelFrom(source)
    return types.ModelFrom("header", header) if header is not None else types.ModelFrom("default", default)


def _make_config(
    pools: Mapping[str, types.Pool], models: Mapping[str, types.Model], keys: Mapping[str, types.Key] | None = None,
    version: int = _DEFAULT.version, expose: types.Expose = _DEFAULT.expose, **more: Any,
) -> types.Config:  # fmt: skip
    config = types.Config(pools, models, version=version, expose=expose, **more)
    default = next((name for name, kind in config.classes.items() if kind.default), None)
    made = (replace(key, default_class=None) if key.classes and default in key.classes else key
            for key in (keys or {}).values())  # fmt: skip
    return replace(config, keys=tuple(made))


def _unmade(pool: Mapping[str, Any]) -> Mapping[str, Any]:
    """`defaults:` is merged into the pools as it was read and never becomes a value of its own."""
    return pool


ENGINE = Name("engine")
POLICY = Name("policy")
TLS = Struct(types.Tls, {
    "cert": Key(FILE, "our certificate and its chain, PEM", required=True),
    "key": Key(FILE, "its private key, PEM, without a passphrase", required=True),
    "client_ca": Key(FILE, "clients must show a certificate signed by one of these", nullable=True),
})  # fmt: skip
LISTEN = Struct(_make_listen, {
    "address": Key(ADDRESS, "where clients connect"),
    "tls": Key(TLS, "HTTPS for clients", nullable=True),
}, short=("address", ADDRESS))  # fmt: skip
ADMIN = Struct(_make_admin, {
    "address": Key(ADDRESS, "where operators connect: metrics, health, reload, explain"),
    "token": Key(secret_of("token"), "needed for /api and / when the address is not loopback", nullable=True),
}, short=("address", ADDRESS))  # fmt: skip
DRAIN = Struct(types.Drain, {
    "delay": Key(TIME_OR_NONE, "on SIGTERM, new connections are still accepted this long"),
    "timeout": Key(TIME_OR_NONE, "then streams may go on this long before they get an error event"),
})  # fmt: skip

ENDPOINT = Struct(types.EndpointSpec, {
    "url": Key(URL, "http:// or https://, with a path prefix if there is one", required=True),
    "id": Key(LABEL, "what it is called in logs and metrics; null: host:port", nullable=True),
    "max_concurrency": Key(count(1), "never more requests in flight than this; null: as many as come", nullable=True),
    "labels": Key(MapOf(TEXT, LABEL, named=""), "free names and values, shown in /api/endpoints"),
}, short=("url", URL))  # fmt: skip
DNS = Struct(types.Dns, {
    "name": Key(HOST, "every address of this name is an endpoint", required=True),
    "port": Key(count(1, 65535), "the port of all of them", required=True),
    "every": Key(TIME, "how often the name is asked again"),
})  # fmt: skip
PICK = Struct(types.Pick, {
    "policy": Key(POLICY, "how an endpoint is picked"),
}, short=("policy", POLICY), rest=OPTION, whole=True)  # fmt: skip
UPSTREAM_TLS = Struct(types.UpstreamTls, {
    "ca": Key(FILE, "who signs the endpoints' certificates; null: the system's list", nullable=True),
    "cert": Key(FILE, "our client certificate", nullable=True),
    "key": Key(FILE, "and its key", nullable=True),
    "insecure": Key(BOOL, "believe any certificate"),
})  # fmt: skip
TIMEOUTS = Struct(types.Timeouts, {
    "connect": Key(TIME, "to open a connection"),
    "first_token": Key(TIME, "to the first body byte of a stream"),
    "between_tokens": Key(TIME, "between two pieces of a stream"),
    "total": Key(TIME, "for the whole answer"),
})  # fmt: skip
RETRY = Struct(types.Retry, {
    "tries": Key(count(1, 10), "dispatches of one request, the first included"),
    "budget": Key(SHARE_OF, "further tries are at most this share of live requests"),
})  # fmt: skip
EJECT = Struct(types.Eject, {
    "after": Key(count(1), "failures in a row"),
    "base": Key(TIME, "how long the first time"),
    "max": Key(TIME, "and at most, when it happens again and again"),
    "at_most": Key(SHARE_OF, "never more than this share of the pool, and never the last one"),
})  # fmt: skip
HEALTH = Struct(types.HealthCheck, {
    "path": Key(URL_PATH, "what is asked; null: what the engine has for it", nullable=True),
    "every": Key(TIME, "how often"),
})  # fmt: skip
SCRAPE = Struct(types.Scrape, {
    "every": Key(TIME, "how often an endpoint's load is read"),
    "timeout": Key(TIME, "how long one reading may take"),
})  # fmt: skip

POOL_POLICY = {
    "engine": Key(ENGINE, "the kind of model server"),
    "profile": Key(
        PROFILE, "the GPU and model that predictions start from: a name or a file; null: it finds out", nullable=True
    ),
    "pick": Key(PICK, "the picking policy: a name, or {policy: NAME, …options}"),
    "api_key": Key(secret_of("key"), "what the endpoints get as their key", nullable=True),
    "tls": Key(UPSTREAM_TLS, "for https:// endpoints", nullable=True),
    "timeouts": Key(TIMEOUTS, "a plain (not streamed) answer is bound by connect and total alone"),
    "retry": Key(RETRY, "trying elsewhere before the answer has started"),
    "eject": Key(EJECT, "taking a failing endpoint out for a while"),
    "health": Key(HEALTH, "active probes"),
    "scrape": Key(SCRAPE, "reading the endpoints' metrics"),
    "usage": Key(choice("auto", "inject"), "inject: ask for token usage on streams, hide it if unasked"),
    "keepalive": Key(TIME, "how long an idle upstream connection is kept; below what the servers allow"),
    "max_concurrency": Key(count(1), "never more in flight in the whole pool; null: any number", nullable=True),
    "priority": Key(BOOL, "the servers schedule by priority: tell them each request's"),
    "cost": Key(COST, "what a request costs here, relative to the other pools"),
}
POOL_DEFAULTS = Struct(types.Pool, POOL_POLICY)
POOL = Struct(types.Pool, {
    "endpoints": Key(ListOf(ENDPOINT, least=1), "the servers' URLs"),
    "dns": Key(DNS, "or: the addresses of a name", nullable=True),
    "file": Key(WRITTEN_FILE, "or: a file with one URL a line, or YAML as under endpoints", nullable=True),
    **POOL_POLICY,
})  # fmt: skip
LIMITS = Struct(types.Limits, {
    "body": Key(SIZE_OF, "one request's body"),
    "file": Key(SIZE_OF, "one uploaded file; it is never held in memory"),
    "buffered": Key(SIZE_OF, "all bodies in memory at once"),
    "headers": Key(SIZE_OF, "all headers of one request"),
    "header_count": Key(count(1, 10_000), "their number"),
    "target": Key(SIZE_OF, "the request line's path and query"),
    "connections": Key(count(1), "clients connected at once"),
    "header_time": Key(TIME, "to send the headers"),
    "body_idle": Key(TIME, "between two pieces of a request's body"),
    "idle": Key(TIME, "a connection without a request"),
    "write_stall": Key(TIME, "a client that reads nothing of its answer"),
})  # fmt: skip
MODEL_FROM = Struct(_make_model_from, {
    "header": Key(HEADER, "the request header that names the model"),
    "default": Key(MODEL, "the model of every request on this path"),
}, short=("source", choice("body", "path")), one_of=True)  # fmt: skip
PATH_RULE = Struct(types.PathRule, {
    "path": Key(RULE, "the path; {model} is one segment that names the model", required=True),
    "model_from": Key(MODEL_FROM, "body | path | {header: NAME} | {default: NAME}"),
})  # fmt: skip

CONFIG = Struct(_make_config, {
    "version": Key(VERSION, "of this format"),
    "listen": Key(LISTEN, "where clients connect: host:port, or {address, tls}"),
    "admin": Key(ADMIN, "where operators connect: host:port, or {address, token}"),
    "state": Key(FOLDER, "the folder where what was learnt is kept; null: nowhere", nullable=True),
    "trusted_proxies": Key(ListOf(NETWORK), "whose X-Forwarded-For is believed and appended to"),
    "drain": Key(DRAIN, "stopping"),
    "defaults": Key(Struct(_unmade, {
        "pool": Key(POOL_DEFAULTS, "laid under every pool, key by key"),
    }), "what a file would else repeat"),
    "pools": Key(MapOf(POOL, LABEL, "name", 1), "model servers that can stand in for one another", required=True),
    "models": Key(MapOf(MODEL_OF, MODEL, "name", 1), "the models clients can ask for; `*`: any other", required=True),
    "classes": Key(MapOf(CLASS, LABEL, "name", 1), "kinds of traffic; they replace the two that are there without"),
    "jobs": Key(JOBS, "files, batches and single jobs; null: there are none", nullable=True),
    "shared": Key(SHARED, "the Redis in which gateways count limits together; null: each for itself", nullable=True),
    "keys": Key(MapOf(CLIENT_KEY, KeyName(), "digest"), "clients' keys: `sha256:` and its hash, or a plain key"),
    "limits": Key(LIMITS, "what a client may ask of us"),
    "paths": Key(ListOf(PATH_RULE), "more inference paths"),
    "log": Key(Struct(types.Log, {
        "level": Key(choice("debug", "info", "warning", "error"), "from this on"),
    }), "the log"),
    "decisions": Key(Struct(types.Decisions, {
        "keep": Key(count(), "decision records in memory, for `headway explain`"),
        "file": Key(WRITTEN_FILE, "and a file they are appended to", nullable=True),
    }), "why each request went where it went"),
    "expose": Key(choice("url", "id"), "what x-headway-endpoint tells clients"),
})  # fmt: skip
