"""The stores and the reference, through any sequence of events hypothesis comes up with."""

from __future__ import annotations

import tempfile
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from gateway.jobs.base import Store
from gateway.jobs.redis import RedisStore
from gateway.jobs.sqlite import SqliteStore
from tests.gateway.jobs.machine import StoreMachine

SETTINGS = settings(
    max_examples=25,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


@pytest.mark.slow
def test_sqlite_does_what_the_reference_does(tmp_path: Path) -> None:
    class Machine(StoreMachine):
        def __init__(self) -> None:
            super().__init__()
            self.path = tempfile.mkdtemp(dir=tmp_path) + "/jobs.db"

        def make_store(self) -> Store:
            return SqliteStore(self.path)

        def restarted(self) -> None:
            for item in self.reference.items:
                if item.owner is not None:
                    item.until = 0.0  # whoever opens the file alone knows that all leases are of the dead

    run_state_machine_as_test(Machine, settings=SETTINGS)


@pytest.mark.slow
def test_redis_does_what_the_reference_does(redis_url: str) -> None:
    numbers = count()

    class Machine(StoreMachine):
        def __init__(self) -> None:
            super().__init__()
            self.prefix = f"{{jobs{next(numbers)}}}"

        def make_store(self) -> Store:
            return RedisStore(redis_url, self.prefix, clock="caller")

    run_state_machine_as_test(Machine, settings=SETTINGS)
