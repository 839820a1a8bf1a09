"""A book of a few tiny chapters in a temporary folder, with a package of two lines instead of the real one."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chapters import chapters
from conditions import Conditions
from execute import Outcome, execute

HEADER = """---
jupytext: {text_representation: {extension: .md, format_name: myst, format_version: 0.13}}
kernelspec: {display_name: Python 3, language: python, name: python3}
---
"""
STEADY = """
import os, nnopt
others = [name for name in os.listdir(".") if not name.endswith(".ipynb")]
print("value", nnopt.VALUE, "offset", os.environ["NNOPT_SEED_OFFSET"], "files", others)
"""
CLAIM = """
from IPython.display import display
row = {"id": "part/claim#small", "kind": "difference", "statement": "It holds.", "version": 1, "held": True,
       "status": "held", "seeds": [0, 1], "value": 1.5}
display({"text/plain": "HELD", "application/vnd.nnopt.claim+json": row}, raw=True)
display({"text/plain": "cost", "application/vnd.nnopt.cost+json": [{"model": "tiny", "parameters": 3}]}, raw=True)
"""
PYPROJECT = """[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "nnopt"
version = "0.0.1"
[tool.setuptools]
packages = ["nnopt"]
"""


class Project:
    """A small book that tests may change; it has its own ``_build``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.out = root / "_build"

    def write(self, name: str, *cells: str, prose: str = "Prose.", tags: str = "", header: str = HEADER) -> Path:
        """Write a chapter of code cells, all with the same tags."""
        option = f":tags: [{tags}]\n" if tags else ""
        code = "\n\n".join(f"```{{code-cell}} ipython3\n{option}{cell.strip()}\n```" for cell in cells)
        path = self.root / "book" / f"{name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{header}\n# {name}\n\n{prose}\n\n{code}\n", encoding="utf-8")
        self.list_pages()
        return path

    def list_pages(self) -> None:
        """Write the table of contents from the pages that are there."""
        pages = sorted(path.relative_to(self.root).with_suffix("") for path in (self.root / "book").rglob("*.md"))
        entries = "".join(f"  - file: {page.as_posix()}\n" for page in pages if page.name != "intro")
        (self.root / "_toc.yml").write_text(f"format: jb-book\nroot: book/intro\nchapters:\n{entries}")

    def run(self, conditions: Conditions | None = None, *, allow_errors: bool = False) -> dict[str, Outcome]:
        """Execute what is missing; return the outcomes by chapter."""
        outcomes = execute(
            chapters(self.root), conditions=conditions or Conditions(), out=self.out, allow_errors=allow_errors
        )
        return {outcome.chapter.name: outcome for outcome in outcomes}

    def executed(self, name: str) -> str:
        return (self.out / "executed" / "book" / f"{name}.ipynb").read_text(encoding="utf-8")


@pytest.fixture
def empty_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A book without chapters."""
    return _new_project(tmp_path / "book-root", monkeypatch)


def _new_project(root: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    (root / "nnopt").mkdir(parents=True)
    (root / "book").mkdir()
    (root / "nnopt" / "__init__.py").write_text("VALUE = 1\n")
    (root / "constraints.txt").write_text("torch==1\n")
    (root / "pyproject.toml").write_text(PYPROJECT)
    (root / "README.md").write_text("")
    (root / "LICENSE").write_text("")
    (root / "book" / "intro.md").write_text("# Intro\n")
    monkeypatch.setenv("PYTHONPATH", str(root))
    for name in ("NNOPT_SEED_OFFSET", "NNOPT_SEED_STREAM"):
        monkeypatch.delenv(name, raising=False)
    return Project(root)


@pytest.fixture(scope="module")
def executed_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The root of a book of two chapters that has been executed; copy it before changing it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        project = _new_project(tmp_path_factory.mktemp("executed") / "book-root", monkeypatch)
        project.write("part/steady", STEADY)
        project.write("part/claim", CLAIM)
        outcomes = project.run()
        assert {name: outcome.status for name, outcome in outcomes.items()} == {
            "part/steady": "executed",
            "part/claim": "executed",
        }
        yield project.root


@pytest.fixture
def project(executed_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy of the executed book, with its cache."""
    root = tmp_path / "copy"
    shutil.copytree(executed_once, root)
    monkeypatch.setenv("PYTHONPATH", str(root))
    return Project(root)


Plant = Callable[[Project], None]
