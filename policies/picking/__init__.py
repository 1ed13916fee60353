"""The picking policies by name: which endpoint gets a request.

To add one: write `policies/picking/<name>.py` with a class that `base.Policy` describes, and add a line to `POLICIES`.
Its contract tests run by themselves. YAML may also name a class that is not here, as `some.module:Class`.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from policies.picking.base import Policy
from policies.picking.dynamo_kv import DynamoKv
from policies.picking.least_inflight import LeastInflight
from policies.picking.least_tokens import LeastTokens
from policies.picking.llmd_predicted import LlmdPredicted
from policies.picking.lmetric import Lmetric
from policies.picking.power_of_two import PowerOfTwo
from policies.picking.predicted_latency import PredictedLatency
from policies.picking.predicted_ttft import PredictedTtft
from policies.picking.prefix_affinity import PrefixAffinity
from policies.picking.round_robin import RoundRobin
from policies.picking.session_hash import SessionHash
from policies.picking.sglang_cache_aware import SglangCacheAware
from policies.picking.sticky_until_saturated import StickyUntilSaturated
from policies.picking.uncached_tokens import UncachedTokens

POLICIES: Mapping[str, type[Policy]] = {
    "round_robin": RoundRobin,
    "least_inflight": LeastInflight,
    "least_tokens": LeastTokens,
    "power_of_two": PowerOfTwo,
    "session_hash": SessionHash,
    "prefix_affinity": PrefixAffinity,
    "sticky_until_saturated": StickyUntilSaturated,
    "uncached_tokens": UncachedTokens,
    "lmetric": Lmetric,
    "sglang_cache_aware": SglangCacheAware,
    "dynamo_kv": DynamoKv,
    "predicted_ttft": PredictedTtft,
    "llmd_predicted": LlmdPredicted,
    "predicted_latency": PredictedLatency,
}

# Names that are promised, so that asking for one early is answered with more than "unknown".
PLANNED: tuple[str, ...] = ()


def create(name: str, options: Mapping[str, object]) -> Policy:
    """A policy of this name (or `module:Class`) with these options.

    Raises ValueError, with a message for the author of the configuration, if there is no such policy or option or if
    a value is not allowed.
    """
    found = _find(name)
    known = _option_names(found)
    for option in options:
        if option not in known:
            raise ValueError(f"pick: {name} has no option {option!r}" + _instead(option, known, "its options are"))
    try:
        return found(**options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"pick: {name}: {error}") from error


def check(name: str, options: Mapping[str, object]) -> str | None:
    """What is wrong with this choice of policy, in words for the author of the configuration; None if it is right."""
    try:
        create(name, options)
    except ValueError as error:
        return str(error)
    return None


def _find(name: str) -> type[Policy]:
    if name in POLICIES:
        return POLICIES[name]
    if ":" in name:
        return _load(name)
    if name in PLANNED:
        raise ValueError(f"pick: {name} is not in this version; there are {', '.join(sorted(POLICIES))}")
    raise ValueError(f"pick: there is no policy {name!r}" + _instead(name, POLICIES, "there are"))


def _load(name: str) -> type[Policy]:
    module_name, _, class_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError, TypeError) as error:
        raise ValueError(f"pick: cannot import {module_name!r} of {name!r}: {error}") from error
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, Policy)):
        raise ValueError(f"pick: {module_name!r} has no policy class {class_name!r} (a subclass of Policy)")
    if inspect.isabstract(found):
        raise ValueError(f"pick: {name!r} has no `pick` method")
    return found


def _option_names(found: type[Policy]) -> list[str]:
    parameters = list(inspect.signature(found).parameters.values())
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def _instead(word: str, known: Iterable[str], otherwise: str) -> str:
    known = sorted(known)
    close = get_close_matches(str(word), known, n=3)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    return f"; {otherwise} {', '.join(known)}" if known else "; it has none"
