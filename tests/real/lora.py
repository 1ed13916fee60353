"""Two real vLLM servers and their LoRA adapters behind Headway: found, loaded once, routed to, evicted.

    python -m tests.real.lora [--rigs DIR | --urls URL URL] [--adapter DIR] [--model NAME]

`--adapter` is a folder with one adapter; it is loaded under several names. The servers run with
`VLLM_ALLOW_RUNTIME_LORA_UPDATING`.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.real.ask import Answer, ask
from tests.real.rigs import DEFAULT, Headway, Report, Script, end_on_sigterm, headway

MOST = 2  # adapters on a server
FOUND = "found"  # the adapter that is on the first server before the gateway starts
OURS = ("a", "b", "c", "d", "e")


def config(urls: Sequence[str], model: str, adapter: str) -> dict[str, Any]:
    lora = {"path": adapter, "most": MOST}
    models: dict[str, Any] = {model: {"to": "main"}, FOUND: {"to": "main", "lora": {}},
                              "nowhere": {"to": "main", "lora": {"path": "/no/such/adapter"}}}  # fmt: skip
    models |= {name: {"to": "main", "lora": lora} for name in OURS}
    return {"pools": {"main": {"engine": "vllm", "endpoints": list(urls)}}, "models": models}


def asking(model: str) -> dict[str, Any]:
    return {"model": model, "prompt": "one two three", "max_tokens": 4, "temperature": 0.0}


async def want(gateway: Headway, model: str) -> Answer:
    return await ask(gateway.url, "/v1/completions", asking(model))


async def listed(url: str) -> set[str]:
    return {one["id"] for one in (await ask(url, "/v1/models")).json["data"]}


async def where_is(urls: Sequence[str], name: str) -> list[str]:
    return [url for url in urls if name in await listed(url)]


async def check_found(report: Report, gateway: Headway, urls: Sequence[str]) -> None:
    """What was there before is found by the servers' own lists, and used where it is."""
    answers = [await want(gateway, FOUND) for _ in range(6)]
    went = Counter(answer.headers.get("x-headway-endpoint", answer.body[:100].decode()) for answer in answers)
    report.check("an adapter that a server has is found, and its requests go there", went == {urls[0]: 6}, dict(went))
    report.check("its answers name it", all(answer.json.get("model") == FOUND for answer in answers))


async def check_loaded(report: Report, gateway: Headway, urls: Sequence[str]) -> None:
    """Eight who want the same at once are one load; its requests go to where it is."""
    answers = await asyncio.gather(*(want(gateway, "a") for _ in range(8)))
    there = await where_is(urls, "a")
    statuses = Counter(answer.status for answer in answers)
    report.check("eight requests at once for one that nobody has: all answered", statuses == {200: 8}, dict(statuses))
    loads = [line for line in gateway.lines("adapter_loaded") if line["adapter"] == "a"]
    report.check("loaded once, on one server", len(loads) == 1 and len(there) == 1, f"{len(loads)} loads, at {there}")
    went = Counter([(await want(gateway, "a")).headers.get("x-headway-endpoint", "") for _ in range(6)])
    report.check("and later requests go there", set(went) == set(there), dict(went))
    metrics = (await ask(there[0], "/metrics")).body.decode()
    shown = [line for line in metrics.splitlines() if line.startswith("vllm:lora_requests_info")]
    report.check("the server's own figures show it", any('"a' in line or ',a' in line for line in shown), len(shown))


async def check_evicted(report: Report, gateway: Headway, urls: Sequence[str]) -> None:
    """More adapters than there is room for: the one used longest ago goes, on that server only."""
    before = {name: await where_is(urls, name) for name in OURS}
    for name in OURS[1:]:
        answer = await want(gateway, name)
        report.check(f"`{name}` is answered", answer.status == 200, answer.body[:200].decode() if answer.status != 200
                     else answer.headers.get("x-headway-endpoint"))  # fmt: skip
    counts = {url: len(set(OURS) & await listed(url)) for url in urls}
    report.check(f"no server has more than {MOST} of ours", max(counts.values()) <= MOST, counts)
    gone = [name for name in OURS if not await where_is(urls, name)]
    report.check("what was used longest ago has gone", gone == ["a"] and bool(before["a"]), gone)
    answer = await want(gateway, "a")
    report.check("and comes back when it is asked for", answer.status == 200 and len(await where_is(urls, "a")) == 1)


async def check_failure(report: Report, gateway: Headway, model: str) -> None:
    answer = await want(gateway, "nowhere")
    report.check("one that cannot be loaded is a clear 503", answer.status == 503
                 and answer.json["error"]["code"] == "adapter_not_loaded", answer.body[:160].decode())  # fmt: skip
    report.check("the base model is served all the while", (await want(gateway, model)).status == 200)
    unknown = await want(gateway, "not-configured")
    report.check("an adapter nobody configured is a 404", unknown.status == 404)


async def everything(report: Report, urls: Sequence[str], model: str, adapter: str, where: Path) -> None:
    done = await ask(urls[0], "/v1/load_lora_adapter", {"lora_name": FOUND, "lora_path": adapter})
    report.check("the first adapter was loaded by hand", done.status == 200, done.body[:120].decode())
    with headway(where, config(urls, model, adapter)) as gateway:
        await asyncio.sleep(2.0)  # the servers have told what they serve
        await check_found(report, gateway, urls)
        await check_loaded(report, gateway, urls)
        await check_evicted(report, gateway, urls)
        await check_failure(report, gateway, model)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.real.lora", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rigs", type=Path, default=DEFAULT, help="folder of the start scripts")
    parser.add_argument("--urls", nargs=2, metavar="URL", help="two servers that run already")
    parser.add_argument("--adapter", default=str(Path.home() / ".rigs/models/small-llama/lora/adapter-0"))
    parser.add_argument("--model", default="small-llama")
    parser.add_argument("--ports", nargs=2, type=int, default=[18271, 18272])
    options = parser.parse_args()
    end_on_sigterm()
    report = Report()
    with tempfile.TemporaryDirectory(prefix="real-") as folder:
        if options.urls:
            asyncio.run(everything(report, options.urls, options.model, options.adapter, Path(folder)))
            return report.verdict()
        script = Script(options.rigs, "vllm_cpu.sh", {"MODEL_SIZE": "small", "MAX_SEQS": "8", "SERVED": options.model})
        if reason := script.missing():
            print(f"skipped: {reason}")
            return 0
        try:
            urls = [script.start(port) for port in options.ports]
            asyncio.run(everything(report, urls, options.model, options.adapter, Path(folder)))
        finally:
            for port in options.ports:
                script.stop(port)
    return report.verdict()


if __name__ == "__main__":
    sys.exit(main())
