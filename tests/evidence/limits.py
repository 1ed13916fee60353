"""Tenants' limits under concurrency: fifty calls at once against a limit of tokens, plain, streamed and left early.

Simulated engines count every token that they read and write, also for clients that left; that count is the truth. Per
case, waves of 50 calls at once go to one gateway, or by halves to two that share a Redis. Bars: tokens over the limit
(with its refill) at most the sum of what the reservations were short of, and with `reserve: max_tokens` none; what the
gateway charged within 3 % of what the engines counted; every refusal a 429 `tenant_limit` with `Retry-After`; one that
can never fit says `x-should-retry: false`. With two gateways at most a fifth of the limit may lie unused.

    python -m tests.evidence.limits [--short]
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import uvloop

from tests.bench.rounds import Bar, table
from tests.evidence.support import MODEL, Gateway, Sim, conclude, folder, gateway, parse, simulators
from tests.support.redis_server import RedisServer, binary

KEY = "sk-evidence"
AT_ONCE = 50
LONGEST = 200  # tokens of an answer
WORDS = 40  # of a prompt
LEAVES_AFTER = 5  # events
HOUR = 3600.0
KINDS = ("plain", "stream", "left")
UNUSED, CHARGED = 0.2, 0.03


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    reserve: str
    tokens: int  # an hour: what is refilled during the case hardly counts
    gateways: int = 1


CASES = (
    Case("learnt", "learnt", 8_000),
    Case("max_tokens", "max_tokens", 16_000),
    Case("learnt, two gateways", "learnt", 8_000, 2),
    Case("max_tokens, two gateways", "max_tokens", 16_000, 2),
)


@dataclass(slots=True)
class Answer:
    """What one call got. `used` in tokens, -1 where the client does not know."""

    kind: str
    status: int
    fields: dict[str, str]
    used: int = -1

    @property
    def remaining(self) -> int:
        return int(self.fields.get("x-ratelimit-remaining-tokens", "-1"))

    def badly_refused(self) -> bool:
        told = self.fields.get("x-headway-reason"), "retry-after" in self.fields
        return self.status not in (200, 429) or (self.status == 429 and told != ("tenant_limit", True))


@dataclass(slots=True)
class Sums:
    answers: list[Answer] = field(default_factory=list)
    short: float = 0.0  # what reservations were short of, together
    seconds: float = 0.0
    engines: float = 0.0  # tokens they counted
    charged: float = 0.0

    @property
    def admitted(self) -> int:
        return sum(answer.status == 200 for answer in self.answers)


def body_of(kind: str, words: int, longest: int) -> bytes:
    more = {"stream": True, "stream_options": {"include_usage": True}} if kind != "plain" else {}
    text = "word " * words
    return json.dumps({
        "model": MODEL, "max_tokens": longest, "messages": [{"role": "user", "content": text}], **more,
    }).encode()  # fmt: skip


async def call(port: int, kind: str, words: int = WORDS, longest: int = LONGEST) -> Answer:
    """One call on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = body_of(kind, words, longest)
    head = (f"POST /v1/chat/completions HTTP/1.1\r\nhost: evidence\r\nauthorization: Bearer {KEY}\r\n"
            f"content-type: application/json\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n")  # fmt: skip
    try:
        writer.write(head.encode() + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        answer = Answer(kind, int(lines[0].split()[1]), fields)
        if answer.status != 200:
            return answer
        if kind == "left":
            for _ in range(LEAVES_AFTER):
                await reader.readuntil(b"\n\n")
            return answer
        text = await reader.read()
        at = text.rfind(b'"total_tokens":')
        answer.used = int(text[at + 15 : at + 25].split(b",")[0].split(b"}")[0])
        return answer
    finally:
        writer.transport.abort()


def counted(sims: Sequence[Sim]) -> float:
    """Tokens that the engines have read and written so far."""
    found = 0.0
    for sim in sims:
        with urllib.request.urlopen(f"{sim.url}/metrics", timeout=5) as page:
            for line in page.read().decode().splitlines():
                if line.startswith(("vllm:prompt_tokens_total", "vllm:generation_tokens_total")):
                    found += float(line.split()[-1])
    return found


def reserved(wave: Sequence[Answer]) -> float:
    """What each call of a wave had reserved: they are alike, so it is the usual step of what remained."""
    told = sorted(answer.remaining for answer in wave if answer.status == 200)
    steps = [b - a for a, b in pairwise(told) if b > a]
    return statistics.median(steps) if steps else 0.0


async def waves(running: Sequence[Gateway], count: int) -> Sums:
    sums, began = Sums(), time.monotonic()
    for number in range(count):
        calls = [call(running[i % len(running)].port, KINDS[(i // len(running) + number) % 3]) for i in range(AT_ONCE)]
        wave = await asyncio.gather(*calls)
        sums.answers += wave
        held = [reserved(wave[first :: len(running)]) for first in range(len(running))]
        sums.short += sum(max(0.0, one.used - held[i % len(running)]) for i, one in enumerate(wave) if one.used >= 0)
        await asyncio.sleep(0.5)  # those who left are settled
    sums.seconds = time.monotonic() - began
    return sums


def run(case: Case, sims: Sequence[Sim], where: Path, count: int) -> tuple[Sums, Answer]:
    """One case on fresh gateways; what came of it, and the answer to a request that can never fit."""
    limits = {"tokens": f"{case.tokens}/h", "reserve": case.reserve}
    top: dict[str, object] = {"keys": {KEY: {"tenant": "evidence", "limits": limits}}}
    with ExitStack() as stack:
        if case.gateways > 1:
            (where / "redis").mkdir(parents=True)
            top["shared"] = stack.enter_context(RedisServer(where / "redis")).url
        running = [
            stack.enter_context(gateway(where / f"gateway{n}", [sim.url for sim in sims], top=top, usage="inject"))
            for n in range(case.gateways)
        ]
        before = counted(sims)
        sums = uvloop.run(waves(running, count))
        sums.engines = counted(sims) - before
        never = uvloop.run(call(running[0].port, "plain", case.tokens * 2))
        sums.charged = case.tokens * (1 + sums.seconds / HOUR) - never.remaining
    return sums, never


def bars_of(case: Case, sums: Sums, never: Answer) -> list[Bar]:
    allowed = case.tokens * (1 + sums.seconds / HOUR)
    room = 0.0 if case.reserve == "max_tokens" else sums.short
    bars = [
        Bar(f"{case.name}: tokens over the limit", max(0.0, sums.engines - allowed), room),
        Bar(f"{case.name}: refusals without status, reason and time", sum(a.badly_refused() for a in sums.answers), 0),
        Bar(f"{case.name}: one that never fits, told to come again",
            int(never.status != 429 or never.fields.get("x-should-retry") != "false"), 0),
        Bar(f"{case.name}: nobody was refused", int(sums.admitted == len(sums.answers)), 0),
    ]  # fmt: skip
    if case.gateways == 1:
        off = abs(sums.charged - sums.engines) / max(1.0, sums.engines)
        bars.append(Bar(f"{case.name}: charged, off what engines counted, share", off, CHARGED))
    else:
        bars.append(Bar(f"{case.name}: share of the limit unused", max(0.0, 1 - sums.engines / allowed), UNUSED))
    return bars


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(__doc__ or "", argv)
    count, speed = (8, 4.0) if options.short else (16, 1.0)
    bars, rows = [], []
    with folder() as where, simulators(2, where, speed, "--mean-output", "120") as sims:
        for number, case in enumerate(CASES):
            if case.gateways > 1 and binary() is None:
                print(f"{case.name}: left out, there is no redis-server on this machine")
                continue
            sums, never = run(case, sims, where / str(number), count)
            statuses = dict(Counter(answer.status for answer in sums.answers))
            print(f"{case.name}: {sums.seconds:.0f} s, statuses {statuses}", flush=True)
            bars += bars_of(case, sums, never)
            rows.append([case.name, f"{case.tokens:,}", f"{sums.admitted}", f"{len(sums.answers) - sums.admitted}",
                         f"{sum(a.kind == 'left' and a.status == 200 for a in sums.answers)}", f"{sums.engines:,.0f}",
                         f"{sums.charged:,.0f}" if case.gateways == 1 else "–",
                         f"{sums.short:,.0f}" if case.reserve == "learnt" else "–"])  # fmt: skip
    print(table(["case", "limit (an hour)", "let through", "refused", "left early", "tokens, engines", "charged",
                 "reservations short by"], rows))  # fmt: skip
    return conclude(bars)


if __name__ == "__main__":
    sys.exit(main())
