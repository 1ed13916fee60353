"""The verb `serve`: what its parts do that no running gateway is needed to see."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import cast

from gateway.app import Gateway
from gateway.serve import _reload_on_change


class Reloaded:
    """Stands for a gateway: notes that it was asked to reload."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def reload(self) -> None:
        self.asked.set()


async def test_a_change_made_while_the_gateway_starts_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "headway.yaml"
    file.write_bytes(b"what was written after the start had read it")
    gateway = Reloaded()
    watching = asyncio.create_task(
        _reload_on_change(argparse.Namespace(config=str(file)), cast(Gateway, gateway), b"what the start had read")
    )
    await asyncio.wait_for(gateway.asked.wait(), 10.0)
    watching.cancel()
