"""A process that works on a store until it is killed: it accepts jobs, runs what there is, and says what it was told.

Run as `python -m tests.gateway.jobs.crash_worker URL NAME JOBS`. Each line it prints was true when it was printed:
`accepted ID` after the store had accepted one of at most so many jobs, `finished ID` after a record was written, `idle`
when there was nothing to do.
"""

from __future__ import annotations

import asyncio
import sys
import time

from gateway.jobs import open_store
from gateway.jobs.base import Store, StoreUnavailable
from gateway.jobs.model import Claim, Result
from tests.gateway.jobs.making import answer, work

LEASE = 1.0


async def insist(store: Store, claim: Claim, result: Result) -> None:
    while True:
        try:
            if await store.finish(claim, result, time.time()):
                print("finished", claim.id, flush=True)
            return
        except StoreUnavailable:
            await asyncio.sleep(0.02)


async def accept(store: Store, key: str) -> None:
    job, _ = await store.submit(work(deadline=time.time() + 3600, idempotency_key=key), time.time())
    print("accepted", job.id, flush=True)


async def work_a_while(store: Store, name: str) -> None:
    now = time.time()
    await store.reap(now)
    claims = await store.claim(name, 8, now + LEASE, now)
    await asyncio.gather(*(insist(store, claim, answer(claim.custom_id)) for claim in claims))
    if not claims:
        print("idle", flush=True)
        await asyncio.sleep(0.05)


async def main(url: str, name: str, jobs: str) -> None:
    store = open_store(url)
    number = 0
    while True:
        try:
            if number < int(jobs):
                await accept(store, f"{name}-{number}")
                number += 1
            await work_a_while(store, name)
        except StoreUnavailable:
            await asyncio.sleep(0.02)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
