"""What `check` and `schema` print and return."""

import json
from pathlib import Path

from gateway.config.verbs import check, schema


def run(path: Path, strict: bool = False) -> tuple[int, list[str]]:
    said: list[str] = []
    return check(str(path), strict, env={}, say=said.append), said


def test_a_good_file_is_ok(tmp_path: Path, good: str) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(good)
    assert run(path) == (0, [f"{path}: ok"])
    assert run(path, strict=True) == (0, [f"{path}: ok"])


def test_a_bad_file_is_told_line_by_line(tmp_path: Path, good: str) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(good.replace("engine", "enigne").replace("{to: p}", "{to: q}"))
    code, said = run(path)
    assert code == 1
    assert said == [f"{path}:4:5: unknown key `enigne` (did you mean `engine`?)\n"
                    f"{path}:8:22: pool `q` does not exist (did you mean `p`?)"]  # fmt: skip


def test_a_warning_passes_unless_strict(tmp_path: Path, good: str) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(good.replace("127.0.0.1:8080", "0.0.0.0:8080"))
    told = "no keys: every client is tenant `anonymous` (add `keys:`)"
    assert run(path) == (0, [f"{path}:1:9: warning: {told}", f"{path}: ok"])
    assert run(path, strict=True) == (1, [f"{path}:1:9: error (strict): {told}"])


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    code, (said,) = run(tmp_path / "none.yaml")
    assert code == 1
    assert said.endswith("none.yaml:1:1: cannot be read: No such file or directory")


def test_the_schema_is_json() -> None:
    assert json.loads(schema())["title"] == "Headway configuration"
