"""Two real vLLM servers behind Headway: what clients and operators see while all is well.

    python -m tests.real.vllm [--rigs DIR | --urls URL URL] [--model NAME] [--ports P P] [--only HALF]

With --rigs the servers are started, and then killed, stopped and frozen under load (tests.real.failures).
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.real import sdks
from tests.real.ask import Answer, ask, wait_for
from tests.real.rigs import DEFAULT, Headway, Report, Script, end_on_sigterm, headway, headway_to

WORDS = ("the", "queue", "is", "a", "line", "of", "tokens", "that", "wait", "for", "the", "cache", "to", "be", "free")
# Answered by the gateway before any model server is asked: its own words, the same class and status.
OWN_WORDS = ("unknown model", "bad JSON", "messages, unknown model")


def prompt(number: int, words: int = 120) -> str:
    """A prompt that shares no prefix with another's."""
    return f"{number} " + " ".join(WORDS[(number + i) % len(WORDS)] for i in range(words))


def completion(model: str, number: int, tokens: int, *, stream: bool = True) -> dict[str, Any]:
    body = {"model": model, "prompt": prompt(number), "max_tokens": tokens, "ignore_eos": True, "temperature": 0}
    return body | ({"stream": True, "stream_options": {"include_usage": True}} if stream else {})


async def burst(url: str, model: str, count: int, tokens: int, prefix: str,
                started: collections.Counter[str] | None = None) -> list[Answer]:  # fmt: skip
    """So many streams at once; request ids are `prefix` and a number. `started` counts by endpoint, as they start."""

    def look(number: int) -> Callable[[Answer], bool]:
        def until(answer: Answer) -> bool:
            if started is not None and answer.has_content and number not in seen:
                seen.add(number)
                started[answer.headers.get("x-headway-endpoint", "")] += 1
            return False

        return until

    seen: set[int] = set()
    return await asyncio.gather(*(
        ask(url, "/v1/completions", completion(model, n, tokens), headers={"x-request-id": f"{prefix}-{n}"},
            until=look(n)) for n in range(count)
    ))  # fmt: skip


async def running(url: str) -> float:
    """Requests that a vLLM server says it runs or queues, or that its front end holds if it tells: the larger."""
    page = (await ask(url, "/metrics")).body.decode()
    engine = re.findall(r"^vllm:num_requests_(?:running|waiting)\{[^}]*\} (\S+)$", page, re.M)
    front = await ask(url, "/load")
    return max(sum(map(float, engine)), front.json["server_load"] if front.status == 200 else 0)


def pool(urls: Sequence[str], **more: Any) -> dict[str, Any]:
    return {"engine": "vllm", "endpoints": list(urls), "scrape": {"every": "500ms", "timeout": "400ms"}, **more}


# --- checks ----------------------------------------------------------------------------------------------------------


async def check_clients(report: Report, gateway: Headway, url: str, model: str) -> None:
    """The official clients see through Headway what they see directly."""
    direct = await asyncio.to_thread(sdks.outcomes, url, model)
    through = await asyncio.to_thread(sdks.outcomes, gateway.url, model)
    for name, expected in direct.items():
        found = through[name]
        for _ in range(2):  # a busy engine may join two tokens in one event
            if found != expected and name not in OWN_WORDS:
                expected = (await asyncio.to_thread(sdks.outcomes, url, model, name))[name]
                found = (await asyncio.to_thread(sdks.outcomes, gateway.url, model, name))[name]
        if name in OWN_WORDS:
            same = found.split()[:2] == expected.split()[:2]
            report.check(f"client, {name}: the same error class and status", same, f"{found[:110]}")
        else:
            differs = f"\n   direct  {expected[:600]}\n   through {found[:600]}"
            report.check(f"client, {name}", found == expected, expected[:60] if found == expected else differs)
    listed = await asyncio.to_thread(sdks.models, gateway.url)
    one = await asyncio.to_thread(sdks.model, gateway.url, model)
    report.check("client, models: the gateway's own", listed == [model] and one == model, listed)


async def check_bytes(report: Report, gateway: Headway, urls: Sequence[str], model: str) -> None:
    """A stream through Headway is the engine's, byte for byte."""
    messages = {"model": model, "messages": sdks.SAY, "max_tokens": 24, "temperature": 0, "stream": True}
    chat = messages | {"ignore_eos": True}
    cases = {"/v1/chat/completions": chat, "/v1/completions": completion(model, 7, 24), "/v1/messages": messages}
    for path, body in cases.items():
        named = {"x-request-id": "same-bytes"}
        for _ in range(3):  # a busy engine may join two tokens in one event
            direct = await ask(urls[0], path, body, headers=named)
            through = await ask(gateway.url, path, body, headers=named)
            same = _masked(direct.body) == _masked(through.body)
            if same:
                break
        kept = {name: direct.headers.get(name) for name in ("content-type", "server", "vary")}
        same_head = all(through.headers.get(name) == value for name, value in kept.items())
        report.check(f"stream {path} byte for byte", same and same_head and through.whole,
                     f"{len(through.events)} events, {len(through.body)} bytes")  # fmt: skip
    plain = await ask(gateway.url, "/v1/completions", completion(model, 1, 3, stream=False),
                      headers={"x-request-id": "my-id-1"})  # fmt: skip
    found = plain.json["id"]
    report.check("x-request-id becomes the completion's id", found.startswith("cmpl-my-id-1"), found)


def _masked(body: bytes) -> bytes:
    return re.sub(rb'("created":)\d+|((?:msg|chatcmpl|resp)_)[0-9a-f]{8,}', rb"\1\2", body)


async def check_spread(report: Report, gateway: Headway, urls: Sequence[str], model: str) -> None:
    """A burst is spread by least_tokens, everybody is answered, and the servers' own figures are seen meanwhile."""
    seen: dict[str, list[dict[str, Any]]] = {url: [] for url in urls}

    async def look() -> None:
        while True:
            for one in await gateway.endpoints("main"):
                seen[one["url"]].append(one)
            await asyncio.sleep(0.1)

    looking = asyncio.create_task(look())
    answers = await burst(gateway.url, model, 24, 48, "spread")
    looking.cancel()
    good = [answer for answer in answers if answer.is_done and answer.tokens == 48]
    shares = collections.Counter(answer.headers.get("x-headway-endpoint") for answer in answers)
    first, took = sorted(answer.first for answer in answers), max(answer.took for answer in answers)
    report.check("24 streams at once: every one answered in full", len(good) == 24,
                 f"first token {first[0]:.2f} to {first[-1]:.2f} s, all in {took:.1f} s")  # fmt: skip
    even = len(shares) == 2 and max(shares.values()) <= 14
    report.check("... spread over both by least_tokens", even, dict(shares))
    for url, looks in seen.items():
        said = [look["said"] for look in looks if look["said"]["age"] is not None]
        names = ("waiting", "running", "kv_used", "age")
        most = {name: max((float(one[name] or 0) for one in said), default=0.0) for name in names}
        ok = bool(said) and most["running"] > 0 and most["waiting"] > 0 and 0 < most["kv_used"] <= 1 and most["age"] < 3
        report.check(f"... scraped meanwhile: {url}", ok, {name: round(value, 3) for name, value in most.items()})


async def check_disconnect(report: Report, gateway: Headway, urls: Sequence[str], model: str) -> None:
    """A client that goes away frees the engine within a second, whatever its request was doing."""
    async def busy() -> float:
        return sum([await running(url) for url in urls])

    async def idle() -> bool:
        return await busy() == 0

    async def gone_after_token() -> None:
        await ask(gateway.url, "/v1/completions", completion(model, 3, 1800), until=lambda answer: answer.has_content)

    async def gone_before(stream: bool, count: int) -> None:
        tasks = [asyncio.create_task(ask(gateway.url, "/v1/completions", completion(model, n, 1500, stream=stream)))
                 for n in range(count)]  # fmt: skip
        await wait_for(lambda: _at_least(busy, count), 20.0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    cases = {"a stream under way": gone_after_token(), "a plain request": gone_before(False, 1),
             "12 streams, some queued in the engines": gone_before(True, 12)}  # fmt: skip
    for name, leave in cases.items():
        await wait_for(idle, 30.0)
        await leave
        freed = await wait_for(idle, 20.0, every=0.02)
        report.check(f"client gone ({name}): the engines are free", freed <= 1.0, f"after {freed:.2f} s")
    await asyncio.sleep(0.3)
    counted = {one["inflight"] for one in await gateway.endpoints("main")}
    report.check("... and nothing is left counted as in flight", counted == {0}, counted)


async def _at_least(measure: Any, count: int) -> bool:
    return bool(await measure() >= count)


async def check_auto(report: Report, gateway: Headway, model: str) -> None:
    """`headway serve --to URL URL`: engines found out, load seen, any model passed on."""
    async def known() -> bool:
        found = await gateway.endpoints("default")
        return all(one["said"]["running"] is not None for one in found)

    took = await wait_for(known, 15.0)
    engines = [line.get("engine") for line in gateway.lines("engine_detected")]
    report.check("serve --to: `auto` finds vLLM and reads its load", took < 15 and engines == ["vllm", "vllm"],
                 f"{engines} after {took:.1f} s")  # fmt: skip
    answer = await ask(gateway.url, "/v1/completions", completion(model, 1, 4))
    report.check("serve --to: a stream", answer.is_done and answer.tokens == 4)
    wrong = await ask(gateway.url, "/v1/completions", completion("nope", 1, 4))
    report.check("serve --to: an unknown model is the engine's 404", wrong.status == 404, wrong.body[:100].decode())
    listed = [one["id"] for one in (await ask(gateway.url, "/v1/models")).json["data"]]
    report.check("serve --to: GET /v1/models lists what the engines serve", model in listed, listed)


async def all_well(report: Report, urls: Sequence[str], model: str, where: Path) -> None:
    """Everything that does no harm to the servers."""
    with headway(where / "well", {"pools": {"main": pool(urls)}, "models": {model: {"to": "main"}}}) as gateway:
        await check_clients(report, gateway, urls[0], model)
        await check_bytes(report, gateway, urls, model)
        await check_spread(report, gateway, urls, model)
        await check_disconnect(report, gateway, urls, model)
    with headway_to(where / "to", urls) as gateway:
        await check_auto(report, gateway, model)


# --- the command -----------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.real.vllm", description=__doc__.splitlines()[0])
    parser.add_argument("--rigs", type=Path, default=DEFAULT, help="folder of the start scripts")
    parser.add_argument("--urls", nargs=2, metavar="URL", help="two servers that run already; no failures are made")
    parser.add_argument("--model", default="small-llama")
    parser.add_argument("--ports", nargs=2, type=int, default=[18211, 18212])
    parser.add_argument("--only", choices=["well", "failures"], help="one half")
    options = parser.parse_args()
    end_on_sigterm()
    report = Report()
    with tempfile.TemporaryDirectory(prefix="real-") as folder:
        where = Path(folder)
        if options.urls:
            asyncio.run(all_well(report, options.urls, options.model, where))
            return report.verdict()
        script = Script(options.rigs, "vllm_cpu.sh", {"MODEL_SIZE": "small", "MAX_SEQS": "4", "SERVED": options.model})
        if reason := script.missing():
            print(f"skipped: {reason}")
            return 0
        from tests.real.failures import failures

        try:
            urls = [script.start(port) for port in options.ports]
            if options.only != "failures":
                asyncio.run(all_well(report, urls, options.model, where))
            if options.only != "well":
                failures(report, script, options.ports, options.model, where)
        finally:
            for port in options.ports:
                script.stop(port)
    return report.verdict()


if __name__ == "__main__":
    sys.exit(main())
