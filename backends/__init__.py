"""Kinds of model servers: one file each, one line each in `ENGINES`. The simulated one is in `sim/`.

`create` takes a name of the registry, or `some.module:Class` for an adapter that lives elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any

from backends.auto import Auto, detect, telling_pages
from backends.base import Backend, Meaning
from backends.http import HTTP
from backends.jetstream import JetStream
from backends.llamacpp import LlamaCpp
from backends.lmdeploy import LMDeploy
from backends.sglang import SGLang
from backends.tgi import TGI
from backends.triton import Triton
from backends.trtllm import TensorRTLLM
from backends.vllm import VLLM

__all__ = ["ENGINES", "Backend", "Meaning", "create", "detect", "telling_pages"]

ENGINES: Mapping[str, type[Backend]] = MappingProxyType(
    {
        "vllm": VLLM,
        "sglang": SGLang,
        "trtllm": TensorRTLLM,
        "triton": Triton,
        "tgi": TGI,
        "llamacpp": LlamaCpp,
        "lmdeploy": LMDeploy,
        "jetstream": JetStream,
        "http": HTTP,
        "auto": Auto,
    }
)


def create(name: str, **options: Any) -> Backend:
    """The adapter of that name. Raises ValueError if there is none, or if it is no adapter."""
    kind: Any = ENGINES.get(name)
    if kind is None and ":" in name:
        module, _, attribute = name.partition(":")
        try:
            kind = getattr(import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"engine {name!r} cannot be loaded: {error}") from error
    if kind is None:
        raise ValueError(f"unknown engine {name!r}; known: {', '.join(ENGINES)}, or some.module:Class")
    if not (isinstance(kind, type) and issubclass(kind, Backend)):
        raise ValueError(f"engine {name!r} is not a subclass of backends.base.Backend")
    return kind(**options)
