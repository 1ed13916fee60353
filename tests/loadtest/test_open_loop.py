"""Tests of loadtest/open_loop.py, on a virtual clock: starts do not wait for answers, and a late start counts."""

from __future__ import annotations

import pytest

from loadtest.client import Exchange
from loadtest.open_loop import Asking, CpuWatch, OpenLoop
from loadtest.workload import Item
from tests.loadtest.virtual_loop import VirtualLoop, run

ASKING = Asking("m", "/v1/completions")
EVENT = b'data: {"choices":[{"text":"a","finish_reason":"length"}]}\n\n'


class FakeClient:
    """Answers each exchange `takes` seconds after it was sent, with two tokens `gap` apart; None: never."""

    def __init__(self, loop: VirtualLoop, takes: float | None, gap: float = 0.5) -> None:
        self.loop, self.takes, self.gap = loop, takes, gap
        self.open: list[Exchange] = []
        self.expired_before: list[float] = []

    def send(self, exchange: Exchange) -> None:
        exchange.began = self.loop.time()
        exchange.meter.head(200, {b"content-type": b"text/event-stream"})
        self.open.append(exchange)
        if self.takes is not None:
            self.loop.call_later(self.takes, self.token, exchange)
            self.loop.call_later(self.takes + self.gap, self.last_token, exchange)

    def token(self, exchange: Exchange) -> None:
        exchange.meter.feed(EVENT, self.loop.time())

    def last_token(self, exchange: Exchange) -> None:
        self.token(exchange)
        self.end(exchange, "")

    def end(self, exchange: Exchange, failure: str) -> None:
        self.open.remove(exchange)
        exchange.ended, exchange.failure = self.loop.time(), failure
        exchange.finished(exchange)

    def expire(self, older_than: float) -> None:
        self.expired_before.append(older_than)

    def close(self) -> None:
        for exchange in list(self.open):
            self.end(exchange, "unfinished")


def items(*times: float) -> list[Item]:
    return [Item(at, 10, 2, tenant="t") for at in times]


def replay(
    takes: float | None, *times: float, stall: tuple[float, float] | None = None, grace: float = 60.0
) -> OpenLoop:
    loop = VirtualLoop()
    client = FakeClient(loop, takes)

    async def main() -> OpenLoop:
        made = OpenLoop(client, ASKING, clock=loop.time)  # type: ignore[arg-type]
        if stall is not None:
            loop.call_later(0.2 + stall[0], loop.block, stall[1])
        await made.run(items(*times), grace)
        return made

    return run(loop, main())


def test_requests_start_at_their_times_however_slow_the_answers_are() -> None:
    done = replay(30.0, 0.0, 1.0, 1.0, 2.5)
    assert sorted(r.started for r in done.records) == pytest.approx([0.0, 1.0, 1.0, 2.5], abs=1e-3)
    assert [r.ttft for r in done.records] == pytest.approx([30.0] * 4, abs=1e-3)
    assert [r.e2e for r in done.records] == pytest.approx([30.5] * 4, abs=1e-3)
    assert [r.tpot for r in done.records] == pytest.approx([0.5] * 4)


def test_a_generator_that_stalls_counts_its_delay_as_latency_and_as_lag() -> None:
    done = replay(1.0, 0.0, 1.0, 2.0, stall=(0.5, 3.0))
    late = sorted((r for r in done.records), key=lambda r: r.intended)[1:]
    assert [r.lag for r in late] == pytest.approx([2.5, 1.5], abs=1e-3)
    assert [r.ttft for r in late] == pytest.approx([3.5, 2.5], abs=1e-3)


def test_what_is_not_answered_in_the_grace_time_ends_as_unfinished() -> None:
    done = replay(None, 0.0, 1.0, grace=5.0)
    assert [r.failure for r in done.records] == ["unfinished", "unfinished"]
    assert 5.0 <= done.records[0].ended <= 9.0
    assert done.in_flight == 0


def test_an_empty_workload_ends_at_once() -> None:
    assert replay(1.0).records == []


def test_a_record_carries_what_the_stream_showed() -> None:
    (record,) = replay(1.0, 0.0).records
    assert (record.tokens, record.asked_tokens, record.prompt_tokens, record.tenant) == (2, 2, 10, "t")
    assert list(record.gaps) == [0.5] and record.ok and record.status == 200


def test_cpu_time_is_reported_as_a_share_with_its_busiest_second() -> None:
    loop = VirtualLoop()
    cpu = 0.0

    def use(seconds: float) -> None:
        nonlocal cpu
        cpu += seconds

    async def main() -> None:
        async with CpuWatch(lambda: cpu, loop.time) as watch:
            loop.call_later(1.5, use, 0.6)
            await _sleep(loop, 4.5)
            found = watch.result(3)
        assert found.cpu_peak == pytest.approx(0.6)
        assert found.cpu_mean == pytest.approx(0.6 / 4.5)
        assert found.connections == 3

    run(loop, main())


async def _sleep(loop: VirtualLoop, seconds: float) -> None:
    ended = loop.create_future()
    loop.call_later(seconds, ended.set_result, None)
    await ended
