"""Which endpoints exist: one file per way to know, and the registry of them.

The names are the keys under a pool in the configuration (`endpoints`, `file`, `dns`); the keyword arguments of each
class are that key's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from gateway.discovery.base import Discovery
from gateway.discovery.dns import Dns
from gateway.discovery.file import File
from gateway.discovery.static import Static

SOURCES: Mapping[str, Callable[..., Discovery]] = MappingProxyType({"endpoints": Static, "file": File, "dns": Dns})
