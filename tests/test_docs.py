"""The documents point at things that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(page for pattern in ("*.md", "docs/**/*.md", "backends/**/*.md", "loadtest/**/*.md")
               for page in ROOT.glob(pattern))  # fmt: skip
RESULTS = {ROOT / "docs/bench.md", ROOT / "docs/evidence.md"}  # commands write them; a fresh tree may lack them


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    targets = {(page.parent / link).resolve() for link in links if "://" not in link}
    assert not [target for target in targets - RESULTS if not target.exists()]


def test_every_file_that_the_plan_names_is_there() -> None:
    text = (ROOT / "docs/design.md").read_text(encoding="utf-8")
    listing = text.partition("## Where things are")[2].split("```")[1]
    tops = ("gateway", "policies", "backends", "loadtest")
    known = {path.name for top in tops for path in (ROOT / top).rglob("*.py")}
    named = set(re.findall(r"\b([a-z_]+\.py)\b", listing))
    assert len(named) > 30 and named <= known


def test_every_file_of_the_gateway_s_own_floor_is_in_the_plan() -> None:
    listing = (ROOT / "docs/design.md").read_text(encoding="utf-8").partition("## Where things are")[2]
    files = {path.name for path in (ROOT / "gateway").glob("*.py") if not path.name.startswith(("demo", "__"))}
    assert {name for name in files if name not in listing} == set()
