"""A log output that keeps what it is given, for tests of what is logged."""

from __future__ import annotations

import json

from gateway.logs import Output


class HeldOutput(Output):
    """`data` is everything that was offered, as bytes."""

    def __init__(self) -> None:
        super().__init__(1)
        self.data = b""

    def offer(self, batch: object, size: int, lines: int) -> None:
        assert isinstance(batch, bytes)
        self.data += batch

    def events(self) -> list[str]:
        """The names of the events that were logged, in order."""
        return [json.loads(line)["event"] for line in self.data.splitlines()]
