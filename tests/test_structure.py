"""One idea, one name, three places: every module of a room has its chapter and its test file."""

from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ROOMS = (
    "measurement", "data", "training", "optimizers", "regularization", "pruning", "quantization", "distillation",
    "sharing", "merging", "compute", "distributed",
)  # fmt: skip
# modules that no chapter is about: process starting is explained where it is first used
WITHOUT_CHAPTER = {"distributed/launch"}


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
