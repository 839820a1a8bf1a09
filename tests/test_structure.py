"""One idea, one name, three places: every module of a room has its chapter and its test file."""

from collections.abc import Iterable
from pathlib import Path

import pytest

import nnopt

ROOT = Path(__file__).parents[1]

ROOMS = (
    "measurement", "data", "training", "optimizers", "regularization", "pruning", "quantization", "distillation",
    "sharing", "merging", "compute", "distributed",
)  # fmt: skip
# modules that no chapter is about: process starting is explained where it is first used
WITHOUT_CHAPTER = {"distributed/launch"}

MAX_LINES = 300
# public modules that may be longer, each with its reason
LONG = {
    "data/datasets.py": "five sources of data in one module, half of it docstrings; their files are read in _files",
    "distributed/launch.py": "one protocol between parent and ranks, which is read in one piece",
    "measurement/claims.py": "four kinds of claims whose docstrings say every argument",
    "merging/neurons.py": "half of it docstrings; four lines over the limit",
    "optimizers/schedules.py": "eleven schedules, three quarters of it docstrings",
    "plots/interactive.py": "drawings, which are long and simple",
    "training/sweep.py": "one function, its result and their docstrings; the machinery is in private modules",
}


def faults_of(files: Iterable[str]) -> list[str]:
    """Return modules of rooms without their chapter or their test file."""
    present = set(files)
    faults = []
    for path in sorted(present):
        parts = path.removesuffix(".py").split("/")
        if len(parts) != 3 or parts[0] != "nnopt" or parts[1] not in ROOMS or parts[2].startswith("_"):
            continue
        name = f"{parts[1]}/{parts[2]}"
        if f"tests/{parts[1]}/test_{parts[2]}.py" not in present:
            faults.append(f"{name} has no test file")
        if name not in WITHOUT_CHAPTER and f"book/{name}.md" not in present:
            faults.append(f"{name} has no chapter")
    return faults


def project_files() -> list[str]:
    return [
        path.relative_to(ROOT).as_posix()
        for folder in ("nnopt", "tests", "book")
        for path in (ROOT / folder).rglob("*.*")
    ]


def test_every_module_has_its_chapter_and_its_tests() -> None:
    assert faults_of(project_files()) == []


def test_no_module_is_long_without_a_reason() -> None:
    lengths = {
        path.relative_to(ROOT / "nnopt").as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in (ROOT / "nnopt").rglob("*.py")
    }
    assert {name for name, length in lengths.items() if length > MAX_LINES} == set(LONG)


def test_every_room_can_be_reached_from_the_package() -> None:
    rooms = {path.parent.name for path in (ROOT / "nnopt").glob("*/__init__.py")}
    assert set(nnopt._ROOMS) == rooms
    assert all(getattr(nnopt, room).__name__ == f"nnopt.{room}" for room in rooms)


def test_every_chapter_is_in_the_table_of_contents() -> None:
    contents = (ROOT / "_toc.yml").read_text()
    chapters = [path for path in project_files() if path.startswith("book/") and path.endswith(".md")]
    missing = [path for path in chapters if path.removesuffix(".md") not in contents]
    assert len(chapters) > 3
    assert missing == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["nnopt/data/a.py", "tests/data/test_a.py"], "data/a has no chapter"),
        (["nnopt/data/a.py", "book/data/a.md"], "data/a has no test file"),
    ],
)
def test_a_planted_gap_is_seen(files: list[str], message: str) -> None:
    assert faults_of(files) == [message]


def test_private_modules_and_models_need_no_chapter() -> None:
    assert faults_of(["nnopt/data/_files.py", "nnopt/models/mlp.py", "nnopt/checks.py"]) == []
