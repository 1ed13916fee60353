"""`headway key new`: a key for a client, and what goes into the configuration for it.

The idea: the key is shown once and kept nowhere; the file gets its SHA-256. A plain hash is enough because the key is
32 random bytes: there is nothing to guess, which is what slow password hashes are for.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import secrets

PREFIX = "hw-"
"""So that a scanner for leaked secrets, and a person, can tell what it is."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["new"], help="make a key")
    parser.add_argument("--tenant", type=_name, default="my-tenant", help="whose traffic it will be")
    parser.add_argument(
        "--classes", type=_name, nargs="+", metavar="CLASS", help="the classes it may use; default: all"
    )


def run(args: argparse.Namespace) -> int:
    """Print the key, its hash and the lines for the file. Returns 0."""
    key = new_key()
    print(key, hash_of(key), "", snippet(hash_of(key), args.tenant, args.classes), sep="\n")
    return 0


def new_key() -> str:
    """A key that nobody can guess: 256 bits from the system's random source."""
    return PREFIX + secrets.token_urlsafe(32)


def hash_of(key: str) -> str:
    """The key as the configuration knows it: `sha256:` and 64 hexadecimal digits."""
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def snippet(hashed: str, tenant: str, classes: list[str] | None) -> str:
    """The lines to paste into the file."""
    named = ", ".join(f'"{name}"' for name in classes or ())
    allowed = f", classes: [{named}]" if classes else ""
    return f'keys:   # leave this line out where the file has it\n  "{hashed}": {{tenant: "{tenant}"{allowed}}}'


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a name of letters, digits and ._- (at most 64)")
    return text
