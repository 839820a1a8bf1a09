"""Execute the chapters: in parallel, into a cache whose key holds everything that outputs depend on.

``python book/_ext/execute.py`` fills ``_build/``; ``reseed.py`` and ``pilot.py`` run the same function under
other conditions in folders of their own.
"""

import argparse
import asyncio
import copy
import datetime
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nbformat
from cache import Entry, ExecutionCache, dumps
from chapters import ROOT, Chapter, select
from conditions import Conditions, commit, published, versions
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from preload import Preloaded
from records import write_records
from tqdm import tqdm

from nnopt.storage import write_atomic

__all__ = ["Outcome", "execute", "kernels"]

CELL_TIMEOUT_S = 300
BUDGET_S = 20 * 60


@dataclass(frozen=True)
class Outcome:
    """What became of one chapter: ``executed``, ``cached`` or ``failed``, its seconds and its error."""

    chapter: Chapter
    status: str
    seconds: float
    error: str = ""


def execute(
    wanted: list[Chapter],
    *,
    conditions: Conditions,
    out: Path,
    jobs: int = 2,
    allow_errors: bool = False,
    everything: bool = True,
    preload: bool = False,
) -> list[Outcome]:
    """Bring ``out/executed`` and ``out/runs`` up to date, and ``claims.json`` and ``costs.json`` with them.

    Args:
        wanted: the chapters, in reading order.
        conditions: seeds, device, threads.
        out: folder of the cache, the executed notebooks and the tables.
        jobs: chapters at a time; those marked ``alone`` follow one by one.
        allow_errors: go on after a cell that raises and keep the notebook (re-runs count what did not hold).
        everything: ``wanted`` is the whole book, so that what else lies in ``out`` is removed.
        preload: fork the kernels from a process that has loaded the libraries, where that is possible.

    Returns:
        One outcome per chapter, in the order of ``wanted``.
    """
    root = wanted[0].root if wanted else ROOT
    store = ExecutionCache(out / ".jupyter_cache", conditions, root)
    entries: dict[str, Entry] = {}
    missing = []
    for chapter in wanted:
        entry = store.find(chapter.notebook)
        if entry is None:
            missing.append(chapter)
        else:
            entries[chapter.name] = entry
    for name in store.dropped:
        tqdm.write(f"execution cache: dropped damaged entry {name}")
    session = _Session(store, conditions, out, allow_errors)
    failed = {}
    if missing:
        with kernels(conditions, conditions.environment(), preload=preload) as loading:
            failed = session.run_all(missing, jobs, loading)
    outcomes = []
    for chapter in wanted:
        if chapter.name in failed:
            seconds, error = failed[chapter.name]
            _paths(out, chapter)[0].unlink(missing_ok=True)
            outcomes.append(Outcome(chapter, "failed", seconds, error))
            continue
        status = "cached" if chapter.name in entries else "executed"
        entry = entries.get(chapter.name) or store.find(chapter.notebook)
        if entry is None:
            raise RuntimeError(f"{chapter.name} was executed, but the cache has lost it")
        _publish(out, chapter, entry)
        outcomes.append(Outcome(chapter, status, float(entry.run.get("seconds", 0.0))))
    if everything:
        _remove_others(out, wanted)
    write_records(out, root)
    return outcomes


@contextmanager
def kernels(conditions: Conditions, environment: dict[str, str], *, preload: bool) -> Iterator[float]:
    """Start kernels preloaded while the block lasts, if wanted and possible; yield the seconds of loading, or 0."""
    if not preload or not Preloaded.possible(conditions.device):
        yield 0.0
        return
    with Preloaded(environment) as server:
        yield server.seconds


class _Session:
    """The executions of one call: a thread with an event loop, so that Ctrl-C stays with the main thread."""

    def __init__(self, store: ExecutionCache, conditions: Conditions, out: Path, allow_errors: bool) -> None:
        self.store = store
        self.conditions = conditions
        self.out = out
        self.allow_errors = allow_errors
        self.failed: dict[str, tuple[float, str]] = {}

    def run_all(self, chapters: list[Chapter], jobs: int, loading: float = 0.0) -> dict[str, tuple[float, str]]:
        """Execute ``chapters`` and return those that failed; ``loading``: seconds of preloading."""
        self.facts = {
            "loading": round(loading, 1),
            "device": self.conditions.device,
            "threads": self.conditions.threads,
            "versions": {"python": sys.version.split()[0], **versions()},
            "commit": commit(chapters[0].root),
        }
        self.progress = tqdm(total=len(chapters), unit="chapter", mininterval=0.1 if sys.stderr.isatty() else 10)
        done: Future[None] = Future()
        loop = asyncio.new_event_loop()
        task = loop.create_task(self._run_all(chapters, jobs))

        def work() -> None:
            # nbclient installs signal handlers where it can: not outside the main thread
            try:
                loop.run_until_complete(task)
                done.set_result(None)
            except BaseException as error:
                done.set_exception(error)
            finally:
                loop.close()

        thread = threading.Thread(target=work, name="chapters")
        thread.start()
        try:
            done.result()
        except KeyboardInterrupt:
            # cancelled clients end their kernels
            loop.call_soon_threadsafe(task.cancel)
            raise
        finally:
            thread.join()
            self.progress.close()
        return self.failed

    async def _run_all(self, chapters: list[Chapter], jobs: int) -> None:
        together = sorted((c for c in chapters if not c.alone), key=self._last_seconds, reverse=True)
        slots = asyncio.Semaphore(jobs)

        async def one(chapter: Chapter) -> None:
            async with slots:
                await self._run(chapter)

        await asyncio.gather(*(one(chapter) for chapter in together))
        for chapter in chapters:
            if chapter.alone:
                await self._run(chapter)

    def _last_seconds(self, chapter: Chapter) -> float:
        try:
            return float(json.loads(_paths(self.out, chapter)[1].read_text(encoding="utf-8"))["seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0.0

    async def _run(self, chapter: Chapter) -> None:
        notebook = copy.deepcopy(chapter.notebook)
        name = str(notebook.metadata.get("kernelspec", {}).get("name", "python3"))
        started = time.perf_counter()
        # an empty folder, so that no chapter leans on files beside it
        with tempfile.TemporaryDirectory(prefix="chapter-") as folder:
            client = NotebookClient(
                notebook,
                timeout=CELL_TIMEOUT_S,
                kernel_name=name,
                resources={"metadata": {"path": folder}},
                record_timing=False,
                allow_errors=self.allow_errors,
            )
            try:
                await client.async_execute(env=self.conditions.environment())
            except (CellExecutionError, CellTimeoutError, DeadKernelError, RuntimeError) as error:
                seconds = time.perf_counter() - started
                self.failed[chapter.name] = (seconds, str(error))
                self._tell(chapter, seconds, f"FAILED\n{error}")
                return
        seconds = time.perf_counter() - started
        date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
        run = {**self.facts, "seconds": round(seconds, 1), "date": date}
        self.store.store(chapter.path.relative_to(chapter.root), notebook, run)
        self._tell(chapter, seconds, "done")

    def _tell(self, chapter: Chapter, seconds: float, what: str) -> None:
        tqdm.write(f"{chapter.name}: {seconds:.1f} s, {what}", file=sys.stderr)
        self.progress.update()


def _paths(out: Path, chapter: Chapter) -> tuple[Path, Path]:
    """Return the places of the executed notebook and of the facts of its run."""
    return out / "executed" / f"{chapter.docname}.ipynb", out / "runs" / f"{chapter.docname}.json"


def _publish(out: Path, chapter: Chapter, entry: Entry) -> None:
    """Write notebook and facts, each only if it changed: Sphinx reads a page again when they are newer."""
    # the path of the Markdown is of no use in a notebook, and line numbers change with the prose
    entry.notebook.metadata.pop("source_map", None)
    # format 4.4: the cell ids of 4.5 are random
    entry.notebook.nbformat_minor = 4
    for cell in entry.notebook.cells:
        cell.pop("id", None)
    notebook = nbformat.writes(entry.notebook, nbformat.NO_CONVERT).encode() + b"\n"
    for path, content in zip(_paths(out, chapter), (notebook, dumps(entry.run)), strict=True):
        if not path.is_file() or path.read_bytes() != content:
            write_atomic(path, content)


def _remove_others(out: Path, wanted: Iterable[Chapter]) -> None:
    """Remove what belongs to no chapter: renamed or deleted ones."""
    keep = {path for chapter in wanted for path in _paths(out, chapter)}
    for path in [*(out / "executed").rglob("*.ipynb"), *(out / "runs").rglob("*.json")]:
        if path not in keep:
            path.unlink()


def check_import(conditions: Conditions) -> str:
    """Import ``nnopt`` once as a kernel would; return the error, if there is one."""
    result = subprocess.run(
        [sys.executable, "-c", "import nnopt"],
        check=False,
        env=conditions.environment(),
        capture_output=True,
        text=True,
        cwd=tempfile.gettempdir(),
    )
    return "" if result.returncode == 0 else result.stderr


def summary(outcomes: list[Outcome]) -> str:
    """Say how many ran, what the book costs and which five chapters are the longest."""
    total = sum(outcome.seconds for outcome in outcomes)
    longest = sorted(outcomes, key=lambda outcome: outcome.seconds, reverse=True)[:5]
    counts = {s: sum(outcome.status == s for outcome in outcomes) for s in ("executed", "cached", "failed")}
    lines = []
    if longest:
        lines.append("longest: " + ", ".join(f"{o.chapter.name} {o.seconds:.0f} s" for o in longest))
    if total > BUDGET_S:
        lines.append(f"WARNING: the chapters take {total / 60:.0f} kernel-minutes, more than {BUDGET_S // 60}")
    lines.append(f"chapters: {total:.0f} kernel-seconds in all")
    lines.append(", ".join(f"{status} {number}" for status, number in counts.items()))
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--offset", type=int, default=0, help="seed offset; other than 0 needs --out")
    parser.add_argument("--stream", default="report", help="seed stream; other than report needs --out")
    parser.add_argument("--chapters", nargs="*", default=[], help="default: all")
    parser.add_argument("--out", type=Path, default=None, help="default: _build")
    parser.add_argument("--allow-errors", action="store_true")
    options = parser.parse_args(arguments)
    try:
        base = published()
        conditions = Conditions(options.offset, options.stream, base.device)
        if options.out is None and conditions != base:
            raise ValueError("--out must be given when offset or stream are not those of the book")
        wanted = select(options.chapters)
    except ValueError as error:
        print(f"execute: {error}", file=sys.stderr)
        return 2
    problem = check_import(conditions)
    if problem:
        print(f"execute: nnopt cannot be imported\n{problem}", file=sys.stderr)
        return 1
    outcomes = execute(
        wanted,
        conditions=conditions,
        out=options.out or ROOT / "_build",
        jobs=options.jobs,
        allow_errors=options.allow_errors,
        everything=not options.chapters,
        preload=True,
    )
    print(summary(outcomes))
    return 1 if any(outcome.status == "failed" for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
