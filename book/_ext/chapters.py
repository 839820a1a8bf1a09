"""The book's pages as the other tools see them: which there are, their cells, tags and lines."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from myst_nb.core.read import is_myst_markdown_notebook, read_myst_markdown_notebook
from nbformat import NotebookNode

__all__ = ["ROOT", "Cell", "Chapter", "chapters", "config", "docnames", "select", "write_code"]

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Cell:
    """One code cell: its place in the Markdown (first line of code, from 1), source and tags."""

    line: int
    source: str
    tags: tuple[str, ...]

    @property
    def file(self) -> str:
        """Name of the module that the cell writes with ``%%writefile``, empty for all other cells."""
        match = re.match(r"%%writefile (?:-a )?(\w+\.py)\n", self.source)
        return match[1] if match else ""


@dataclass(frozen=True)
class Chapter:
    """One page of the table of contents that has code cells to execute."""

    root: Path
    docname: str

    @property
    def path(self) -> Path:
        return self.root / f"{self.docname}.md"

    @property
    def name(self) -> str:
        """The docname without ``book/``: how claims and tests call the chapter."""
        return self.docname.removeprefix("book/")

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def notebook(self) -> NotebookNode:
        """The chapter as an unexecuted notebook; do not change it, take a deep copy."""
        notebook: NotebookNode = read_myst_markdown_notebook(self.text, add_source_map=True, path=str(self.path))
        return notebook

    @property
    def options(self) -> dict[str, Any]:
        """The mapping ``nnopt:`` of the front matter: ``alone``, ``extra``, ``without``, ``guide``."""
        return dict(self.notebook.metadata.get("nnopt", {}))

    @property
    def alone(self) -> bool:
        """Whether the chapter measures time or starts processes, so that nothing may run beside it."""
        return bool(self.options.get("alone", False))

    @property
    def code_cells(self) -> list[Cell]:
        # Sources have lost their blank edge lines and options, so each is looked up from its fence on.
        starts = self.notebook.metadata["source_map"]
        lines = self.text.splitlines()
        cells = []
        for start, cell in zip(starts, self.notebook.cells, strict=True):
            if cell.cell_type != "code":
                continue
            line = _first_line(lines, start, cell.source)
            cells.append(Cell(line, cell.source, tuple(cell.metadata.get("tags", ()))))
        return cells


def _first_line(lines: list[str], start: int, source: str) -> int:
    """Return the 1-based line where ``source`` stands, at or after the 0-based line ``start``."""
    wanted = source.splitlines() or [""]
    for index in range(start, len(lines) - len(wanted) + 1):
        if lines[index : index + len(wanted)] == wanted:
            return index + 1
    return start + 1


def config(root: Path = ROOT) -> dict[str, Any]:
    """Return ``_config.yml``."""
    content = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}


def docnames(root: Path = ROOT) -> list[str]:
    """Return every page of ``_toc.yml`` in reading order, without suffix."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    return list(_walk(toc))


def _walk(entry: Any) -> Iterator[str]:
    if isinstance(entry, list):
        for item in entry:
            yield from _walk(item)
    elif isinstance(entry, dict):
        for key in ("root", "file"):
            if key in entry:
                yield str(entry[key]).removesuffix(".md")
        for key in ("parts", "chapters", "sections", "subtrees", "entries"):
            yield from _walk(entry.get(key, []))


def chapters(root: Path = ROOT) -> list[Chapter]:
    """Return the pages with code, in reading order.

    Raises:
        FileNotFoundError: the table of contents names a page that does not exist.
    """
    found = []
    for docname in docnames(root):
        path = root / f"{docname}.md"
        if not path.is_file():
            if path.with_suffix(".rst").is_file():
                continue
            raise FileNotFoundError(f"_toc.yml names {docname}, but there is no {docname}.md")
        if is_myst_markdown_notebook(path.read_text(encoding="utf-8")):
            found.append(Chapter(root, docname))
    return found


def select(wanted: list[str], root: Path = ROOT) -> list[Chapter]:
    """Return the chapters called ``wanted``, with or without ``book/`` and ``.md``; for an empty list all.

    Raises:
        ValueError: there is no chapter of that name.
    """
    everything = chapters(root)
    if not wanted:
        return everything
    by_name = {chapter.name: chapter for chapter in everything}
    names = [name.removeprefix("book/").removesuffix(".md") for name in wanted]
    for name in names:
        if name not in by_name:
            raise ValueError(f"chapter must be one of {', '.join(sorted(by_name))}, got {name!r}")
    return [by_name[name] for name in dict.fromkeys(names)]


def write_code(folder: Path, root: Path = ROOT) -> list[Path]:
    """Write each chapter's code, and the modules that it writes itself, at its Markdown line numbers.

    So linters report the right lines.

    Raises:
        ValueError: two chapters write modules of one name.
    """
    paths = []
    for chapter in chapters(root):
        empty = [""] * len(chapter.text.splitlines())
        files = {f"{chapter.name}.py": list(empty)}
        for cell in chapter.code_cells:
            # a module that a cell writes is imported by the chapter: beside all others, under its own name
            lines = files.setdefault(cell.file or f"{chapter.name}.py", list(empty))
            for offset, line in enumerate(cell.source.splitlines()):
                # a magic is not Python
                lines[cell.line - 1 + offset] = "" if line.startswith(("%", "!")) else line
        for name, lines in files.items():
            path = folder / name
            if path in paths:
                raise ValueError(f"{chapter.name} writes {name}, as another chapter does: call it otherwise")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(lines).rstrip() + os.linesep, encoding="utf-8", newline="")
            paths.append(path)
    return paths
