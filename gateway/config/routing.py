"""What a model is besides a name and a place: an adapter, and what is captured of its traffic. As values.

The idea: the same as in `types`, which hands these on. Rules, splits and canaries stand in `gateway.core.routes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Layout = Literal["headway", "sagemaker"]


@dataclass(frozen=True, slots=True)
class Lora:
    """The model is an adapter: `path` is where the model servers find it; None: it is there already.

    With a path it is loaded on demand, at most `most` adapters on a server, the least recently used one goes.
    """

    path: str | None = None
    most: int = 4


@dataclass(frozen=True, slots=True)
class Capture:
    """Which requests and answers of a model are kept, and how. Off without it.

    `share` of the requests; the JSON `fields` of both that are kept (none named: all); secrets and personal data are
    replaced where `redact`; at most `body` bytes of each; `file` begins anew after `rotate` bytes, `keep` old stay.
    """

    file: str
    share: float = 0.01
    fields: tuple[str, ...] = ()
    redact: bool = True
    body: int = 64 << 10
    rotate: int = 64 << 20
    keep: int = 5
    layout: Layout = "headway"
