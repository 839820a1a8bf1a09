"""The execution cache: jupyter-cache's format, which Sphinx reads too, with verified entries."""

import copy
import hashlib
import json
import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from conditions import Conditions
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from jupyter_cache.cache.db import NbCacheRecord
from nbformat import NotebookNode
from sqlalchemy.exc import SQLAlchemyError

from nnopt.storage import write_atomic

__all__ = ["Entry", "ExecutionCache", "dumps"]


@dataclass(frozen=True)
class Entry:
    """An executed chapter and what is known of its execution (seconds, device, versions, date, commit)."""

    notebook: NotebookNode
    run: dict[str, Any]


class ExecutionCache:
    """The executed chapters of one set of conditions.

    A folder holds one set: opened under another key it is emptied, so whatever is in it is valid. Each
    entry's checksum is compared when it is read; a damaged entry or index is dropped and counts as missing.

    Args:
        folder: the cache, created if need be.
        conditions: what the entries were executed under.
        root: the repository whose sources and constraints count.
    """

    def __init__(self, folder: Path, conditions: Conditions, root: Path) -> None:
        self.folder = folder
        self.key = conditions.key(root)
        self.dropped: list[str] = []
        stamp = folder / "environment"
        if not stamp.is_file() or stamp.read_text(encoding="utf-8", errors="replace").strip() != self.key:
            self._empty()
        self._cache = get_cache(str(folder))
        try:
            self._cache.list_cache_records()
        except (SQLAlchemyError, sqlite3.Error):
            self.dropped.append("index")
            self._empty()
            self._cache = get_cache(str(folder))

    def _empty(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        write_atomic(self.folder / "environment", self.key.encode())

    def find(self, notebook: NotebookNode) -> Entry | None:
        """Return the executed twin of ``notebook`` with today's prose, or None if there is no sound one."""
        hashkey = self._cache.create_hashed_notebook(notebook)[1]
        try:
            record = NbCacheRecord.record_from_hashkey(hashkey, self._cache.db)
        except KeyError:
            return None
        path = self.folder / "executed" / hashkey / "base.ipynb"
        try:
            content = path.read_text(encoding="utf-8")
            stored = nbformat.reads(content, as_version=4)
            nbformat.validate(stored)
        except (OSError, ValueError, nbformat.ValidationError, AttributeError):
            self._drop(hashkey)
            return None
        run = dict(record.data or {})
        # an entry that myst-nb stored itself has no checksum; its cells must at least have been executed
        checksum = run.pop("sha256", None)
        if checksum not in (None, _checksum(content)) or not _executed(stored):
            self._drop(hashkey)
            return None
        merged = self._cache.merge_match_into_notebook(copy.deepcopy(notebook))[1]
        return Entry(merged, run)

    def store(self, path: Path, notebook: NotebookNode, run: dict[str, Any]) -> None:
        """Put an executed notebook and the facts of its run into the cache."""
        base, _ = self._cache.create_hashed_notebook(notebook)
        # the text that jupyter-cache is about to write
        content = nbformat.writes(base, nbformat.NO_CONVERT)
        data = {**run, "sha256": _checksum(content)}
        # Validity in jupyter-cache's sense is off: an empty cell has no execution count.
        self._cache.cache_notebook_bundle(
            CacheBundleIn(notebook, str(path), data=data), check_validity=False, overwrite=True
        )

    def _drop(self, hashkey: str) -> None:
        """Forget a damaged entry; jupyter-cache's own removal needs the file that may be missing."""
        shutil.rmtree(self.folder / "executed" / hashkey, ignore_errors=True)
        record = NbCacheRecord.record_from_hashkey(hashkey, self._cache.db)
        NbCacheRecord.remove_records([record.pk], self._cache.db)
        self.dropped.append(hashkey)


def _executed(notebook: NotebookNode) -> bool:
    """Tell whether every code cell with something in it has run."""
    return all(
        cell.execution_count is not None for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()
    )


def _checksum(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def dumps(value: object) -> bytes:
    """Serialize as JSON the way all files of the book are: sorted, indented, with a last newline."""
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
