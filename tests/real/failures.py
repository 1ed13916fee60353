"""Two real vLLM servers behind Headway, one of which is frozen, told to stop, killed or full while streams run.

The promise under test: no request is lost whose answer had not started; one that had started gets an error event and
never ends as if it were whole.
"""

from __future__ import annotations

import asyncio
import collections
import signal
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from tests.real.ask import Answer, ask, wait_for
from tests.real.rigs import Headway, Report, Script, engine_core, headway, kill, processes
from tests.real.vllm import burst, completion, pool

Flags = Sequence[str] | None  # to start the first server again with, or None: as it is
Check = Callable[[Report, Headway, int, Sequence[str], str], Coroutine[Any, Any, None]]

TOKENS = 48
COMMENTS = ("--sse-keep-alive-interval", "1")  # a comment each second, which starts no answer and keeps none alive
TIMEOUTS = {"first_token": "40s", "between_tokens": "8s"}


def failures(report: Report, script: Script, ports: Sequence[int], model: str, where: Path) -> None:
    """Every way to fail, each with a fresh gateway. The second server is never harmed."""
    port, urls = ports[0], [f"http://127.0.0.1:{number}" for number in ports]
    rounds: list[tuple[Flags, Check]] = [
        (None, check_frozen),
        (None, check_machine_frozen),
        (("--shutdown-timeout", "20"), check_told_to_stop),
        ((), check_stopped),
        (COMMENTS, check_killed),
        (COMMENTS, check_engine_killed),
        (("--max-num-queued-reqs", "2"), check_full),
    ]
    for flags, check in rounds:
        if flags is not None:
            _restart(script, port, *flags)
        config = {"pools": {"main": pool(urls, eject={"base": "3s"}, timeouts=TIMEOUTS)},
                  "models": {model: {"to": "main"}}}  # fmt: skip
        with headway(where / check.__name__, config) as gateway:
            asyncio.run(check(report, gateway, port, urls, model))


def _restart(script: Script, port: int, *flags: str) -> None:
    script.stop(port)
    script.start(port, *flags)


# --- what is done to the first server --------------------------------------------------------------------------------


async def check_frozen(report: Report, gateway: Headway, port: int, urls: Sequence[str], model: str) -> None:
    """SIGSTOP to its engine process: it goes on to answer its health check and its metrics, and sends 200 at once."""
    for _ in range(6):  # silence is judged only once it is known how long a first token takes here
        await burst(gateway.url, model, 4, 2, "warm")
    seen = [line["ttft"] for line in gateway.lines()]
    engine = engine_core(port)
    began = time.monotonic()
    task = await _under_way(gateway, urls[0], model, 16, "frozen")
    kill([engine], signal.SIGSTOP)
    until = time.monotonic() - began
    try:
        found = await wait_for(lambda: _is(gateway, urls[0], "ejected"), 60.0)
        state = await gateway.endpoint("main", urls[0])
        answers = await task
        seen += [answer.first for answer in answers if answer.first < until]
        p99 = max(seen)  # of fewer than a hundred
        bound = max(5.0, 5 * p99)
        report.check("engine frozen: found out", found <= bound,
                     f"after {found:.1f} s (bound {bound:.1f} s, TTFT p99 {p99:.2f} s of {len(seen)}); {state['why']}; "
                     f"running {state['said']['running']}, waiting {state['said']['waiting']} by its page")  # fmt: skip
        judge(report, "engine frozen", gateway, answers, urls, "frozen")
        after = [await ask(gateway.url, "/v1/completions", completion(model, n, 2)) for n in range(6)]
        went = [answer.headers.get("x-headway-endpoint") for answer in after]
        report.check("engine frozen: what comes later is answered by the other", all(a.is_done for a in after), went)
    finally:
        kill([engine], signal.SIGCONT)
    back = await _until_back(gateway, urls[0], model)
    report.check("engine frozen: it comes back by a trial once it runs again", back < 60.0, f"after {back:.1f} s")


async def check_machine_frozen(report: Report, gateway: Headway, port: int, urls: Sequence[str], model: str) -> None:
    """SIGSTOP to all of its processes: nothing answers, nothing is refused, and no first token was seen here before."""
    task = await _under_way(gateway, urls[0], model, 16, "machine")
    frozen = processes(port)
    kill(frozen, signal.SIGSTOP)
    try:
        found = await wait_for(lambda: _is(gateway, urls[0], "down"), 30.0)
        answers = await task
        report.check("machine frozen: its health check finds out", found < 15.0, f"after {found:.1f} s")
        judge(report, "machine frozen", gateway, answers, urls, "machine")
        slowest = max(a.first for a in answers)
        report.check("machine frozen: those that wait are moved long before their time is over", slowest < 30.0,
                     f"slowest first token {slowest:.1f} s of {TIMEOUTS['first_token']}")  # fmt: skip
    finally:
        kill(frozen, signal.SIGCONT)
    back = await _until_back(gateway, urls[0], model)
    report.check("machine frozen: it comes back", back < 60.0, f"after {back:.1f} s")


async def check_told_to_stop(report: Report, gateway: Headway, port: int, urls: Sequence[str], model: str) -> None:
    """SIGTERM with a drain: its health check goes on to pass, running streams finish, new requests get a 500."""
    task = await _under_way(gateway, urls[0], model, 16, "stop")
    kill(processes(port)[:1], signal.SIGTERM)
    late = []
    for number in range(12):
        late.append(asyncio.create_task(ask(gateway.url, "/v1/completions", completion(model, 50 + number, 4),
                                            headers={"x-request-id": f"late-{number}"})))  # fmt: skip
        await asyncio.sleep(0.1)
    healthy = (await ask(urls[0], "/health")).status
    words = (await ask(urls[0], "/v1/completions", completion(model, 99, 2))).body[:90].decode()
    state = await gateway.endpoint("main", urls[0])
    answers = await asyncio.gather(*late)
    moved = moved_of(gateway, "late")
    done = all(a.is_done and a.tokens == 4 for a in answers)
    report.check("told to stop: new requests are all answered elsewhere", done,
                 f"{len(answers)} sent, {moved} of them moved; directly it says {words!r}")  # fmt: skip
    report.check("told to stop: taken out at once though its health check passes", state["state"] == "ejected",
                 f"{state['state']}, {state['why']}; health {healthy}")  # fmt: skip
    judge(report, "told to stop", gateway, await task, urls, "stop", may_break=False)


async def check_stopped(report: Report, gateway: Headway, port: int, urls: Sequence[str], model: str) -> None:
    """SIGTERM without a drain: its port closes, but the connections of open streams stay open and say nothing more."""
    for _ in range(6):
        await burst(gateway.url, model, 4, 2, "warm")
    task = await _under_way(gateway, urls[0], model, 16, "stopped")
    kill(processes(port)[:1], signal.SIGTERM)
    answers = await task
    judge(report, "stopped without a drain", gateway, answers, urls, "stopped")
    slowest = max(a.first for a in answers)
    report.check("stopped without a drain: those that wait are moved long before their time is over", slowest < 30.0,
                 f"slowest first token {slowest:.1f} s")  # fmt: skip


async def check_killed(report: Report, gateway: Headway, port: int, urls: Sequence[str], model: str) -> None:
    """kill -9 to all of its processes, while 4 streams run there and others wait in its queue."""
    task = await _under_way(gateway, urls[0], model, 30, "killed")
    plain = [asyncio.create_task(ask(gateway.url, "/v1/completions", completion(model, 60 + n, 8, stream=False),
                                     headers={"x-request-id": f"plain-{n}"})) for n in range(8)]  # fmt: skip
    await asyncio.sleep(0.3)
    kill(processes(port), signal.SIGKILL)
    judge(report, "killed under 30 streams", gateway, await task, urls, "killed")
    whole = [a.status == 200 and a.json["usage"]["completion_tokens"] == 8 for a in await asyncio.gather(*plain)]
    report.check("killed: no plain request lost", all(whole),
                 f"{sum(whole)} of {len(whole)} answered, {moved_of(gateway, 'plain')} tried elsewhere")  # fmt: skip
    state = await gateway.endpoint("main", urls[0])
    report.check("killed: out of service", state["state"] in ("down", "ejected"), f"{state['state']}, {state['why']}")
    after = await burst(gateway.url, model, 6, 4, "after")
    report.check("killed: the other answers", all(a.is_done for a in after),
                 f"slowest first token {max(a.first for a in after):.2f} s")  # fmt: skip


async def check_full(report: Report, gateway: Headway, port: int, urls: Sequence[str], model: str) -> None:
    """Started with --max-num-queued-reqs 2: its 503 means that it is full, not that it is broken."""
    filler = [asyncio.create_task(ask(urls[0], "/v1/completions", completion(model, 70 + n, 150))) for n in range(6)]
    await asyncio.sleep(1.0)
    direct = await ask(urls[0], "/v1/completions", completion(model, 80, 2))
    answers = await burst(gateway.url, model, 10, 16, "full")
    state = await gateway.endpoint("main", urls[0])
    moved = moved_of(gateway, "full")
    report.check("queue full: answered elsewhere", all(a.is_done and a.tokens == 16 for a in answers) and bool(moved),
                 f"{len(answers)} answered, {moved} of them moved; directly {direct.status} {direct.body[21:75]!r}")
    report.check("queue full: not ejected", state["state"] == "healthy", f"{state['state']}, {state['why']}")
    await asyncio.gather(*filler)


async def check_engine_killed(report: Report, gateway: Headway, port: int, urls: Sequence[str], model: str) -> None:
    """kill -9 to its engine process only: open streams get an error event and then, as if whole, `[DONE]`."""
    direct = asyncio.create_task(ask(urls[0], "/v1/completions", completion(model, 90, 400)))
    task = await _under_way(gateway, urls[0], model, 16, "engine")
    kill([engine_core(port)], signal.SIGKILL)
    ends = [event[:60] for event in (await direct).events[-2:]]
    judge(report, "engine killed", gateway, await task, urls, "engine")
    report.check("engine killed: directly such a stream ends as if it were whole", (await direct).is_done, ends)


# --- what clients saw ------------------------------------------------------------------------------------------------


def judge(report: Report, name: str, gateway: Headway, answers: Sequence[Answer], urls: Sequence[str], prefix: str, *,
          may_break: bool = True) -> None:  # fmt: skip
    """Whoever had no content yet got a full answer; whoever had, a full one or an error event at the end."""
    whole = [a for a in answers if a.is_done and a.tokens == TOKENS and not a.has_error_event]
    broken = [a for a in answers if a.has_content and a not in whole]
    lost = [a for a in answers if a not in whole and a not in broken]
    moved = moved_of(gateway, prefix)
    report.check(f"{name}: no request lost whose answer had not started", not lost,
                 f"{len(whole)} of {len(answers)} whole, {moved} tried elsewhere, {len(broken)} broken after start, "
                 f"{len(lost)} lost {[(a.status, a.fault, a.body[:120]) for a in lost][:3] or ''}")  # fmt: skip
    told = [a for a in broken if a.has_error_event and not a.is_done and b"[DONE]" not in a.body]
    on_first = all(a.headers.get("x-headway-endpoint") == urls[0] for a in broken)
    if may_break:
        report.check(f"{name}: what had started got one error event, and no end as if whole",
                     len(told) == len(broken) and on_first,
                     f"{len(told)} of {len(broken)}: {broken[0].events[-1][:150] if broken else b''!r}")  # fmt: skip
    else:
        report.check(f"{name}: what had started was finished", not broken, f"{len(broken)} broken")


def moved_of(gateway: Headway, prefix: str) -> int:
    """How many of a burst were tried more than once, by the gateway's log."""
    time.sleep(0.3)  # its lines are written in batches
    return sum(line["tries"] > 1 for line in gateway.lines() if line["request_id"].startswith(f"{prefix}-"))


# --- waiting ---------------------------------------------------------------------------------------------------------


async def _under_way(gateway: Headway, url: str, model: str, count: int, prefix: str) -> asyncio.Task[list[Answer]]:
    """A burst of which two streams have started on this server, while others wait there."""
    started: collections.Counter[str] = collections.Counter()

    async def has_started() -> bool:
        return started[url] >= 2

    task = asyncio.create_task(burst(gateway.url, model, count, TOKENS, prefix, started))
    if await wait_for(has_started, 30.0) > 30.0:
        raise SystemExit(f"no stream has started on {url} in 30 s")
    return task


async def _is(gateway: Headway, url: str, state: str) -> bool:
    return bool((await gateway.endpoint("main", url))["state"] == state)


async def _until_back(gateway: Headway, url: str, model: str) -> float:
    async def back() -> bool:
        await ask(gateway.url, "/v1/completions", completion(model, 1, 2))
        return await _is(gateway, url, "healthy")

    return await wait_for(back, 60.0, every=0.3)
