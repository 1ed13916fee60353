"""The machine in words, and what a tree of processes has cost it so far: CPU seconds and resident memory.

CPU time is read from the kernel's own clock of each process (nanoseconds); where a system does not give it to others,
from /proc/PID/stat (ticks of 10 ms). Linux only, as are the proxies compared.
"""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

TICK = 1 / os.sysconf("SC_CLK_TCK")


def machine() -> str:
    """For example `2 cores, AMD EPYC, CPython 3.11.7, Linux 6.18`."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    cores = len(os.sched_getaffinity(0))
    release = ".".join(platform.release().split("-")[0].split(".")[:2])
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{cores} cores, {model}, {python}, {platform.system()} {release}"


def tree(root: int) -> list[int]:
    """The process and everything below it, by process id."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(entry))
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, [])
    return found


def cpu_seconds(pids: list[int]) -> float:
    """CPU time used by these processes since they began, all their threads, user and system."""
    return sum(_cpu(pid) for pid in pids)


def _cpu(pid: int) -> float:
    try:
        return time.clock_gettime(~pid << 3 | 2)   # the kernel's name for "CPU clock of process pid"
    except OSError:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * TICK


def resident_mib(pids: list[int]) -> float:
    """Resident memory of these processes in MiB (pages they share are counted for each)."""
    pages = 0
    for pid in pids:
        pages += int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
