"""A store in a few dictionaries, with the rules of the contract and nothing else: what real ones are compared with."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.jobs.base import DELIVERIES, DELIVERIES_IN_COMPANY

Order = tuple[float, int, int, int, bytes, int]


@dataclass
class Item:
    """One line or job. `record` is how it ended, None before."""

    name: str
    seq: int
    prefix: bytes
    group: Group
    attempt: int = 0
    owner: str | None = None
    until: float = 0.0
    ready_at: float = 0.0
    lost: int = 0
    blame: float = 0.0
    redo: bool = False
    tries: int = 0
    displaced: int = 0
    record: str | None = None

    def order(self) -> Order:
        single, group = self.group.single, self.group
        return (
            (group.deadline, 0, self.lost, group.seq, b"", 0)
            if single
            else (group.deadline, 1, group.seq, self.lost, self.prefix, self.seq)
        )

    def over(self, at: float) -> str | None:
        if self.group.cancelling:
            return "cancelled"
        return "expired" if self.group.deadline <= at else None


@dataclass
class Group:
    """A batch, or a single job as a batch of one."""

    seq: int
    id: str
    deadline: float
    single: bool
    items: list[Item] = field(default_factory=list)
    cancelling: bool = False
    out_of_time: bool = False

    @property
    def ended(self) -> bool:
        return all(item.record for item in self.items)


class Reference:
    """What a store must say, for the calls that the machine makes."""

    def __init__(self) -> None:
        self.groups: list[Group] = []
        self.counts = dict.fromkeys(("lost", "repeated", "late", "poisoned", "displaced"), 0)

    @property
    def items(self) -> list[Item]:
        return [item for group in self.groups for item in group.items]

    def find(self, group_id: str, name: str) -> Item:
        (group,) = (group for group in self.groups if group.id == group_id)
        return next(item for item in group.items if item.name == name)

    def claim(self, owner: str, limit: int, until: float, at: float) -> list[Item]:
        ready = [
            item
            for item in self.items
            if item.record is None and item.owner is None and item.ready_at <= at and item.over(at) is None
            and not item.group.out_of_time
        ]  # fmt: skip
        taken = sorted(ready, key=Item.order)[:limit]
        for item in taken:
            item.attempt, item.owner, item.until = item.attempt + 1, owner, until
            self.counts["repeated"] += item.redo
            item.redo = False
        return taken

    def holds(self, item: Item, attempt: int) -> bool:
        return item.record is None and item.owner is not None and item.attempt == attempt

    def finish(self, item: Item, attempt: int, record: str) -> bool:
        if item.record is not None or item.attempt != attempt:
            self.counts["late"] += 1
            return False
        item.record, item.owner = record, None
        return True

    def let_go(self, item: Item, at: float, ready_at: float = 0.0) -> None:
        item.owner, item.ready_at = None, ready_at
        item.record = item.over(at)

    def reap(self, at: float) -> int:
        held = [item for item in self.items if item.owner is not None]
        owners = [item.owner for item in held]
        gone = [item for item in held if item.until <= at]
        for item in gone:
            item.lost, item.redo = item.lost + 1, True
            item.blame += 1 / owners.count(item.owner)
            self.counts["lost"] += 1
            to_blame = item.blame > DELIVERIES - 1e-6 or item.lost >= DELIVERIES_IN_COMPANY
            if item.over(at) is None and to_blame:
                self.counts["poisoned"] += 1
                item.owner, item.record = None, "poisoned"
            else:
                self.let_go(item, at)
        return len(gone)

    def cancel(self, group: Group, at: float) -> None:
        if group.ended or group.out_of_time:
            return
        group.cancelling = True
        if group.single and group.items[0].owner is None:
            self.let_go(group.items[0], at)

    def expire(self, at: float) -> None:
        for group in self.groups:
            if group.deadline <= at and not group.single and not group.cancelling and not group.ended:
                group.out_of_time = True
            for item in group.items:
                if item.record is None and item.owner is None and item.over(at):
                    item.record = item.over(at)
