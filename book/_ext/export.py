"""Write every chapter as a plain, unexecuted notebook to download or to open in Colab."""

import os
import re
import sys
from pathlib import Path

import nbformat
from chapters import ROOT, Chapter, chapters, config
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from plain import plain_markdown

from nnopt.storage import write_atomic

__all__ = ["export", "exported", "install_cell", "repository"]

LOCAL = 'print("nnopt is missing: run `pip install .` in a checkout of the book, then restart this kernel")'


def repository(root: Path = ROOT) -> str:
    """Return ``owner/name`` of the public repository, or an empty text while none is named.

    ``$NNOPT_REPOSITORY`` wins over ``nnopt_repository`` in ``_config.yml``.

    Raises:
        ValueError: the name does not have this form.
    """
    named = config(root).get("sphinx", {}).get("config", {}).get("nnopt_repository") or ""
    name = os.environ.get("NNOPT_REPOSITORY") or str(named)
    if name and not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ValueError(f"nnopt_repository must be owner/name, got {name!r}")
    return name


def install_cell(repository: str, extra: str = "") -> str:
    """Return the code of an exported notebook's first cell: it installs ``nnopt`` where it is missing.

    While no repository is named it only says how: the name on the public index is not ours.
    """
    wanted = f"nnopt[{extra}]" if extra else "nnopt"
    action = f'%pip install -q "{wanted} @ git+https://github.com/{repository}"' if repository else LOCAL
    return f'import importlib.util\n\nif importlib.util.find_spec("nnopt") is None:\n    {action}'


def exported(chapter: Chapter, repository: str) -> NotebookNode:
    """Return the chapter as a notebook of plain Markdown and the same code, with deterministic cell ids."""
    first = new_code_cell(install_cell(repository, str(chapter.options.get("extra", ""))), id="install")
    first.metadata["tags"] = ["nbval-skip", "remove-cell"]
    cells = [first]
    for number, cell in enumerate(chapter.notebook.cells):
        name = f"cell-{number:03d}"
        if cell.cell_type == "code":
            copied = new_code_cell(cell.source, id=name)
            copied.metadata.update(cell.metadata)
        else:
            copied = new_markdown_cell(plain_markdown(cell.source), id=name)
        cells.append(copied)
    kernel = dict(chapter.notebook.metadata["kernelspec"])
    notebook: NotebookNode = new_notebook(
        cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}}
    )
    nbformat.validate(notebook)
    return notebook


def export(root: Path = ROOT) -> list[Path]:
    """Write all notebooks to ``_build/notebooks``, remove those without a chapter, return their paths."""
    folder = root / "_build" / "notebooks"
    name = repository(root)
    paths = []
    for chapter in chapters(root):
        path = folder / f"{chapter.docname}.ipynb"
        content = nbformat.writes(exported(chapter, name)).encode() + b"\n"
        if not path.is_file() or path.read_bytes() != content:
            write_atomic(path, content)
        paths.append(path)
    for path in folder.rglob("*.ipynb"):
        if path not in paths:
            path.unlink()
    return paths


if __name__ == "__main__":
    print(f"exported {len(export())} notebooks to _build/notebooks")
    sys.exit(0)
