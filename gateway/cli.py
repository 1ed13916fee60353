"""The verbs. Each lives in a file of its own and is imported only when it is asked for."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from gateway import VERSION

# verb: (help, module with add_arguments and run)
_VERBS = {
    "serve": ("run the gateway", "gateway.serve"),
    "demo": ("the main job with nothing else installed", "gateway.demo"),
    "sim": ("simulated model servers alone", "backends.sim.cli"),
    "key": ("make an API key and the hash to put in the file", "gateway.keys_cli"),
    "explain": ("why a request went where it went", "gateway.explain"),
    "plan": ("what would change if a configuration were applied", "gateway.plan.verb"),
    "canary": ("look at a rollout, pause it, promote it, abort it", "gateway.rollouts.cli"),
    "rollback": ("an earlier configuration again, until the file changes", "gateway.rollback_cli"),
    "lab": ("compare policies on traces in virtual time", "loadtest.lab.cli"),
}
_LATER = {
    "top": "a live view in the terminal",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb. Returns 0 done, 1 the thing asked for failed, 2 bad usage."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in _LATER:
        print(f"headway {words[0]}: not in this version", file=sys.stderr)
        return 1
    parser = argparse.ArgumentParser(prog="headway", description="A latency-aware gateway in front of model servers.")
    parser.add_argument("--version", action="version", version=f"headway {VERSION}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, (about, module) in _VERBS.items():
        sub = verbs.add_parser(name, help=about, description=about)
        if words and words[0] == name:
            import_module(module).add_arguments(sub)
    _add_small_verbs(verbs)
    for name, about in _LATER.items():
        verbs.add_parser(name, help=f"{about} (not in this version)")
    args = parser.parse_args(words)
    run: Callable[[argparse.Namespace], int] = _SMALL.get(args.verb) or import_module(_VERBS[args.verb][1]).run
    try:
        return run(args)
    except KeyboardInterrupt:
        return 1


def _add_small_verbs(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    check = verbs.add_parser("check", help="validate a configuration")
    check.add_argument("file")
    check.add_argument("--strict", action="store_true", help="warnings are errors")
    verbs.add_parser("schema", help="the JSON Schema of the configuration")


def _check(args: argparse.Namespace) -> int:
    from gateway.config.verbs import check
    from policies.picking import check as check_pick

    return check(args.file, args.strict, check_pick=check_pick)


def _schema(args: argparse.Namespace) -> int:
    from gateway.config.verbs import schema

    print(schema())
    return 0


def _plan(args: argparse.Namespace) -> int:
    from gateway.plan.verb import run

    if args.no_lab or not args.against:
        return run(args, None)
    from loadtest.lab import foresight  # only this verb and `lab` bring the lab along

    return run(args, foresight)


_SMALL: dict[str, Callable[[argparse.Namespace], int]] = {"check": _check, "schema": _schema, "plan": _plan}
