"""The verb `verb`: what would change if a configuration were applied, before it is.

The idea: three answers, each from the code that runs in production. What is different, in sentences (`diff`). What
the new rules make of recorded requests: who goes elsewhere, who is newly refused, which rules nobody hits
(`replay`, `limits`). And what clients would see: the same arrivals through simulated engines as the records
show them, before and after (`lab`, `loadtest.lab`). Against the file that the records were made under, every
recorded decision must come out again; those that do not are listed by their request.

Left to others: printing (`report`), the lab, which the command line hands in.
"""

from __future__ import annotations

import os
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gateway.admin_client import AdminError
from gateway.config.loader import load
from gateway.config.problems import ConfigError
from gateway.config.types import Config
from gateway.plan.choice import eligible
from gateway.plan.diff import differences as changes
from gateway.plan.lab import Forecaster, Foreseen
from gateway.plan.limits import Denied, denied
from gateway.plan.records import History, Past, PlanError, read
from gateway.plan.replay import Judged, Replay, can_be_judged, differences
from gateway.plan.report import as_json, as_text
from gateway.plan.values import Lab
from policies.picking import check as check_pick
from policies.routing import Count

SEEDS = 3
REQUESTS = 6000


@dataclass(slots=True)
class Replayed:
    """What a configuration makes of the recorded requests.

    `mismatches`: (request id, what is otherwise), where the same file was asked. `checked`: choices of endpoints that
    were made again, and `determined`: those that left no other.
    """

    judged: list[Judged] = field(default_factory=list)
    denied: list[Denied] = field(default_factory=list)
    counts: Mapping[str, Mapping[str, Count]] = field(default_factory=dict)
    mismatches: list[tuple[str, str]] = field(default_factory=list)
    checked: int = 0
    determined: int = 0


@dataclass(slots=True)
class Plan:
    """All that is printed. `same`: the new configuration does what the recorded one did, so decisions must agree."""

    new: Config
    old: Config | None
    same: bool
    changes: list[str]
    history: History | None = None
    replayed: Replayed = field(default_factory=Replayed)
    unrouted: Counter[str] = field(default_factory=Counter)
    before: Foreseen | None = None
    after: Foreseen | None = None


def add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("file", metavar="NEW.yaml", help="the configuration that might be applied")
    add("--against", metavar="RECORDS", default="",
        help="recorded decisions (the file of `decisions:`), a trace, or the admin listener's URL")  # fmt: skip
    add("--old", metavar="OLD.yaml", default="", help="the configuration in use: what NEW is compared with")
    add("--model", metavar="NAME", default="", help="which model the requests of a trace ask for")
    add("--token", metavar="T", default=None, help="the admin token, where one is configured")
    add("--no-lab", action="store_true", help="no prediction of latencies, which takes a minute")
    add("--requests", type=int, default=REQUESTS, metavar="N", help="the last N go to the lab (default: %(default)s)")
    add("--seeds", type=int, default=SEEDS, metavar="N", help="runs of the lab (default: %(default)s)")
    add("--json", action="store_true", help="print everything as JSON")


def run(args: Namespace, lab: Lab | None) -> int:
    """Returns the exit code: 0 done, 1 a bad file, no records, or decisions that do not come out again, 2 bad usage."""
    if args.seeds < 1 or args.requests < 1:
        print("plan: --seeds and --requests want at least 1", file=sys.stderr)
        return 2
    try:
        new = load(args.file, os.environ, check_pick=check_pick).config
        old = load(args.old, os.environ, check_pick=check_pick).config if args.old else None
        history = read(args.against, args.token, args.model or _only_model(new)) if args.against else None
    except (ConfigError, PlanError, AdminError) as error:
        print(f"plan: {error}" if not isinstance(error, ConfigError) else str(error), file=sys.stderr)
        return 1
    plan = make(new, old, history, None if args.no_lab else lab, range(args.seeds), args.requests)
    print(as_json(plan) if args.json else as_text(plan))
    return 1 if plan.replayed.mismatches else 0


def make(new: Config, old: Config | None, history: History | None, lab: Lab | None, seeds: Sequence[int] = range(SEEDS),
         requests: int = REQUESTS) -> Plan:  # fmt: skip
    """The plan. Without an old configuration the new one is not taken for that of the records."""
    same = old is not None and old.digest == new.digest
    plan = Plan(new, old, same, [] if old is None else changes(old, new), history)
    if history is None:
        return plan
    plan.replayed = replay(new, old, history, same)
    plan.unrouted = Counter(past.code or past.ended for past in history.requests if not can_be_judged(past))
    if lab is not None:
        _foresee(plan, history, lab, seeds, requests)
    return plan


def replay(new: Config, old: Config | None, history: History, same: bool) -> Replayed:
    """Ask the new configuration about every recorded request. With `same` it must say what was recorded."""
    asked = Replay(new, old)
    found = Replayed([asked.judge(past) for past in history.requests if can_be_judged(past)])
    found.counts = asked.counts()
    found.denied = denied(new, found.judged, None if history.is_trace else old)
    if not same:
        return found
    for judged in found.judged:
        if not history.is_trace:
            found.mismatches += [(judged.past.id, told) for told in differences(judged)]
            _check_choice(found, judged, new)
    return found


def _check_choice(found: Replayed, judged: Judged, config: Config) -> None:
    past = judged.past
    pool = config.pools.get(past.pool)
    among = eligible(past, pool.pick.options if pool is not None else {})
    if among is None:
        return
    found.checked += 1
    found.determined += among == [past.chosen]
    if past.chosen not in among:
        told = f"{past.chosen} was chosen, {past.policy} chooses {' or '.join(among)} from the recorded table"
        found.mismatches.append((past.id, told))


def _foresee(plan: Plan, history: History, lab: Lab, seeds: Sequence[int], most: int) -> None:
    """Before and after in the lab; the newest requests, and those that limits would refuse left out."""
    requests = [past for past in history.requests if can_be_judged(past)][-most:]
    if not requests:
        return
    newest = set(requests)
    with tempfile.TemporaryDirectory(prefix="headway-plan-") as name:
        records = Path(name) / "records.jsonl"
        records.write_bytes(b"".join(history.lines))
        forecaster = Forecaster(lab, requests, plan.old, records, Path(name))
        if plan.old is not None and not plan.same:
            then = plan.old
            asked = Replay(then, then)
            before = [asked.judge(past) for past in requests]
            plan.before = forecaster.foresee(then, before, _refused(denied(then, before, then)), seeds)
        after = [one for one in plan.replayed.judged if one.past in newest]
        plan.after = forecaster.foresee(plan.new, after, _refused(plan.replayed.denied), seeds)


def _refused(found: Sequence[Denied]) -> set[Past]:
    return {one.past for one in found if not one.shadow}


def _only_model(config: Config) -> str:
    return next(iter(config.models)) if len(config.models) == 1 else ""

