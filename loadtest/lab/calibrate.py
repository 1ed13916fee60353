"""`headway lab calibrate`: recorded decisions of an operator's own GPUs become a profile that a pool can name.

It reads the files that a gateway wrote for `decisions: {file: …}` while a pool's policy predicted, fits the time of an
iteration to them, prints what it found and how well it predicts streams that it has not seen, and writes a profile: for
`pools.*.profile`, `headway sim --profile`, and the lab's scenarios.

The time from the gateway to the engine is found too, and printed, but belongs to no GPU and so to no profile.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import sys
from pathlib import Path

from backends.sim.profiles import read_profile
from gateway.core.prices import NAMES
from loadtest.lab.evidence import Evidence, read
from loadtest.lab.fitting import UNSURE, Fitted, TooLittle, fit

BLOCK = 16  # tokens of a block: KV sizes are whole numbers of them
APART = 0.05  # endpoints whose pace differs less are taken as equal
POOR = 0.25  # a mean error of first tokens that is worth a warning
_UNITS = {
    "overhead": "ms per request, from the gateway to the engine",
    "base": "ms per iteration",
    "decode": "ms per sequence decoding",
    "context": "ms per 1,000 KV tokens read",
    "slope1": "ms per 1,000 prompt tokens up to {0:.0f} in an iteration",
    "slope2": "ms per 1,000 from there to {1:.0f}",
    "slope3": "ms per 1,000 beyond",
    "pair": "ms per million pairs of tokens in attention",
}
_SCALE = {"context": 1e6, "slope1": 1e6, "slope2": 1e6, "slope3": 1e6, "pair": 1e9}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add = parser.add_argument
    add("records", nargs="+", metavar="RECORDS", help="files that `decisions: {file: …}` names")
    add("--name", default="", metavar="NAME", help="of the profile (default: the pool's)")
    add("--out", default="", metavar="FILE", help="where to write it (default: NAME.json)")
    add("--pool", default="", metavar="POOL", help="only this pool's; needed where the records are of several")
    add("--endpoint", action="append", default=[], metavar="ID", help="only this endpoint's; may be repeated")


def run(args: argparse.Namespace) -> int:
    """0 when a profile was written, 1 where the records do not give one, 2 for bad usage or files."""
    try:
        evidence = read(map(Path, args.records), args.pool, args.endpoint)
        name = args.name or next(iter(evidence.pools), "calibrated")
        out = Path(args.out or f"{name}.json")
        if wrong := _bad_usage(name, out, evidence):
            return _refuse(wrong, 2)
        print(*_used(evidence), sep="\n")
        found = fit(evidence.answers(), evidence.knees, len(evidence.endpoints))
        print(*_found(found, evidence), sep="\n")
        out.write_text(json.dumps(profile_of(name, found, evidence), indent=1) + "\n", encoding="utf-8")
        read_profile(out)
    except OSError as error:
        return _refuse(f"{error.filename}: {error.strerror}", 2)
    except TooLittle as error:
        return _refuse(f"{error}. Record for longer, at low and at high load, with prompts as they come", 1)
    for warning in _warnings(found, evidence):
        print(f"headway lab calibrate: warning: {warning}", file=sys.stderr)
    print(f"written: {out}\nuse it:  pools: {{…: {{profile: {out.name}}}}}")
    return 0


def _refuse(reason: str, code: int) -> int:
    print(f"headway lab calibrate: {reason}", file=sys.stderr)
    return code


def _bad_usage(name: str, out: Path, evidence: Evidence) -> str:
    if len(evidence.pools) > 1:
        return f"the records are of several pools: choose one with --pool {' or '.join(sorted(evidence.pools))}"
    if name and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", name):
        return f"--name {name!r}: letters, digits and ._- are expected, at most 64"
    if out.suffix != ".json":
        return f"--out {out}: the name must end in .json"
    return ""


def _used(evidence: Evidence) -> list[str]:
    """How many records were used, and why the others were not."""
    used, unused = len(evidence.streams), evidence.unused.total()
    lines = [f"{used + unused} records, {used} used, of {len(evidence.endpoints)} endpoints"]
    lines += [f"  {number} not used: {reason}" for reason, number in evidence.unused.most_common()]
    return lines


def _found(found: Fitted, evidence: Evidence) -> list[str]:
    """The prices with their errors, and how well they predict."""
    lines = []
    for name, price, error in zip(NAMES, found.prices.tolist(), found.errors.tolist(), strict=True):
        sure = f"± {100.0 * error:.1f} %" if error < UNSURE else "hardly seen"
        value = f"{price * _SCALE.get(name, 1e3):.4g}"
        lines.append(f"  {name:<9}{value:>9}  {sure:<12}{_UNITS[name].format(*found.knees)}")
    lines.append(f"chunk budget that explains them best: {found.chunk:.0f} tokens an iteration")
    for endpoint, (decoding, prefill) in zip(evidence.endpoints, found.factors.tolist(), strict=True):
        if max(abs(decoding - 1.0), abs(prefill - 1.0)) > APART:
            lines.append(f"{endpoint} takes {decoding:.2f} times as long to decode, {prefill:.2f} times to prefill")
    ttft, tpot = 100.0 * found.ttft_error, 100.0 * found.tpot_error
    lines.append(f"{found.held_out} streams were held out: TTFT MAPE {ttft:.1f} %, TPOT MAPE {tpot:.1f} %")
    return lines


def _warnings(found: Fitted, evidence: Evidence) -> list[str]:
    told = []
    if found.ttft_error > POOR:
        told.append("first tokens are explained poorly; are all endpoints the same kind of server, and does other "
                    "traffic than this gateway's reach them?")  # fmt: skip
    if not evidence.kv_tokens:
        told.append("no endpoint said how many tokens its KV cache holds: kv_tokens is 0 in the profile, fill it in")
    factors = found.factors
    if (abs(factors - 1.0) > APART).any():
        told.append("endpoints differ; the profile is that of the middle one, --endpoint chooses others")
    return told


def profile_of(name: str, found: Fitted, evidence: Evidence) -> dict[str, object]:
    """The profile's file: milliseconds per unit, tokens.

    The predictor's price of a sequence decoding holds its token in the multiplications, a profile's does not; it is
    less than nothing where a token of a decode costs less than one of a prompt.
    """
    price = dict(zip(NAMES, (found.prices * 1e3).tolist(), strict=True))
    capacity = statistics.median(evidence.kv_tokens) if evidence.kv_tokens else 0.0
    figures = {
        "base": price["base"], "knee1": int(found.knees[0]), "knee2": int(found.knees[1]), "slope1": price["slope1"],
        "slope2": price["slope2"], "slope3": price["slope3"], "pair": price["pair"],
        "seq": price["decode"] - price["slope1"], "ctx": price["context"], "overhead_iter": 0.0,
        "overhead_seq": 0.0, "kv_tokens": int(capacity) // BLOCK * BLOCK, "mape_prefill": 100.0 * found.ttft_error,
        "mape_decode": 100.0 * found.tpot_error,
    }  # fmt: skip
    return {
        "about": f"Fitted to {len(evidence.streams)} recorded streams by headway lab calibrate. Milliseconds, tokens.",
        "name": name,
        "model": evidence.models.most_common(1)[0][0],
        "source": "recorded decisions",
        "kind": "calibrated",
        **{key: _rounded(value) for key, value in figures.items()},
    }


def _rounded(value: float) -> float:
    """Five digits that count."""
    return value if isinstance(value, int) or not value else round(value, 4 - math.floor(math.log10(abs(value))))
