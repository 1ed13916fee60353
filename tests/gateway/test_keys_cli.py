"""`headway key new`: the key, its hash and lines that the loader takes."""

import hashlib
import re

import pytest

from gateway.cli import main
from gateway.config.loader import load_bytes
from gateway.config.types import Key

FILE = "pools: {p: {endpoints: [http://a]}}\nmodels: {m: {to: p}}\n"


def made(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, str, str]:
    """Key, hash and snippet of one run."""
    assert main(["key", "new", *words]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    key, hashed, empty, snippet = said.out.split("\n", 3)
    assert empty == ""
    return key, hashed, snippet


def test_a_new_key_is_recognisable_long_and_never_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    keys = {made(capsys)[0] for _ in range(50)}
    assert len(keys) == 50
    assert all(re.fullmatch(r"hw-[A-Za-z0-9_-]{43}", key) for key in keys)


def test_the_key_is_printed_once_and_its_hash_is_the_files(capsys: pytest.CaptureFixture[str]) -> None:
    key, hashed, snippet = made(capsys)
    assert hashed == f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"
    assert hashed in snippet and key not in snippet


def test_the_snippet_pasted_into_a_file_is_that_key(capsys: pytest.CaptureFixture[str]) -> None:
    key, _, snippet = made(capsys, "--tenant", "null", "--classes", "async", "interactive")
    (config_key,) = load_bytes((FILE + snippet).encode(), "f.yaml", {}).config.keys
    digest = hashlib.sha256(key.encode()).digest()
    assert config_key == Key(digest, "null", classes=frozenset(("async", "interactive")))
    _, _, snippet = made(capsys)
    loaded = load_bytes((FILE + snippet).encode(), "f.yaml", {})
    assert loaded.config.keys[0].classes is None and loaded.warnings == ()


@pytest.mark.parametrize(
    "words",
    [[], ["old"], ["new", "--tenant", "a b"], ["new", "--tenant", ""], ["new", "--classes"],
     ["new", "--tenant", 'x"}\nadmin: "']],
)  # fmt: skip
def test_bad_usage_exits_2_and_makes_no_key(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["key", *words])
    said = capsys.readouterr()
    assert caught.value.code == 2 and said.out == "" and said.err
