"""Real Triton servers behind Headway: inference over REST, generation, full queues, and a killed server.

    python -m tests.real.triton [--rigs DIR | --urls URL URL] [--ports P P] [--client-python PYTHON]

The models are a slow echo in batches of 4 (`slow_echo`, queue limit 64), a decoupled text stream (`tiny_gen`) and one
that is not loaded (`spare`). The official client runs under PYTHON, which has `tritonclient`; without it that part is
skipped. With --rigs one of the servers is killed at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.real.ask import Answer, ask, wait_for
from tests.real.rigs import DEFAULT, Headway, Report, Script, end_on_sigterm, headway, kill, processes

INFER = "/v2/models/slow_echo/infer"
GENERATE, STREAM = "/v2/models/tiny_gen/generate", "/v2/models/tiny_gen/generate_stream"
INPUT = {"name": "INPUT0", "shape": [1, 3], "datatype": "FP32", "data": [1.0, 2.0, 3.0]}
TENSOR = {"inputs": [INPUT], "id": "same"}
WORDS = {"text_input": "hi", "max_tokens": 6}
MODELS = ("slow_echo", "tiny_gen", "spare")
# Not among the routed paths: a server's own pages, and versions of a model.
NOT_ROUTED = ("ready", "metadata", "infer, a version of the model")


def behind(where: Path, urls: Sequence[str], engine: str = "triton", pick: str = "least_tokens") -> Any:
    """A gateway in front of these servers."""
    pool = {"engine": engine, "endpoints": list(urls), "pick": pick, "scrape": {"every": "500ms", "timeout": "400ms"}}
    return headway(where, {"pools": {"main": pool}, "models": {name: {"to": "main"} for name in MODELS}})


async def infer(url: str, count: int) -> list[Answer]:
    return await asyncio.gather(*(ask(url, INFER, TENSOR) for _ in range(count)))


async def check_bytes(report: Report, gateway: Headway, url: str) -> None:
    """What comes through is what Triton says: tensors, text, streams, and every error of its own."""
    cases: dict[str, tuple[str, Any]] = {
        "infer": (INFER, TENSOR),
        "generate_stream": (STREAM, WORDS),
        "generate of a model that streams (an error in a 200)": (GENERATE, WORDS),
        "malformed JSON (Triton's 500)": (GENERATE, b"{bad"),
        "a wrong type (Triton's 500)": (STREAM, WORDS | {"max_tokens": "x"}),
        "a missing input (400)": (STREAM, {"nope": 1}),
        "inputs in lists, and a name other servers use": (STREAM, {"text_input": ["hi"], "max_tokens": [3], "user": 1}),
        "a batch too big (400)": (INFER, {"inputs": [{**INPUT, "shape": [5, 1], "data": [1.0] * 5}]}),
        "a model that is not loaded (404)": ("/v2/models/spare/infer", TENSOR),
    }
    for name, (path, body) in cases.items():
        direct, through = await ask(url, path, body), await ask(gateway.url, path, body)
        same = direct.body == through.body and direct.status == through.status
        own = body == b"{bad" and through.status == 400  # refused before Triton is asked
        report.check(f"{name}: as directly", (same or own) and through.whole,
                     f"{through.status} {through.body[:80]!r}" + ("" if same else f"; directly {direct.status}"))
    unknown = await ask(gateway.url, "/v2/models/nope/infer", TENSOR)
    shape = unknown.status == 404 and isinstance(unknown.json["error"], str)
    report.check("an unknown model: 404 in Triton's shape", shape, unknown.body[:90])
    for path in ("/v2/repository/models/spare/load", "/v2/health/ready", "/v2/models/slow_echo/config"):
        hidden = await ask(gateway.url, path, {})
        report.check(f"{path} is not reachable", hidden.status == 404)


async def check_blame(report: Report, gateway: Headway) -> None:
    """Clients' mistakes that Triton answers as if they were its own do not take it out of service."""
    for _ in range(8):
        await asyncio.gather(ask(gateway.url, GENERATE, WORDS), ask(gateway.url, STREAM, WORDS | {"max_tokens": "x"}))
    states = {one["state"] for one in await gateway.endpoints("main")}
    report.check("16 such mistakes take nobody out of service", states == {"healthy"}, states)


async def check_spread(report: Report, gateway: Headway) -> None:
    """A burst is shared, and the queues are seen meanwhile."""
    most: collections.Counter[str] = collections.Counter()
    task = asyncio.create_task(infer(gateway.url, 80))
    while not task.done():
        for one in await gateway.endpoints("main"):
            most[one["url"]] = max(most[one["url"]], int(one["said"]["waiting"] or 0))
        await asyncio.sleep(0.1)
    shares = collections.Counter(answer.headers.get("x-headway-endpoint") for answer in await task)
    good = sum(answer.status == 200 for answer in await task)
    even = good == 80 and max(shares.values()) <= 44
    report.check("80 inferences at once: all answered, shared evenly", even, dict(shares))
    report.check("... and their queues were read", min(most.values()) > 0, dict(most))


async def check_full(report: Report, gateway: Headway, url: str) -> None:
    """Its queue limit is 64: above that it answers 503, which means full, not broken."""
    filler = [asyncio.create_task(ask(url, INFER, TENSOR)) for _ in range(90)]
    await asyncio.sleep(0.15)
    answers = await infer(gateway.url, 12)
    refused = sum(answer.status == 503 for answer in await asyncio.gather(*filler))
    await asyncio.sleep(0.3)
    moved = sum(line["tries"] > 1 for line in gateway.lines()[-12:])
    state = await gateway.endpoint("main", url)
    report.check("queue full: answered by the other", all(a.status == 200 for a in answers),
                 f"12 sent, {moved} of them moved; directly {refused} of 90 got 503")  # fmt: skip
    report.check("queue full: not ejected", state["state"] == "healthy", f"{state['state']}, {state['why']}")


async def check_alone(report: Report, gateway: Headway) -> None:
    """With nobody else to try, the engine's own 503 is the answer."""
    answers = await infer(gateway.url, 110)
    count = collections.Counter(answer.status for answer in answers)
    words = next((answer.body for answer in answers if answer.status == 503), b"")
    own = set(count) == {200, 503} and b"maximum queue size" in words
    report.check("queue full, nobody else: its own 503 passes", own, f"{dict(count)} {words!r}")
    state = (await gateway.endpoints("main"))[0]["state"]
    later = await ask(gateway.url, INFER, TENSOR)
    report.check("... and it goes on serving", state == "healthy" and later.status == 200, state)


async def check_gone(report: Report, gateway: Headway) -> None:
    """A client that goes away in the middle of a stream of 40 s frees the instance it held."""
    long = WORDS | {"max_tokens": 2000}
    await asyncio.gather(*(ask(gateway.url, STREAM, long, until=lambda a: a.has_content) for _ in range(4)))
    answers = await asyncio.gather(*(ask(gateway.url, STREAM, WORDS, patience=10.0) for _ in range(4)))
    slowest = max(answer.first for answer in answers)
    report.check("4 clients gone mid-stream: the next ones start", slowest < 1.0, f"first word after {slowest:.2f} s")


async def check_killed(report: Report, gateway: Headway, port: int, url: str) -> None:
    """kill -9 under load: no inference is lost."""
    task = asyncio.create_task(infer(gateway.url, 60))
    await asyncio.sleep(0.4)
    kill(processes(port), signal.SIGKILL)
    answers = await task
    await asyncio.sleep(0.3)
    moved = sum(line["tries"] > 1 for line in gateway.lines()[-60:])
    good = sum(answer.status == 200 for answer in answers)
    report.check("killed under 60 inferences: none lost", good == 60, f"{good} answered, {moved} tried elsewhere")
    await wait_for(lambda: _is_down(gateway, url), 5.0)
    state = await gateway.endpoint("main", url)
    report.check("killed: out of service", state["state"] == "down", f"{state['state']}, {state['why']}")


async def _is_down(gateway: Headway, url: str) -> bool:
    return bool((await gateway.endpoint("main", url))["state"] == "down")


async def check_auto(report: Report, gateway: Headway) -> None:
    async def known() -> bool:
        return all(one["said"]["waiting"] is not None for one in await gateway.endpoints("main"))

    took = await wait_for(known, 15.0)
    found = [line.get("engine") for line in gateway.lines("engine_detected")]
    report.check("`auto` finds Triton and reads its metrics' port", set(found) == {"triton"} and took < 15,
                 f"{found} after {took:.1f} s")  # fmt: skip
    report.check("... and serves", (await ask(gateway.url, STREAM, WORDS)).status == 200)


def check_client(report: Report, gateway: Headway, url: str, python: str) -> None:
    """The official client sees the same through Headway, where the path is routed."""
    script = str(Path(__file__).with_name("ask_triton.py"))
    seen = []
    for base in (url, gateway.url):
        command = [python, script, base.removeprefix("http://")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if done.returncode:
            if "No module named" in done.stderr:
                print(f"skipped: {python} has no tritonclient; name one that has with --client-python")
                return
            report.check(f"tritonclient at {base}", False, done.stderr[-500:])
            return
        seen.append(json.loads(done.stdout))
    for name, direct in seen[0].items():
        through = seen[1][name]
        if name in NOT_ROUTED:
            refused = through is False or " 404 " in str(through)
            report.check(f"tritonclient, {name}: not routed, refused clearly", refused, through)
        elif "unknown" in name:
            same = str(through).split()[:2] == str(direct).split()[:2]
            report.check(f"tritonclient, {name}: the same error class and status", same, through)
        else:
            report.check(f"tritonclient, {name}", through == direct, str(through)[:90])


def run(report: Report, urls: Sequence[str], ports: Sequence[int], where: Path, python: str, may_kill: bool) -> None:
    with behind(where / "one", urls[:1]) as gateway:
        check_client(report, gateway, urls[0], python)
        asyncio.run(check_bytes(report, gateway, urls[0]))
        asyncio.run(check_alone(report, gateway))
    with behind(where / "two", urls) as gateway:
        asyncio.run(check_blame(report, gateway))
        asyncio.run(check_spread(report, gateway))
        asyncio.run(check_gone(report, gateway))
    with behind(where / "blind", urls, pick="round_robin") as gateway:  # least_tokens would see the queue and avoid it
        asyncio.run(check_full(report, gateway, urls[0]))
    with behind(where / "auto", urls, "auto") as gateway:
        asyncio.run(check_auto(report, gateway))
        if may_kill:
            asyncio.run(check_killed(report, gateway, ports[0], urls[0]))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.real.triton", description=__doc__.splitlines()[0])
    parser.add_argument("--rigs", type=Path, default=DEFAULT, help="folder of the start scripts")
    parser.add_argument("--urls", nargs=2, metavar="URL", help="two servers that run already; none is killed")
    parser.add_argument("--ports", nargs=2, type=int, default=[18330, 18340])
    parser.add_argument("--client-python", default=sys.executable, metavar="PYTHON")
    options = parser.parse_args()
    end_on_sigterm()
    report = Report()
    with tempfile.TemporaryDirectory(prefix="real-") as folder:
        if options.urls:
            run(report, options.urls, options.ports, Path(folder), options.client_python, False)
            return report.verdict()
        script = Script(options.rigs, "triton.sh", {})
        if reason := script.missing():
            print(f"skipped: {reason}")
            return 0
        try:
            urls = [script.start(port) for port in options.ports]
            run(report, urls, options.ports, Path(folder), options.client_python, True)
        finally:
            for port in options.ports:
                script.stop(port)
    return report.verdict()


if __name__ == "__main__":
    sys.exit(main())
