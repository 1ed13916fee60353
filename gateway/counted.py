"""Counters that others keep, as the metrics page shows them: rules, and what stands in the shadow.

Left to others: counting (`routers`, `limits`, the desks), the page (`metrics`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from gateway.lane import Lane
from policies.routing import Count

ROUTED, SHADOW, CAPTURES = "headway_routed_total", "headway_shadow_total", "headway_captures_total"

Counted = tuple[str, tuple[str, ...], float]
"""A metric's name, its labels and its value."""


def counted(rules: Mapping[str, Mapping[str, Count]], lanes: Iterable[Lane],
            limits: Mapping[str, int]) -> Iterator[Counted]:  # fmt: skip
    """`rules` by model and rule; `limits`: what those in shadow would have refused, by tenant."""
    for model, found in rules.items():
        for rule, count in found.items():
            yield ROUTED, (model, rule), float(count.used)
            if count.shadowed:
                yield SHADOW, ("rule", f"{model}/{rule}"), float(count.shadowed)
    classes: Counter[str] = Counter()
    for lane in lanes:
        for (klass, reason), spared in lane.desk.refusals.spared.items():
            classes[f"{klass}/{reason}"] += spared
    for name, spared in classes.items():
        yield SHADOW, ("class", name), float(spared)
    for tenant, spared in limits.items():
        yield SHADOW, ("limit", tenant), float(spared)
