"""What executed chapters say about themselves: the rows of their claims and cost tables."""

import json
from pathlib import Path
from typing import Any

import nbformat
from cache import dumps

from nnopt.storage import write_atomic

__all__ = ["CLAIM", "COST", "claim_rows", "cost_rows", "executed_errors", "read_json", "write_records"]

CLAIM = "application/vnd.nnopt.claim+json"
COST = "application/vnd.nnopt.cost+json"


def notebooks(out: Path) -> list[tuple[str, nbformat.NotebookNode]]:
    """Return (chapter name, executed notebook) of everything in ``out/executed``."""
    folder = out / "executed" / "book"
    return [
        (path.relative_to(folder).with_suffix("").as_posix(), nbformat.read(path, as_version=4))
        for path in sorted(folder.rglob("*.ipynb"))
    ]


def outputs(notebook: nbformat.NotebookNode, kind: str) -> list[Any]:
    """Return the outputs of one MIME type; those of a demonstration (``raises-exception``) do not count."""
    return [
        output.data[kind]
        for cell in notebook.cells
        if cell.cell_type == "code" and "raises-exception" not in cell.metadata.get("tags", [])
        for output in cell.outputs
        if kind in output.get("data", {})
    ]


def claim_rows(out: Path, root: Path) -> list[dict[str, Any]]:
    """Return the claims of all executed chapters, with the last pilot of each from the register.

    Raises:
        ValueError: two claims have one id, or an id does not begin with its chapter.
    """
    register = read_json(root / "book" / "register.json").get("claims", {})
    rows: list[dict[str, Any]] = []
    seen: dict[str, str] = {}
    for chapter, notebook in notebooks(out):
        for row in outputs(notebook, CLAIM):
            name = str(row.get("id", ""))
            if not name.startswith(f"{chapter}#"):
                raise ValueError(f"claim id must begin with its chapter, {chapter}#, got {name!r}")
            if name in seen:
                raise ValueError(f"claim id must be unique, got {name!r} in {seen[name]} and in {chapter}")
            seen[name] = chapter
            pilots = register.get(name, {}).get("pilots", [])
            pilot = {key: pilots[-1].get(key) for key in ("n", "mean", "sd")} if pilots else None
            rows.append({**row, "chapter": chapter, "pilot": pilot})
    return rows


def executed_errors(out: Path) -> dict[str, str]:
    """Return for each chapter the first error that is neither a failed claim nor a demonstration."""
    errors: dict[str, str] = {}
    for chapter, notebook in notebooks(out):
        for cell in notebook.cells:
            if cell.cell_type != "code" or "raises-exception" in cell.metadata.get("tags", []):
                continue
            for output in cell.outputs:
                if output.output_type == "error" and output.ename != "ClaimFailed":
                    errors.setdefault(chapter, f"{output.ename}: {output.evalue}")
    return errors


def cost_rows(out: Path) -> list[dict[str, Any]]:
    """Return the rows of all cost tables, each with its chapter."""
    return [
        {**row, "chapter": chapter}
        for chapter, notebook in notebooks(out)
        for table in outputs(notebook, COST)
        for row in table
    ]


def write_records(out: Path, root: Path) -> None:
    """Write ``claims.json`` and ``costs.json`` from the executed notebooks."""
    write_atomic(out / "claims.json", dumps({"claims": claim_rows(out, root)}))
    write_atomic(out / "costs.json", dumps({"costs": cost_rows(out)}))


def read_json(path: Path) -> dict[str, Any]:
    """Return the mapping in ``path``, or an empty one if there is no file.

    Raises:
        ValueError: the file is not a JSON mapping.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name} must be JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} must hold a mapping, got {type(content).__name__}")
    return content
