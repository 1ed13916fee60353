"""The admission orders by name: who of one class and pool goes next.

To add one: write `policies/admission/<name>.py` with a class that `base.Order` describes, and add a line to `ORDERS`.
Its contract tests run by themselves. Everything else in this folder is shared by all orders: the `room` they wait in,
the `judge` who says whether a promise can be kept, the `desk` that ties them together.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from policies.admission.base import Order
from policies.admission.deadline import Deadline
from policies.admission.fair import Fair
from policies.admission.fifo import Fifo
from policies.admission.shares import Shares

ORDERS: Mapping[str, type[Order[Any]]] = {"fifo": Fifo, "deadline": Deadline, "fair": Fair}


def create(name: str, shares: Shares) -> Order[Any]:
    """An empty queue in this order; `shares` says who has had how much.

    Raises ValueError, with a message for the author of the configuration, if there is no such order.
    """
    found = ORDERS.get(name)
    if found is None:
        near = get_close_matches(name, ORDERS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(ORDERS))}"
        raise ValueError(f"order: there is no order {name!r}; {hint}")
    return found(shares)
