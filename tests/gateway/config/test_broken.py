"""Broken files: each is refused at the line and column where the fault is, with a sentence that helps.

The files of `tests/data/broken` hold one configuration after the other: a title, the text with a ‸ before each place
where a fault must be told, and the beginning or a part of what must be said of each, in the order of the places.
`@pools` and `@models` stand for two good pools and a good model that uses both.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.config.loader import load_bytes
from gateway.config.problems import ConfigError
from policies.picking import check as check_pick

DATA = Path(__file__).resolve().parents[2] / "data" / "broken"
FOLDER = Path(__file__).resolve().parents[3] / "config" / "examples"
SHORT = {
    "@pools": "pools: {p: {endpoints: [http://a]}, q: {endpoints: [http://b]}}",
    "@models": "models: {m: {to: p, fallback: [q]}}",
}
MARK = "‸"
ENV = {"VLLM_KEY": "key"}


@dataclass(frozen=True)
class Case:
    title: str
    text: str
    places: list[tuple[int, int]]
    said: list[str]


def cases() -> list[Case]:
    return [case_of(part) for path in sorted(DATA.glob("*.txt"))
            for part in re.split(r"^## ", path.read_text(encoding="utf-8"), flags=re.MULTILINE) if part]  # fmt: skip


def case_of(part: str) -> Case:
    title, _, rest = part.partition("\n")
    lines = [SHORT.get(line, line) for line in rest.rstrip("\n").split("\n")]
    said = [line[2:] for line in lines if line.startswith("> ")]
    marked = [line for line in lines if not line.startswith("> ")]
    places = []
    for number, line in enumerate(marked, 1):
        pieces = line.split(MARK)
        places += [(number, sum(map(len, pieces[:count])) + 1) for count in range(1, len(pieces))]
    return Case(title, "\n".join(marked).replace(MARK, "") + "\n", places, said)


CASES = cases()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_a_broken_file_is_refused_at_its_line_and_column_with_a_useful_sentence(case: Case) -> None:
    with pytest.raises(ConfigError) as caught:
        load_bytes(case.text.encode(), str(FOLDER / "f.yaml"), ENV, check_pick=check_pick)
    found = caught.value.problems
    assert len(case.places) == len(case.said) > 0
    assert [(problem.line, problem.column) for problem in found] == case.places, [str(problem) for problem in found]
    for problem, said in zip(found, case.said, strict=True):
        assert said in problem.told


def test_there_are_more_than_enough_and_no_two_are_the_same() -> None:
    assert len(CASES) >= 150
    assert len({case.title for case in CASES}) == len({case.text for case in CASES}) == len(CASES)


def test_what_the_short_forms_stand_for_is_good() -> None:
    assert load_bytes("\n".join(SHORT.values()).encode(), "f.yaml", {}).warnings == ()
