"""Who is compared: how each proxy is configured and started, in a directory of its own, in front of the same upstreams.

Every proxy gets one worker, keep-alive on both sides, no request buffering on disk and no access log, except Headway,
which runs with everything a production would have on: keys, `least_tokens`, a scrape a second of every endpoint, health
probes, retries, a log line a request in a file, and the last 10,000 decision records in memory. With BENCH_RECORDS=1 in
the environment it writes the records to a file too, each with what was known of all 64 candidates (off by default, here
as in the product).
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.client import KEY
from tests.bench.machine import tree
from tests.support.ports import free_port, free_ports

RECORDS = "BENCH_RECORDS"
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Running:
    """A started program: its name, the port clients use (0: several), and its process."""

    name: str
    port: int
    process: subprocess.Popen[str]

    def pids(self) -> list[int]:
        return tree(self.process.pid)


def start(name: str, command: Sequence[str], port: int, where: Path) -> Running:
    where.mkdir(parents=True, exist_ok=True)
    with (where / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    return Running(name, port, process)


def wait_until_listening(running: Running, where: Path, patience: float = 20.0) -> None:
    until = time.monotonic() + patience
    while time.monotonic() < until and running.process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", running.port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    stop(running)
    raise SystemExit(f"{running.name} does not listen on {running.port}:\n{(where / 'log').read_text()[-2000:]}")


def stop(running: Running) -> None:
    running.process.terminate()
    try:
        running.process.wait(10)
    except subprocess.TimeoutExpired:
        running.process.kill()
        running.process.wait()


@contextmanager
def upstreams(count: int) -> Iterator[tuple[Running, list[int]]]:
    """The bench's model servers: the process and its `count` ports."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.upstream", str(count)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    running = Running("upstream", 0, process)
    try:
        assert process.stdout is not None
        yield running, [int(port) for port in process.stdout.readline().split()]
    finally:
        stop(running)


@contextmanager
def subject(name: str, ports: Sequence[int], where: Path) -> Iterator[Running]:
    """A proxy, configured for these upstreams, listening."""
    port, where = free_port(), where / name
    where.mkdir(parents=True, exist_ok=True)
    running = start(name, COMMANDS[name](port, ports, where), port, where)
    try:
        wait_until_listening(running, where)
        yield running
    finally:
        stop(running)


def headway(port: int, ports: Sequence[int], where: Path) -> list[str]:
    config = {
        "version": 1,
        "listen": f"127.0.0.1:{port}",
        "admin": f"127.0.0.1:{next(free for free in free_ports(2) if free != port)}",
        "drain": {"delay": "0s", "timeout": "2s"},
        "pools": {
            "main": {
                "engine": "vllm",
                "endpoints": [f"http://127.0.0.1:{p}" for p in ports],
                "pick": "least_tokens",
                "scrape": {"every": "1s", "timeout": "500ms"},
                "health": {"path": "/health", "every": "2s"},
            }
        },
        "models": {"bench": {"to": "main"}},
        "keys": {KEY: {"tenant": "bench", "models": ["bench"]}},
        "decisions": {"keep": 10000, "file": str(where / "decisions.jsonl") if os.environ.get(RECORDS) else None},
    }
    file = where / "headway.yaml"
    file.write_text(json.dumps(config, indent=1))   # JSON is YAML
    return [sys.executable, "-m", "gateway", "serve", "-c", str(file)]


def aiohttp(port: int, ports: Sequence[int], where: Path) -> list[str]:
    return [sys.executable, "-m", "tests.bench.aiohttp_proxy", str(port), *map(str, ports)]


def nginx(port: int, ports: Sequence[int], where: Path) -> list[str]:
    servers = " ".join(f"server 127.0.0.1:{p};" for p in ports)
    temporary = " ".join(f"{kind}_temp_path {where}/{kind};" for kind in ("client_body", "proxy"))
    file = where / "nginx.conf"
    file.write_text(
        f"""daemon off; worker_processes 1; pid {where}/pid; error_log {where}/log warn; worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
  access_log off; {temporary} keepalive_requests 10000000;
  upstream bench {{ {servers} keepalive 1024; keepalive_requests 10000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096; client_max_body_size 64m; client_body_buffer_size 1m;
    location / {{
      proxy_pass http://bench; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""
    )
    return ["nginx", "-e", str(where / "log"), "-c", str(file)]


def envoy(port: int, ports: Sequence[int], where: Path) -> list[str]:
    def address(number: int) -> dict[str, object]:
        return {"address": {"socket_address": {"address": "127.0.0.1", "port_value": number}}}

    many, filters = 100_000, "envoy.filters"
    types = "type.googleapis.com/envoy.extensions.filters"
    manager = {
        "@type": f"{types}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "http_filters": [
            {
                "name": f"{filters}.http.router",
                "typed_config": {"@type": f"{types}.http.router.v3.Router"},
            }
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "bench",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "bench", "timeout": "0s"}}],
                }
            ]
        },
    }
    cluster = {
        "name": "bench",
        "type": "STATIC",
        "lb_policy": "ROUND_ROBIN",
        "circuit_breakers": {
            "thresholds": [{"max_connections": many, "max_pending_requests": many, "max_requests": many}]
        },
        "load_assignment": {
            "cluster_name": "bench",
            "endpoints": [{"lb_endpoints": [{"endpoint": address(p)} for p in ports]}],
        },
    }
    chain = [{"name": f"{filters}.network.http_connection_manager", "typed_config": manager}]
    listener = {**address(port), "filter_chains": [{"filters": chain}]}
    file = where / "envoy.json"
    file.write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}}))
    command = os.environ.get("ENVOY") or "envoy"
    return [command, "-c", str(file), "--concurrency", "1", "--use-dynamic-base-id", "-l", "error"]


COMMANDS = {"headway": headway, "aiohttp": aiohttp, "nginx": nginx, "envoy": envoy}


def installed() -> list[str]:
    """The subjects this machine can run: Headway and aiohttp always, nginx from PATH, Envoy from PATH or $ENVOY."""
    names = ["headway", "aiohttp"]
    names += ["nginx"] if shutil.which("nginx") else []
    names += ["envoy"] if shutil.which(os.environ.get("ENVOY") or "envoy") else []
    return names
