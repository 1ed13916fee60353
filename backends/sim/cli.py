"""The `sim` command: simulated model servers on loopback ports, several in one process.

It prints one line per server once that server listens, then serves until it is told to stop.
"""

import argparse
import asyncio
import contextlib
import importlib
import signal
import sys
from collections.abc import Callable, Coroutine
from dataclasses import replace

from backends.sim.engine import EngineOptions
from backends.sim.faults import BadFault, Fault, parse_fault
from backends.sim.profiles import UnknownProfile, names, profile
from backends.sim.server import ServerOptions, SimServer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options, for whichever parser it hangs under."""
    add = parser.add_argument
    about = "GPU, model and precision, or the JSON file of your own; repeat for a mixed fleet"
    add("--profile", action="append", metavar="NAME", help=about)
    add("--list", action="store_true", help="print the profile names and stop")
    add("--count", type=int, default=1, metavar="N", help="servers per profile (default 1)")
    add("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    add("--port", type=int, default=0, metavar="P", help="first port, the others follow (default 0: any free ones)")
    add("--model", default="", metavar="M", help="served model name (default: the profile's model)")
    add("--speed", type=float, default=1.0, metavar="X", help="2 is a GPU twice as fast, 0.5 half as fast")
    add("--slots", type=int, default=256, metavar="N", help="sequences running at once (default 256)")
    add("--chunk", type=int, default=8192, metavar="N", help="token budget of an iteration (default 8192)")
    add("--kv", type=int, default=0, metavar="N", help="tokens of KV cache (default: the profile's)")
    add("--block", type=int, default=16, metavar="N", help="tokens of a KV block (default 16)")
    add("--no-prefix-caching", action="store_true", help="switch the prefix cache off")
    add("--max-queued", type=int, default=0, metavar="N", help="answer 503 with N requests in flight (default: never)")
    add("--by-priority", action="store_true", help="schedule by the requests' `priority`, the lower number first")
    add("--noise", type=float, default=0.03, metavar="S", help="sigma of an iteration's noise (default 0.03)")
    add("--stalls", type=float, default=0.0, metavar="R", help="stalls per busy second (default 0)")
    add("--stall-seconds", type=float, default=0.1, metavar="S", help="mean length of a stall (default 0.1)")
    add("--mean-output", type=float, default=200.0, metavar="N", help="mean tokens of answers without ignore_eos")
    add("--keep-alive", type=float, default=5.0, metavar="S", help="close idle connections after S seconds (default 5)")
    add("--sse-comments", type=float, default=0.0, metavar="S", help="comment in streams silent for S seconds (never)")
    add("--api-key", default="", metavar="K", help="answer 401 on /v1 without this key (default: none needed)")
    add("--seed", type=int, default=0, metavar="N", help="of lengths, texts and noise (default 0)")
    add(
        "--fault",
        action="append",
        default=[],
        metavar="KIND[:VALUE][@AT][+FOR][#SERVER]",
        help="switch a fault on, AT seconds after the start, for FOR seconds, on one server (0 is the first) or all",
    )


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM. 0 if all went well, 2 if the arguments make no sense, 1 if a port is taken."""
    if args.list:
        print("\n".join(names()))
        return 0
    try:
        servers = [SimServer(options) for options in server_options(args)]
        faults = [parse_fault(text) for text in args.fault]
        for wanted in faults:
            if wanted.index is not None and wanted.index >= len(servers):
                raise BadFault(f"fault {wanted.kind}: there is no server {wanted.index}, only {len(servers)}")
    except (UnknownProfile, ValueError) as error:
        print(f"sim: {error}", file=sys.stderr)
        return 2
    return _run_loop(_serve(servers, args.host, args.port, faults))


def server_options(args: argparse.Namespace) -> list[ServerOptions]:
    """The servers the arguments ask for. Raises UnknownProfile, or ValueError for a number out of range."""
    if not args.profile:
        raise ValueError(f"--profile is needed; there are: {', '.join(names())}")
    for name in ("count", "speed", "slots", "chunk", "block", "mean_output", "stall_seconds"):
        if getattr(args, name) <= 0:
            raise ValueError(f"--{name.replace('_', '-')} must be greater than 0, got {getattr(args, name)}")
    for name in ("kv", "max_queued", "noise", "stalls", "port", "keep_alive", "sse_comments"):
        if getattr(args, name) < 0:
            raise ValueError(f"--{name.replace('_', '-')} must not be negative, got {getattr(args, name)}")
    engine = EngineOptions(
        max_batched_tokens=args.chunk,
        max_seqs=args.slots,
        kv_tokens=args.kv,
        block_size=args.block,
        prefix_caching=not args.no_prefix_caching,
        max_queued=args.max_queued,
        noise=args.noise,
        stall_rate=args.stalls,
        stall_seconds=args.stall_seconds,
        by_priority=args.by_priority,
    )
    made: list[ServerOptions] = []
    for name in args.profile:
        found = profile(name)
        if not (found.kv_tokens or args.kv):
            raise ValueError(f"profile {name} does not say how many tokens its KV cache holds: --kv is needed")
        one = ServerOptions(
            found,
            model=args.model,
            speed=args.speed,
            mean_output=args.mean_output,
            keep_alive=args.keep_alive,
            sse_comments=args.sse_comments,
            api_key=args.api_key,
            engine=engine,
        )
        made += [replace(one, seed=args.seed + len(made) + i) for i in range(args.count)]
    return made


async def _serve(servers: list[SimServer], host: str, port: int, faults: list[Fault]) -> int:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    for index, server in enumerate(servers):
        server.control.siblings = servers
        try:
            await server.start(host, port + index if port else 0)
        except OSError as error:
            print(f"sim: cannot listen on {host}:{port + index}: {error.strerror}", file=sys.stderr)
            return 1
        url = f"http://{host}:{server.port}"
        print(f"sim {server.options.profile.name} {url} model={server.model}", flush=True)
    for wanted in faults:
        for index, server in enumerate(servers):
            if wanted.index in (None, index):
                loop.call_later(wanted.at, server.control.begin, wanted)
    await stopping.wait()
    for server in servers:
        await server.stop()
    return 0


def _run_loop(work: Coroutine[None, None, int]) -> int:
    """Run on uvloop where it is installed: half the time per stream event."""
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with contextlib.suppress(ImportError):
        factory = importlib.import_module("uvloop").new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work)
