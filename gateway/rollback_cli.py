"""The verb `rollback`: an earlier configuration in use again, and `--list`: which there are.

The idea: the gateway keeps what it applied (`history`); this asks its admin listener to go back, and says in plain
words what that means: it holds until the file next changes, and the file itself is not touched. Standard library only.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from gateway.admin_client import AdminError, add_admin_arguments, ask

_BY = {"file": "read from the file", "rollback": "gone back to"}


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("digest", metavar="DIGEST", nargs="?", default="",
                        help="the configuration, or the beginning of its digest (default: the one before)")  # fmt: skip
    parser.add_argument("--list", action="store_true", help="only say which there are")
    add_admin_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the answer as it is")


def run(args: Namespace) -> int:
    """Returns the exit code: 0 done, 1 refused or no answer."""
    try:
        if args.list:
            answer = ask(args.admin, "/api/history", args.token)
            told = listed(answer)
        else:
            answer = ask(args.admin, "/api/rollback", args.token, {"digest": args.digest})
            told = done(answer)
    except (AdminError, KeyError, TypeError, ValueError) as error:
        print(f"rollback: {error if isinstance(error, AdminError) else 'an answer of another kind of server'}",
              file=sys.stderr)  # fmt: skip
        return 1
    print(json.dumps(answer, indent=2) if args.json else told)
    return 0


def listed(answer: Mapping[str, Any]) -> str:
    """The history as lines, the newest first; `->` is in use."""
    lines = []
    for number, one in enumerate(answer["applied"]):
        mark = "->" if not number and one["digest"] == answer["in_use"] else "  "
        lines.append(f"{mark} {one['digest'][:12]}  {_when(one['at'])}  {_BY.get(one['by'], one['by'])}  "
                     f"{one['size']} bytes  {_printable(one['file'])}".rstrip())  # fmt: skip
    return "\n".join(lines) or "no configuration has been kept yet"


def done(answer: Mapping[str, Any]) -> str:
    """What has happened, and for how long it holds."""
    lines = [f"in use now: {answer['digest'][:12]}, as it was applied {_when(answer['at'])}"]
    if answer.get("changed"):
        lines.append(f"its digest is now {answer['now'][:12]}: what it refers to has changed since")
    lines.append("it holds until the file changes or is loaded again; the file itself was not touched")
    return "\n".join(lines)


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
