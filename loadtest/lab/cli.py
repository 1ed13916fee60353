"""`headway lab`: scenarios, the standard suite, two policies beside each other, canaries; fit a profile to records.

Results go to standard output and to a folder, progress to standard error. What was simulated is kept in `--memory`, so
that a study that was interrupted goes on where it was; it is safe to delete.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from loadtest.lab import calibrate, canary_cli
from loadtest.lab.bars import verdicts
from loadtest.lab.cells import show, table
from loadtest.lab.plan import OURS, Plan
from loadtest.lab.reading import FOLDER, read_plan, standard
from loadtest.lab.report import bars_table, policies_table, write
from loadtest.lab.scenario import ScenarioError
from loadtest.lab.study import Crew, Result, complain, crew, default_jobs, study
from loadtest.lab.trial import Choice
from policies.picking import check

_ABOUT = {
    "run": "study scenario files: tables, pictures, bars",
    "suite": "study every standard scenario, unattended; goes on where it was interrupted",
    "compare": "two policies on one scenario: g95, g99, attainment, and their paired ratio",
    "calibrate": "fit a GPU profile to recorded decisions",
    "canary": "rollouts of good and of bad canaries: false alarms, false promotions, how soon a fault is found",
}
QUICK_POLICIES = ("least_inflight", "least_tokens", "lmetric", "predicted_ttft")
QUICK_SEEDS, QUICK_SHARE, QUICK_LEAST = 2, 0.25, 1500


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own verbs."""
    verbs = parser.add_subparsers(dest="lab_verb", metavar="VERB", required=True)
    made = {name: verbs.add_parser(name, help=about, description=about) for name, about in _ABOUT.items()}
    run_, suite, compare = made["run"], made["suite"], made["compare"]
    run_.add_argument("scenario", nargs="+", help=f"a file, or a standard one: {', '.join(standard())}")
    run_.add_argument("--policy", action="append", metavar="NAME[,OPTION=VALUE…]", help="only these; may be repeated")
    run_.add_argument("--out", default="build/lab/run", help="folder for the report (default: %(default)s)")
    short = f"{QUICK_SEEDS} seeds, a quarter of the requests, few policies"
    suite.add_argument("--quick", action="store_true", help=short)
    suite.add_argument("--only", nargs="+", metavar="NAME", help="only these of the standard scenarios")
    suite.add_argument("--out", help="folder for the report (default: docs/lab, with --quick build/lab/quick)")
    compare.add_argument("scenario", help="a file, or the name of a standard one")
    compare.add_argument("policy", nargs=2, metavar="NAME[,OPTION=VALUE…]", help="first this one, over that one")
    for parser_ in (run_, suite, compare):
        parser_.add_argument("--seeds", type=_positive, help="instead of what the scenario says")
        parser_.add_argument("--requests", type=_positive, help="per run, instead of what the scenario says")
        parser_.add_argument("--jobs", type=_positive, default=default_jobs(), help="processes (default: %(default)s)")
        parser_.add_argument("--memory", default="build/lab/memory", help="what was simulated is kept here")
    calibrate.add_arguments(made["calibrate"])
    canary_cli.add_arguments(made["canary"])


def run(args: argparse.Namespace) -> int:
    """Do it. Returns 0 when done, 1 for a study with a missed bar under `run`, 2 for bad input."""
    if args.lab_verb == "calibrate":
        return calibrate.run(args)
    if args.lab_verb == "canary":
        return canary_cli.run(args)
    verb = {"run": _run, "suite": _suite, "compare": _compare}[args.lab_verb]
    try:
        with crew(args.jobs, complain) as workers:
            return verb(args, workers)
    except (ScenarioError, OSError) as error:
        print(f"headway lab: {error}", file=sys.stderr)
        return 2


def _run(args: argparse.Namespace, workers: Crew) -> int:
    choices = tuple(parse_choice(words) for words in args.policy or ())
    plans = [_plan(name) for name in args.scenario]
    if choices and not all(plan.has_policies for plan in plans):
        raise ScenarioError("--policy: there is a scenario that compares gates or loads, not policies")
    plans = [plan.varied(choices, args.seeds, args.requests) for plan in plans]
    results = []
    for plan in plans:
        results.append(study(plan, workers, Path(args.memory)))
        _print(results[-1])
    index = write(results, Path(args.out), _command(args, f"run {shlex.join(args.scenario)}"))
    print(f"report: {index}")
    return 0


def _suite(args: argparse.Namespace, workers: Crew) -> int:
    known = standard()
    unknown = [name for name in args.only or () if name not in known]
    if unknown:
        raise ScenarioError(f"--only: no standard scenario {', '.join(unknown)}; there are {', '.join(known)}")
    names = args.only or list(known)
    plans = [read_plan(known[name]) for name in names]
    if args.quick:
        plans = [quick(plan) for plan in plans]
    plans = [plan.varied(None, args.seeds, args.requests) for plan in plans]
    out = Path(args.out or ("build/lab/quick" if args.quick else "docs/lab"))
    results: list[Result] = []
    for number, plan in enumerate(plans, 1):
        complain(f"[{number}/{len(plans)}] {plan.name}: {plan.title}")
        results.append(study(plan, workers, Path(args.memory)))
        # After each one, so that there is a report of what is done whenever it stops.
        index = write(results, out, _command(args, "suite" + (" --quick" if args.quick else "")))
    judged = [verdict for result in results for verdict in verdicts(result)]
    print("\n".join(bars_table([(r.plan.name, verdict) for r in results for verdict in verdicts(r)])))
    print(f"{sum(v.word == 'met' for v in judged)} of {len(judged)} bars met\nreport: {index}")
    return 0


def _compare(args: argparse.Namespace, workers: Crew) -> int:
    mine, theirs = (parse_choice(words) for words in args.policy)
    if mine == theirs:
        raise ScenarioError("compare: both policies are the same; give different ones, or different options")
    if not _plan(args.scenario).has_policies:
        raise ScenarioError(f"compare: {args.scenario} compares gates or loads, not policies; use `headway lab run`")
    plan = _plan(args.scenario).varied((mine, theirs), args.seeds, args.requests)
    plan = replace(plan, study=replace(plan.study, curve=(), bars=(), policies=(mine, theirs)))
    result = study(plan, workers, Path(args.memory))
    figures = ["g95", "g99"] if plan.study.search else []
    rows = []
    for figure in [*figures, "attainment", "ttft_p95", "tpot_p95", "hit", "cost"]:
        found = [row.mean(figure) for name in (mine.name, theirs.name) if (row := result.row(name))]
        rows.append([figure, *map(show, found), show(result.ratio(figure, mine.name, theirs.name))])
    print(f"{plan.title}; {plan.study.seeds} seeds; what is not g95 or g99 at {result.rate:.4g} requests/s")
    print("\n".join(table(["", mine.name, theirs.name, "ratio"], rows)))
    return 0


def quick(plan: Plan) -> Plan:
    """A study that says roughly the same in a fraction of the time: what the bars name, and a few others."""
    named = {OURS, *QUICK_POLICIES, *(bar.over for bar in plan.study.bars)}
    choices = tuple(choice for choice in plan.choices if choice.name in named)
    requests = max(QUICK_LEAST, round(plan.requests * QUICK_SHARE))
    plan = plan.varied(choices if plan.has_policies else None, QUICK_SEEDS, requests)
    return replace(plan, study=replace(plan.study, curve=plan.study.curve[1::2]))


def _plan(name: str) -> Plan:
    known = standard()
    path = known.get(name) or Path(name)
    if not path.is_file():
        there = f"the standard ones (in {FOLDER}) are {', '.join(known)}"
        raise ScenarioError(f"{name}: there is no such file, nor a standard scenario of that name; {there}")
    return read_plan(path)


def parse_choice(words: str) -> Choice:
    """`lmetric`, or with options `predicted_latency,harm=0`. Raises ScenarioError for what does not exist."""
    name, *given = words.split(",")
    options: dict[str, object] = {}
    for one in given:
        key, equals, value = one.partition("=")
        if not equals or not key:
            raise ScenarioError(f"{words}: {one!r} is not OPTION=VALUE; write for example {name},{key or 'option'}=1")
        options[key] = _value(value)
    if (wrong := check(name, options)) is not None:
        raise ScenarioError(f"{words}: {wrong.removeprefix('pick: ')}")
    return Choice(name, options, words)


def _value(words: str) -> object:
    known: Mapping[str, object] = {"true": True, "false": False}
    if words in known:
        return known[words]
    for kind in (int, float):
        try:
            return kind(words)
        except ValueError:
            continue
    return words


def _positive(words: str) -> int:
    value = int(words)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _command(args: argparse.Namespace, words: str) -> str:
    extra = "".join(f" --{name} {getattr(args, name)}" for name in ("seeds", "requests") if getattr(args, name))
    for policy in getattr(args, "policy", None) or ():
        extra += f" --policy {policy}"
    return f"headway lab {words}{extra}"


def _print(result: Result) -> None:
    print(f"\n{result.plan.title}: B1 {result.fluid:.4g} requests/s")
    print("\n".join(policies_table(result)))
    judged = verdicts(result)
    if judged:
        print("\n".join(bars_table([("", verdict) for verdict in judged])))
