"""What people install: the wheel, the lock files and the image's install lines.

The wheel is built from a copy of the tree, because setuptools leaves `build/` beside the sources and would put whatever
an earlier build left there into the next wheel. No image is built here: the Dockerfile's own RUN lines are run, in
order, in empty virtual environments, which needs what any installation needs: a package index or its cache.
"""

import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from gateway import VERSION

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
IMPORTED = ("gateway", "policies", "backends", "loadtest")
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-build.lock")


def copy_of_the_tree(to: Path) -> Path:
    for name in (*IMPORTED, "config"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("headway.py", "pyproject.toml", "README.md", "LICENSE", *LOCKS):
        shutil.copy(ROOT / name, to / name)
    return to


def run(command: list[str], where: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=where, text=True, capture_output=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = copy_of_the_tree(tmp_path_factory.mktemp("source"))
    out = tmp_path_factory.mktemp("dist")
    build = f"from setuptools import build_meta; print(build_meta.build_wheel({str(out)!r}))"
    done = run([sys.executable, "-c", build], source)
    assert done.returncode == 0, done.stderr[-3000:]
    (built,) = out.glob("*.whl")
    return built


def empty_environment(where: Path) -> Path:
    venv.create(where, with_pip=True, symlinks=True)
    return where / "bin"


def test_no_package_is_missing_from_the_wheel() -> None:
    packages = set(PROJECT["tool"]["setuptools"]["packages"])
    for top in IMPORTED:
        for path in (ROOT / top).rglob("__init__.py"):
            name = ".".join(("headway_app", *path.parent.relative_to(ROOT).parts))
            assert name in packages, f"add {name!r} to [tool.setuptools] packages in pyproject.toml"


def test_every_python_file_stands_in_a_package() -> None:
    for top in IMPORTED:
        for path in (ROOT / top).rglob("*.py"):
            assert (path.parent / "__init__.py").is_file(), f"{path.parent.relative_to(ROOT)} has no __init__.py"


def test_the_wheel_holds_only_the_launcher_and_the_private_folder(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    version = PROJECT["project"]["version"]
    assert tops == {"headway.py", "headway_app", f"headway-{version}.dist-info"}
    assert not [name for name in names if name.endswith(".pth")]
    assert not [name for name in names if "test" in name.split("/")[1:2]]


def test_the_wheel_holds_every_source_and_data_file(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for top in (*IMPORTED, "config"):
        for path in (ROOT / top).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                inside = f"headway_app/{path.relative_to(ROOT)}"
                assert inside in names, f"{inside} is not in the wheel: see package-data in pyproject.toml"


def test_the_wheel_and_the_command_name_one_version() -> None:
    assert PROJECT["project"]["version"] == VERSION


def test_run_time_dependencies_stay_few_and_locked() -> None:
    wanted = [re.split(r"[\[<>=!~ ;]", line)[0] for line in PROJECT["project"]["dependencies"]]
    assert len(wanted) <= 12
    locked = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    for name in wanted:
        assert re.search(rf"^{re.escape(name)}==", locked, re.MULTILINE), f"{name} is not locked: make lock"


def test_the_lock_files_name_no_address_and_hash_every_package() -> None:
    for lock in LOCKS:
        text = (ROOT / lock).read_text(encoding="utf-8")
        assert "://" not in text and " @ " not in text and "--index" not in text
        packages = re.findall(r"^[a-z0-9-]+==\S+.*(?:\n    --hash=sha256:[0-9a-f]{64}.*)+", text, re.MULTILINE)
        assert len(packages) == len(re.findall(r"^\S+==", text, re.MULTILINE))


def test_what_both_lock_files_name_has_one_version() -> None:
    def pins(lock: str) -> dict[str, str]:
        return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / lock).read_text(encoding="utf-8"), re.MULTILINE))

    tools = pins("requirements-dev.lock")
    for lock in ("requirements.lock", "requirements-build.lock"):
        for name, version in pins(lock).items():
            assert tools.get(name) == version, f"{name} is {version} in {lock}, {tools.get(name)} for developers"


def stages_of_the_dockerfile() -> list[list[str]]:
    """The pip commands of each stage, in order, with continuation lines joined."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    stages: list[list[str]] = []
    for line in text.splitlines():
        if line.startswith("FROM "):
            stages.append([])
        elif line.startswith("RUN pip "):
            stages[-1].append(line.removeprefix("RUN "))
    return stages


def test_the_image_is_slim_unprivileged_and_checks_its_health() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert re.findall(r"^FROM (\S+)", text, re.MULTILINE) == ["python:3.12-slim"] * 2
    last = text.rpartition("FROM ")[2]
    assert re.search(r"^USER (?!root|0)\S+", last, re.MULTILINE)
    assert "HEALTHCHECK" in last
    for stage in stages_of_the_dockerfile():
        for command in stage:
            hashed = "--require-hashes" in command and "--only-binary=:all:" in command
            assert hashed or "--no-index" in command or command.startswith("pip wheel"), command


@pytest.mark.slow
def test_the_images_install_lines_work_in_an_empty_environment(tmp_path: Path) -> None:
    source, dist = tmp_path / "src", tmp_path / "dist"
    source.mkdir()
    copy_of_the_tree(source)
    for number, stage in enumerate(stages_of_the_dockerfile()):
        bin_ = empty_environment(tmp_path / f"stage{number}")
        for command in stage:
            here = command.replace("/tmp/dist", str(dist)).replace("/dist ", f"{dist} ").replace("/tmp/", f"{source}/")
            done = run(["sh", "-c", here.replace("pip ", f"{bin_}/python -m pip ", 1)], source)
            assert done.returncode == 0, f"RUN {command}\n{done.stderr[-3000:]}"

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shown = run([str(bin_ / "headway"), "--help"], elsewhere)
    assert shown.returncode == 0, shown.stderr
    assert "serve" in shown.stdout
    for name in IMPORTED:
        stolen = run([str(bin_ / "python"), "-c", f"import {name}"], elsewhere)
        assert stolen.returncode != 0 and "ModuleNotFoundError" in stolen.stderr, f"`import {name}` works for others"
