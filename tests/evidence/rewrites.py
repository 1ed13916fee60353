"""Rewriting a model's name touches nothing else: random bodies, answers and streams, compared byte for byte.

Bodies go through the same function as those of clients, answers and streams (in random pieces) through the editor that
the relay uses. Names stand in any place and in any spelling; white space, escapes, numbers, objects and strings that
mention a model, keys that repeat below the top, large values, line ends and fields of events are random. What must
come out is known by construction. Bar: no byte differs.

    python -m tests.evidence.rewrites [--short] [--examples N]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from gateway.edit import Editor
from gateway.peek import peek, rewrite
from tests.bench.rounds import Bar, table
from tests.evidence.support import conclude, parse
from tests.support.rewriting import CLIENT, KINDS, UP, Holed, answers, objects, spelt, streams


@st.composite
def bodies(draw: DrawFn) -> Holed:
    """A client's request: its model in any place and spelling."""
    return draw(objects(True, "model", Holed(b"", draw(st.text(max_size=6).filter(bool).flatmap(spelt)), b"")))


def renamed_body(body: Holed) -> int:
    assert peek(body.text).model == json.loads(body.name)
    assert rewrite(body.text, {"model": UP}) == body.before + json.dumps(UP, ensure_ascii=False).encode() + body.after
    return len(body.text)


def added_to_body(body: Holed) -> int:
    """What the gateway adds goes in front; every byte of the client's is still there."""
    added = rewrite(body.text, {"stream_options": {"include_usage": True}})
    begin = body.text.index(b"{") + 1
    assert added.startswith(body.text[:begin]) and added.endswith(body.text[begin:])
    assert json.loads(added) == {**json.loads(body.text), "stream_options": {"include_usage": True}}
    return len(body.text)


def renamed_answer(answer: Holed) -> int:
    assert Editor(UP, CLIENT, False).plain(answer.text) == answer.named(CLIENT)
    return len(answer.text)


def renamed_stream(stream: tuple[bytes, bytes, list[int]]) -> int:
    raw, wanted, cuts = stream
    editor = Editor(UP, CLIENT, False)
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    assert b"".join(map(editor.stream, pieces)) + editor.rest() == wanted
    return len(raw)


@dataclass(frozen=True, slots=True)
class Property:
    """What must hold for everything that is `made`. `check` returns how many bytes it compared, or raises."""

    name: str
    made: SearchStrategy[Any]
    check: Callable[[Any], int]

    def tried(self, examples: int) -> tuple[int, int]:
        """How many examples held, and their bytes. Raises AssertionError with the smallest that does not."""
        sizes: list[int] = []
        relaxed = settings(max_examples=examples, deadline=None, database=None, derandomize=True,
                           suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])  # fmt: skip
        relaxed(given(self.made)(lambda value: sizes.append(self.check(value))))()
        return len(sizes), sum(sizes)


PROPERTIES = (
    Property("bodies, renamed", bodies(), renamed_body),
    Property("bodies, a member added", bodies(), added_to_body),
    Property("plain answers", st.sampled_from(KINDS).flatmap(lambda kind: answers(True, kind)), renamed_answer),
    Property("streams in pieces", streams(), renamed_stream),
)


def main(argv: Sequence[str] | None = None) -> int:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--examples", type=int, default=3_000, help="of each property")

    options = parse(__doc__ or "", argv, add)
    examples = 100 if options.short else options.examples
    rows, bars = [], []
    for each in PROPERTIES:
        try:
            count, size = each.tried(examples)
            differing = 0
        except AssertionError as error:
            print(f"{each.name}: {error}", *getattr(error, "__notes__", ()), sep="\n")
            count, size, differing = examples, 0, 1
        rows.append([each.name, f"{count:,}", f"{size / 1e6:,.1f} MB", str(differing)])
        bars.append(Bar(f"{each.name}: examples with another byte changed", differing, 0))
        print(f"{each.name}: {count:,} examples", flush=True)
    print(table(["", "examples", "compared", "differing"], rows))
    return conclude(bars, short=options.short)


if __name__ == "__main__":
    sys.exit(main())
