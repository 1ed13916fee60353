"""A real vLLM server that schedules by priority, behind Headway: who is urgent passes those who wait inside the engine.

    python -m tests.real.priority [--rigs DIR] [--port PORT]

The server answers two at a time. Twelve long requests of a low class are sent, then three short ones of a high class;
all are let in at once, so their order is the engine's. Once with `priority: true` in the pool, once without.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.real.ask import ask
from tests.real.rigs import DEFAULT, Headway, Report, Script, end_on_sigterm, headway

MODEL = "small-llama"
AT_ONCE, LONG, SHORT = 2, 12, 3


def config(url: str, told: bool) -> dict[str, Any]:
    endpoint = {"url": url, "max_concurrency": 100}
    pool = {"engine": "vllm", "pick": "least_inflight", "endpoints": [endpoint], "priority": told}
    classes = {"urgent": {"default": True, "priority": 10}, "patient": {"priority": 0}}
    models = {name: {"to": "main", "as": MODEL, "class": name} for name in classes}
    return {"pools": {"main": pool}, "classes": classes, "models": models}


async def passed(gateway: Headway, more: Mapping[str, Any]) -> tuple[list[int], int]:
    """All statuses, and how many of the patient had ended when the last urgent one did."""
    ended: list[str] = []

    async def one(model: str, tokens: int) -> int:
        body = {"model": model, "prompt": "one two three", "max_tokens": tokens, "ignore_eos": True, **more}
        answer = await ask(gateway.url, "/v1/completions", body)
        ended.append(model)
        return answer.status

    patient = [asyncio.create_task(one("patient", 128)) for _ in range(LONG)]
    await asyncio.sleep(0.3)
    statuses = list(await asyncio.gather(*(one("urgent", 4) for _ in range(SHORT))))
    before = ended.count("patient")
    return statuses + list(await asyncio.gather(*patient)), before


async def everything(report: Report, url: str, where: Path) -> None:
    for told in (True, False):
        with headway(where / str(told), config(url, told)) as gateway:
            await asyncio.sleep(1.5)  # the server's figures have been seen
            statuses, before = await passed(gateway, {})
            report.check(f"`priority: {str(told).lower()}`: all answered", set(statuses) == {200}, statuses)
            wanted = before <= LONG // 2 if told else before > LONG // 2
            report.check("the urgent pass those who wait" if told else "they wait for who came before", wanted,
                         f"{before} of {LONG} long ones had ended when the last urgent one did")  # fmt: skip
            if told:
                statuses, before = await passed(gateway, {"priority": -5})
                report.check("what clients say of their own priority changes nothing", before <= LONG // 2, before)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.real.priority", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rigs", type=Path, default=DEFAULT, help="folder of the start scripts")
    parser.add_argument("--port", type=int, default=18281)
    options = parser.parse_args()
    end_on_sigterm()
    report = Report()
    script = Script(options.rigs, "vllm_cpu.sh", {"MODEL_SIZE": "small", "MAX_SEQS": str(AT_ONCE), "SERVED": MODEL})
    if reason := script.missing():
        print(f"skipped: {reason}")
        return 0
    with tempfile.TemporaryDirectory(prefix="real-") as folder:
        try:
            url = script.start(options.port, "--scheduling-policy", "priority")
            asyncio.run(everything(report, url, Path(folder)))
        finally:
            script.stop(options.port)
    return report.verdict()


if __name__ == "__main__":
    sys.exit(main())
