"""The verb `canary`: what the canaries of a running gateway say, and what an operator says to them.

The idea: everything is asked of the admin listener, so it works from any machine that reaches it; a command is answered
when it is on the gateway's disk. Standard library only.

Left to others: asking (`admin_client`), what the commands do (`canaries`), what a state is called (`words`).
"""

from __future__ import annotations

import getpass
import json
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from gateway.admin_client import ADMIN, AdminError, add_admin_arguments, ask, is_url
from gateway.rollouts.words import ANY, overview, status_lines

ACTIONS = {
    "status": "how it goes, of one or of all",
    "pause": "stay at this share; harm is still rolled back",
    "resume": "go on after a pause",
    "promote": "all requests to the canary, now",
    "abort": "no new requests to the canary, now",
    "restart": "begin anew at the first step",
}


def add_arguments(parser: ArgumentParser) -> None:
    parser.formatter_class = RawDescriptionHelpFormatter
    parser.epilog = "\n".join(f"  {action:<8} {about}" for action, about in ACTIONS.items())
    parser.add_argument("action", choices=list(ACTIONS), help="what to do, see below")
    parser.add_argument("name", nargs="?", default=None, metavar="NAME",
                        help="which: MODEL/RULE, or one of the two where that is enough; not needed where there is "
                             "only one")  # fmt: skip
    parser.add_argument("--why", metavar="TEXT", default="", help="kept with the command")
    add_admin_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print what the listener answers as it is")


def run(args: Namespace) -> int:
    """Ask and print. Returns the exit code: 0 done, 1 not done, 2 bad usage."""
    if not is_url(args.admin):
        print(f"canary: --admin wants a URL such as {ADMIN}, not {args.admin!r}", file=sys.stderr)
        return 2
    try:
        answer = _do(args)
    except AdminError as error:
        print(f"canary: {error}", file=sys.stderr)
        return 1
    if not isinstance(answer, dict) or not ({"canary", "canaries"} & answer.keys()):
        print(f"canary: {args.admin} answered, but not with canaries: is it a Headway admin listener?", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(answer, indent=2))
    elif "canary" in answer:
        said = [answer["said"]] if "said" in answer else []
        print("\n".join([*said, *status_lines(answer["canary"])]))
    else:
        print(overview(answer["canaries"]))
    return 0


def _do(args: Namespace) -> Any:
    name = args.name
    if args.action == "status" and name is None:
        found = ask(args.admin, "/api/canaries", args.token)
        if not isinstance(found, Mapping) or len(found.get("canaries", ())) != 1:
            return found
        name = found["canaries"][0]["name"]
    path = f"/api/canaries/{quote(name or ANY, safe='')}"
    if args.action == "status":
        return ask(args.admin, path, args.token)
    return ask(args.admin, f"{path}/{args.action}", args.token, {"by": _who(), "why": args.why})


def _who() -> str:
    """Who is kept as having said it."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user without a name, as in many containers
        return "the command line"
