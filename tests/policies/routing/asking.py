"""A question as tests put it to a router: everything has a value, and a test names what it is about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.core.routes import Arm, CanaryRule, Route, Sticky
from policies.routing import Asked, Router

NOON = 1_772_539_200.0  # Tuesday, 2026-03-03 12:00 UTC
USUAL = Asked("m", "/v1/chat/completions", "acme", "sha256:00", "interactive", 100.0, False, "s", "u",
              lambda name: None, NOON)  # fmt: skip


def asked(headers: Mapping[str, str] | None = None, **other: Any) -> Asked:
    """The usual question with these headers and fields."""
    return USUAL._replace(header=(headers or {}).get, **other)


def nobody(rule: str) -> float | None:
    """No canary has begun."""
    return None


def arms(*weights: float) -> tuple[Arm, ...]:
    """Arms a, b, c … with these weights, leading to pools of the same names in capitals."""
    return tuple(Arm("abcdefgh"[row], "ABCDEFGH"[row], weight) for row, weight in enumerate(weights))


def split(*weights: float, by: str | None = None, salt: str = "", **other: Any) -> Route:
    """A rule for all requests with these arms, sticky by something or not at all."""
    sticky = None if by is None else Sticky(by, "x-who" if by == "header" else "", salt)  # type: ignore[arg-type]
    return Route(arms(*weights), sticky=sticky, **other)


def canary(*weights: float, arm: str = "b", **other: Any) -> Route:
    """The same with a canary."""
    return split(*weights, canary=CanaryRule(arm), **other)


def router(*routes: Route, seed: float = 0.5, **other: Any) -> Router:
    return Router("m", routes, seed, other.pop("shares", nobody), **other)
