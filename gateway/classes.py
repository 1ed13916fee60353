"""Which class a request belongs to: what it asks for, what its key may use, what its model says, the default.

The idea: the first of four that has something to say. A class that is asked for and not granted is an error, never
another class in silence: work that was meant to wait must not run as if people waited for it, nor the other way round.

Left to others: what a class means for a request (`policies.admission`), reading heads (`front`).
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.config.types import Config, Key, Model, TrafficClass
from gateway.core.errors import BadRequest

CLASS_HEADER = b"x-headway-class"
OBJECTIVE_HEADERS = (b"x-llm-d-inference-objective", b"x-gateway-inference-objective")
"""Headers of other gateways: a class where they name one, else none of our business."""


def asked_class(config: Config, named: Mapping[bytes, bytes]) -> str | None:
    """The class that the request's headers (lower-case names) ask for, known or not; None: they ask for none."""
    asked = named.get(CLASS_HEADER)
    if asked is not None:
        return asked.decode("latin-1")
    for header in OBJECTIVE_HEADERS:
        if (objective := named.get(header)) is not None and (name := objective.decode("latin-1")) in config.classes:
            return name
    return None


def class_of(config: Config, key: Key, model: Model, asked: str | None) -> TrafficClass:
    """The class of a request. Raises BadRequest: 400 where there is no such class, 403 where the key may not use it."""
    classes = config.classes
    if asked is None:
        if key.default_class is not None:
            return classes[key.default_class]
        if model.klass is not None and may_use(key, model.klass):
            return classes[model.klass]
        return next(kind for kind in classes.values() if kind.default)
    if asked not in classes:
        told = f"there is no class {asked[:64]!r}; {_offer(config, key)}"
        raise BadRequest(told, code="unknown_class", param=CLASS_HEADER.decode())
    if not may_use(key, asked):
        told = f"this key may not use the class {asked!r}; {_offer(config, key)}"
        raise BadRequest(told, status=403, code="class_not_allowed", param=CLASS_HEADER.decode())
    return classes[asked]


def may_use(key: Key, klass: str) -> bool:
    """Whether the key's requests may be of this class."""
    return key.classes is None or klass in key.classes


def _offer(config: Config, key: Key) -> str:
    return "it may use " + ", ".join(name for name in config.classes if may_use(key, name))
