"""The store's steps as Lua scripts: each runs whole or not at all, and no other client's command comes in between.

The files beside this are read once; each begins with what all share (`common.lua`), and that with the records of items
that never ran, so that they are the same words whatever the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gateway.jobs.lines import CANCELLED, EXPIRED, JOB_CANCELLED, JOB_EXPIRED, POISONED, output_line
from gateway.jobs.packed import pack_head

_LUA = Path(__file__).parent / "lua"
_BEGINNING = len('{"id":"","custom_id":""')


def sources() -> Mapping[str, str]:
    """Every script by the name of its file."""
    tails = {"cancelled": CANCELLED, "expired": EXPIRED, "poisoned": POISONED}
    heads = {"cancelled": JOB_CANCELLED, "expired": JOB_EXPIRED, "poisoned": POISONED}
    common = "".join(
        (
            _table("TAILS", {name: output_line("", "", result)[_BEGINNING:] for name, result in tails.items()}),
            _table("HEADS", {name: pack_head(result) for name, result in heads.items()}),
            (_LUA / "common.lua").read_text(encoding="utf-8"),
        )
    )
    return {
        path.stem: common + path.read_text(encoding="utf-8") for path in _LUA.glob("*.lua") if path.stem != "common"
    }


def _table(name: str, values: Mapping[str, bytes]) -> str:
    entries = ", ".join(f"{key} = [==[{value.decode()}]==]" for key, value in values.items())
    return f"local {name} = {{ {entries} }}\n"
