"""What must agree with what: references, contradictions, and things that can never happen.

The idea: every value is fine by itself when this runs; here they are looked at together. A reference to nothing, a
contradiction, and anything that could never take effect is an error at its line; what is only unused is a warning.

Left to others: models and rules (`check_models`, `check_routes`), classes, keys and jobs (`check_traffic`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from gateway.config.check_models import check_models
from gateway.config.check_parts import check_parts
from gateway.config.check_slo import check_slo
from gateway.config.check_tls import check_tls
from gateway.config.check_traffic import check_traffic
from gateway.config.kinds import Reader
from gateway.config.known import BUILT_IN_PATHS, MANAGEMENT_PATHS, known_of
from gateway.config.problems import shown
from gateway.config.spec import PREDICTING
from gateway.config.types import Config, Pool

_THIS_MACHINE = frozenset(("0.0.0.0", "::", "::1", "localhost", "127.0.0.1"))
CheckPick = Callable[[str, Mapping[str, Any]], str | None]


@dataclass(frozen=True, slots=True)
class Draft:
    """A configuration under check: what could be made of it, the dicts it was made from, and the reading's findings."""

    config: Config
    raw: Mapping[str, Any]
    reader: Reader


def check(draft: Draft, check_pick: CheckPick | None) -> None:
    """Report everything that does not agree."""
    for name in draft.raw["pools"]:
        _check_sources(draft, name)
    for pool in draft.config.pools.values():
        _check_pool(draft, pool)
        if check_pick and (fault := check_pick(pool.pick.policy, pool.pick.options)):
            option = [name for name in pool.pick.options if name in fault][:1]
            draft.reader.error(draft.reader.key_at("pools", pool.name, "pick", *option), fault)
    _check_endpoints(draft)
    _check_loops(draft)
    _check_predictions(draft)
    check_models(draft.raw, known_of(draft.config, draft.raw, draft.reader), draft.reader)
    check_parts(draft.config, draft.raw, draft.reader)
    check_slo(draft.config, draft.reader)
    check_tls(draft.config, draft.reader)
    _check_listeners(draft)
    check_traffic(draft.config, draft.raw, draft.reader)
    _check_limits(draft)
    _check_paths(draft)


def _check_sources(draft: Draft, name: str) -> None:
    """A pool's endpoints come from exactly one place."""
    reader, raw = draft.reader, draft.raw["pools"][name]
    if not isinstance(raw, Mapping):
        return
    places = [key for key in ("endpoints", "dns", "file")
              if ("pools", name, key) in reader.places and raw.get(key, ...) is not None]  # fmt: skip
    if not places:
        hint = "give endpoints, dns or file"
        reader.error(reader.key_at("pools", name), f"pool {shown(name)} has no endpoints", hint)
    for extra in places[1:]:
        reader.error(reader.key_at("pools", name, extra), f"contradictory: `{places[0]}` and `{extra}`", "give one")


def _check_pool(draft: Draft, pool: Pool) -> None:
    reader, at = draft.reader, ("pools", pool.name)
    for name in ("connect", "first_token", "between_tokens"):
        if getattr(pool.timeouts, name) > pool.timeouts.total:
            where = reader.value_at(*at, "timeouts", name if reader.is_given(*at, "timeouts", name) else "total")
            reader.error(where, f"contradictory: `{name}` is longer than `total`", "total bounds the whole answer")
    if pool.eject.base > pool.eject.max:
        where = reader.value_at(*at, "eject", "base" if reader.is_given(*at, "eject", "base") else "max")
        reader.error(where, "contradictory: `base` is longer than `max`")
    _check_upstream_tls(draft, pool)


def _check_upstream_tls(draft: Draft, pool: Pool) -> None:
    tls, reader = pool.tls, draft.reader
    if tls is None:
        return
    where = reader.key_at("pools", pool.name, "tls")
    if (tls.cert is None) != (tls.key is None):
        reader.error(where, "contradictory: `cert` and `key` belong together", "give both or neither")
    if tls.insecure and tls.ca is not None:
        reader.error(where, "contradictory: `insecure` believes anyone, `ca` says whom to believe", "give one")
    elif tls.insecure:
        reader.warn(where, "any certificate is believed", "give `ca` instead of `insecure`")
    if pool.file is None and not any(endpoint.url.startswith("https:") for endpoint in pool.endpoints):
        reader.warn(where, f"`tls` is unused: no endpoint of pool {shown(pool.name)} is https://")


def _check_endpoints(draft: Draft) -> None:
    """No server twice in a pool; in two pools is allowed, but their counts of it will differ."""
    owner: dict[str, str] = {}
    for name, raw in draft.raw["pools"].items():
        seen: set[str | None] = set()
        rows = raw.get("endpoints") or () if isinstance(raw, Mapping) else ()
        for row, part in enumerate(rows):
            if not isinstance(part, Mapping) or "url" not in part:
                continue
            url, label = part["url"], part.get("id")
            where = draft.reader.value_at("pools", name, "endpoints", row)
            first = owner.setdefault(url, name)
            if url in seen:
                draft.reader.error(where, f"endpoint repeated: {shown(url)}", "leave it out")
            elif first != name:
                told = f"{shown(url)} is also in pool {shown(first)}"
                draft.reader.warn(where, told, "each pool counts only what it sends itself")
            if label is not None and label in seen:
                draft.reader.error(where, f"endpoint repeated: id {shown(label)}")
            seen |= {url, label}


def _check_loops(draft: Draft) -> None:
    """An endpoint that is this gateway would get its own requests again, without end."""
    for name, pool in draft.config.pools.items():
        for row, endpoint in enumerate(pool.endpoints):
            url = urlsplit(endpoint.url)
            for key, ours in (("listen", draft.config.listen), ("admin", draft.config.admin)):
                same = url.hostname == ours.host or {url.hostname, ours.host} <= _THIS_MACHINE
                if url.port == ours.port and same:
                    where = draft.reader.value_at("pools", name, "endpoints", row)
                    told = f"a loop: {shown(endpoint.url)} is this gateway's own `{key}`"
                    draft.reader.error(where, told, "name the model server's port, or listen on another")


def _check_predictions(draft: Draft) -> None:
    """What is told to a predictor is unused where no policy asks one."""
    reader, hint = draft.reader, "pick: predicted_latency"
    blind = {name for name, pool in draft.config.pools.items() if not _predicts(pool.pick.policy)}
    for name, pool in draft.config.pools.items():
        if pool.profile is not None and name in blind:
            told = f"`profile` is unused: {shown(pool.pick.policy)} does not predict"
            reader.warn(reader.key_at("pools", name, "profile"), told, hint)
    for name, model in draft.config.models.items():
        if (model.slo.ttft or model.slo.tpot) and set(model.pools) <= blind:
            told = f"`slo` is unused: no policy of {shown(name)}'s pools predicts"
            reader.warn(reader.key_at("models", name, "slo"), told, hint)


def _predicts(policy: str) -> bool:
    """Whether it asks a predictor; somebody else's class may."""
    return policy in PREDICTING or ":" in policy


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_listeners(draft: Draft) -> None:
    config, reader = draft.config, draft.reader
    listen, admin = config.listen, config.admin
    if not is_loopback(admin.host) and admin.token is None:
        hint = 'write {address: …, token: "${ADMIN_TOKEN}"}, or listen on 127.0.0.1'
        reader.error(reader.value_at("admin"), "`admin` is not on loopback and has no token", hint)
    hosts = {listen.host, admin.host}
    if listen.port and listen.port == admin.port and (len(hosts) == 1 or hosts & {"0.0.0.0", "::"}):
        reader.error(reader.value_at("admin"), "contradictory: `admin` and `listen` are the same address")
    if not config.keys and "keys" not in draft.raw and not is_loopback(listen.host):
        reader.warn(reader.value_at("listen"), "no keys: every client is tenant `anonymous`", "add `keys:`")


def _check_limits(draft: Draft) -> None:
    limits, reader = draft.config.limits, draft.reader
    if limits.body > limits.buffered:
        reader.error(reader.value_at("limits", "body"), "contradictory: `body` is larger than `buffered`")


def _check_paths(draft: Draft) -> None:
    reader = draft.reader
    seen: set[str] = set()
    for row, raw in enumerate(draft.raw.get("paths") or ()):
        if not isinstance(raw, Mapping) or "path" not in raw:
            continue
        path, source = raw["path"], raw.get("model_from", {"source": "body"})
        where, told = reader.value_at("paths", row, "path"), shown(path)
        if path in seen:
            reader.error(where, f"path repeated: {told}")
        seen.add(path)
        if path in BUILT_IN_PATHS:
            reader.error(where, f"unreachable: {told} is already served", "leave it out")
        elif path in MANAGEMENT_PATHS:
            reader.error(where, f"{told} manages the model server and is never reachable", "leave it out")
        if source and ("{model}" in path.split("/")) != (source.get("source") == "path"):
            hint = "`{model}` in the path and `model_from: path` go together"
            reader.error(where, f"contradictory: where the model of {told} is named", hint)
        if "default" in source:
            _check_default(draft, row, path, source["default"])


def _check_default(draft: Draft, row: int, path: str, name: str) -> None:
    """A path that has one model: its requests need not name any, so model servers may hear of none."""
    mark, told = draft.reader.value_at("paths", row, "model_from", "default"), shown(path)
    if name not in draft.raw["models"]:
        draft.reader.warn(mark, f"model {shown(name)} does not exist: {told} answers 404")
    model = draft.config.models.get(name)
    if model is None:
        return
    names = {model.upstream_name(name, arm) for route in model.routes for arm in route.arms}
    if model.lora is not None or len(names) > 1:
        what = "adapter" if model.lora is not None else "`as`"
        hint = "take the model from the body or from a header"
        draft.reader.warn(mark, f"{what} of {shown(name)} is unheard where a body on {told} names no model", hint)
