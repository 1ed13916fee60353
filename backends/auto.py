"""Finds out which engine an endpoint is; until that is known it is treated as plain `http`.

The idea: ask the few pages that differ and believe the most telling first: metric names carry the engine's prefix, then
what `/v1/models` says of its owner, then Triton's server page. An engine that is still starting is asked again later.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from backends.base import Backend, at_port, port_of
from backends.triton import PORTS_APART

METRICS, METRICS_ABOVE, TRTLLM, MODELS, TRITON = "/metrics", "+2/metrics", "/prometheus/metrics", "/v1/models", "/v2"
# Series of the engines, at the start of a line. A gateway or a sidecar may add its own, so only these decide.
_PREFIXES = (
    ("vllm", rb"^vllm:"),
    ("sglang", rb"^sglang:"),
    ("llamacpp", rb"^llamacpp:"),
    ("lmdeploy", rb"^lmdeploy:"),
    ("tgi", rb"^tgi_"),
    ("trtllm", rb"^trtllm_"),
    ("triton", rb"^nv_(?:inference|trt_llm)_"),
    ("jetstream", rb"^jetstream_"),
)
_OWNERS = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llamacpp", "lmdeploy": "lmdeploy"}


class Auto(Backend):
    name = "auto"
    metrics_path = None


def telling_pages(url: str) -> dict[str, str]:
    """The pages to fetch of an endpoint: their keys for `detect`, and where they are."""
    pages = {key: url + key for key in (METRICS, MODELS, TRTLLM, TRITON)}
    pages[METRICS_ABOVE] = at_port(url, port_of(url) + PORTS_APART, METRICS)
    return pages


def detect(pages: Mapping[str, bytes]) -> str | None:
    """The engine by its pages (keys of `telling_pages`; only those that answered 200). None: none of them tells."""
    for key in (METRICS, TRTLLM, METRICS_ABOVE):
        page = pages.get(key, b"")
        for engine, pattern in _PREFIXES:
            if re.search(pattern, page, re.MULTILINE):
                return engine
    models = _parse(pages.get(MODELS))
    listed = models.get("data")
    for model in listed if isinstance(listed, list) else ():
        owner = model.get("owned_by") if isinstance(model, dict) else None
        if isinstance(owner, str) and owner.lower() in _OWNERS:
            return _OWNERS[owner.lower()]
    return "triton" if _parse(pages.get(TRITON)).get("name") == "triton" else None


def _parse(page: bytes | None) -> dict[str, object]:
    try:
        found = json.loads(page or b"{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
