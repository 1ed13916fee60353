"""The Redis store keeps every promise of the contract, and those that only a server can break."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.jobs.base import Store
from gateway.jobs.redis import RedisStore
from tests.gateway.jobs.batches_contract import BatchesContract
from tests.gateway.jobs.files_contract import FilesContract
from tests.gateway.jobs.jobs_contract import JobsContract
from tests.gateway.jobs.work_contract import WorkContract


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[Store]:
    made = RedisStore(redis_url, clock="caller")
    await made.open()
    yield made
    await made.close()


class TestRedis(FilesContract, BatchesContract, JobsContract, WorkContract):
    pass
