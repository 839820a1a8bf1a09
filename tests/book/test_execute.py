"""The executor: what it writes, what it leaves alone, and in which order it works."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from chapters import ROOT, Chapter, chapters
from conditions import Conditions, published
from execute import CELL_TIMEOUT_S, Outcome, _Session, execute, summary
from records import claim_rows

from .conftest import CLAIM, HEADER, STEADY, Project


def test_outputs_run_facts_and_records_are_written(executed_once: Path) -> None:
    out = executed_once / "_build"
    notebook = nbformat.read(out / "executed/book/part/steady.ipynb", as_version=4)
    printed = notebook.cells[1].outputs[0].text
    assert printed == "value 1 offset 0 files []\n"
    run = json.loads((out / "runs/book/part/steady.json").read_text())
    assert run["seconds"] > 0
    assert run["device"] == "cpu"
    assert run["versions"]["python"] == sys.version.split()[0]
    assert run["commit"] == "unknown"
    (row,) = json.loads((out / "claims.json").read_text())["claims"]
    assert (row["id"], row["chapter"], row["pilot"]) == ("part/claim#small", "part/claim", None)
    (cost,) = json.loads((out / "costs.json").read_text())["costs"]
    assert cost == {"chapter": "part/claim", "model": "tiny", "parameters": 3}


def test_executed_notebooks_have_no_random_ids_and_no_times(executed_once: Path) -> None:
    for path in (executed_once / "_build/executed").rglob("*.ipynb"):
        notebook = json.loads(path.read_text())
        assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 4)
        assert all("id" not in cell for cell in notebook["cells"])
        assert all("execution" not in cell["metadata"] for cell in notebook["cells"])


def test_a_second_run_executes_and_rewrites_nothing(project: Project) -> None:
    files = [*(project.out / "executed").rglob("*.ipynb"), *(project.out / "runs").rglob("*.json")]
    before = {path: path.stat().st_mtime_ns for path in files}
    outcomes = project.run()
    assert {outcome.status for outcome in outcomes.values()} == {"cached"}
    assert len(before) == 4
    assert {path: path.stat().st_mtime_ns for path in files} == before


def test_new_prose_reaches_the_notebook_without_an_execution(project: Project) -> None:
    project.write("part/steady", STEADY, prose="Other words.")
    assert project.run()["part/steady"].status == "cached"
    assert "Other words." in project.executed("part/steady")


def test_a_chapter_that_is_gone_leaves_no_files(project: Project) -> None:
    (project.root / "book/part/claim.md").unlink()
    project.list_pages()
    project.run()
    assert not (project.out / "executed/book/part/claim.ipynb").exists()
    assert not (project.out / "runs/book/part/claim.json").exists()
    assert json.loads((project.out / "claims.json").read_text()) == {"claims": []}


def test_chapters_marked_alone_run_after_the_others_and_alone(
    empty_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = HEADER.replace("---\njupytext", "---\nnnopt: {alone: true}\njupytext")
    empty_project.write("a/timing", "1", header=alone)
    for name in ("b", "c", "d"):
        empty_project.write(f"a/{name}", "1")
    running: set[str] = set()
    seen: list[tuple[str, frozenset[str]]] = []

    async def pretend(self: _Session, chapter: Chapter) -> None:
        running.add(chapter.name)
        for _ in range(3):
            await asyncio.sleep(0)
        seen.append((chapter.name, frozenset(running)))
        running.remove(chapter.name)
        self.failed[chapter.name] = (0.0, "not run")

    monkeypatch.setattr(_Session, "_run", pretend)
    empty_project.run()
    assert [name for name, _ in seen][-1] == "a/timing"
    assert seen[-1][1] == {"a/timing"}
    assert max(len(together) for _, together in seen) == 2


def test_two_claims_of_one_name_are_refused(project: Project) -> None:
    path = project.out / "executed/book/part/claim.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].outputs *= 2
    nbformat.write(notebook, path)
    with pytest.raises(ValueError, match="claim id must be unique, got 'part/claim#small'"):
        claim_rows(project.out, project.root)


def test_a_claim_must_be_named_after_its_chapter(project: Project) -> None:
    path = project.out / "executed/book/part/claim.ipynb"
    path.write_text(path.read_text().replace("part/claim#small", "part/other#small"))
    with pytest.raises(ValueError, match="claim id must begin with its chapter, part/claim#, got 'part/other#small'"):
        claim_rows(project.out, project.root)


def test_a_claim_in_a_demonstration_is_not_recorded(project: Project) -> None:
    path = project.out / "executed/book/part/claim.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].metadata["tags"] = ["raises-exception"]
    nbformat.write(notebook, path)
    assert claim_rows(project.out, project.root) == []


def test_the_last_pilot_of_the_register_joins_its_claim(project: Project) -> None:
    pilots = [{"n": 16, "mean": 1.0, "sd": 0.5, "set": 0}, {"n": 16, "mean": 2.0, "sd": 0.4, "set": 1}]
    register = {"claims": {"part/claim#small": {"pilots": pilots}}}
    (project.root / "book/register.json").write_text(json.dumps(register))
    (row,) = claim_rows(project.out, project.root)
    assert row["pilot"] == {"n": 16, "mean": 2.0, "sd": 0.4}


def test_a_damaged_register_is_a_clear_error(project: Project) -> None:
    (project.root / "book/register.json").write_text('{"claims": ')
    with pytest.raises(ValueError, match=r"register\.json must be JSON"):
        claim_rows(project.out, project.root)


@pytest.mark.parametrize(("name", "value"), [("NNOPT_SEED_OFFSET", "7"), ("NNOPT_SEED_STREAM", "pilot")])
def test_the_published_book_refuses_other_seeds(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=rf"{name} must be .* for the book and its tests, got '{value}'"):
        published()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"offset": -1}, "offset must be >= 0"),
        ({"stream": "other"}, "stream must be one of"),
        ({"device": "tpu"}, "device must be cpu or cuda"),
        ({"threads": 0}, "threads must be >= 1"),
    ],
)
def test_impossible_conditions_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Conditions(**arguments)  # type: ignore[arg-type]


def test_relative_paths_become_absolute_for_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNOPT_DATA", "somewhere")
    monkeypatch.setenv("PYTHONPATH", f".{os.pathsep}/elsewhere")
    variables = Conditions(offset=3, stream="pilot").environment()
    assert variables["NNOPT_DATA"] == str(Path("somewhere").absolute())
    assert variables["PYTHONPATH"].split(os.pathsep) == [str(Path.cwd()), "/elsewhere"]
    assert (variables["NNOPT_SEED_OFFSET"], variables["NNOPT_SEED_STREAM"]) == ("3", "pilot")
    assert (variables["OMP_NUM_THREADS"], variables["PYTHONHASHSEED"]) == ("1", "0")


def test_the_summary_names_the_longest_chapters_and_warns_over_the_budget(tmp_path: Path) -> None:
    outcomes = [Outcome(Chapter(tmp_path, f"book/p/c{i}"), "cached", 100.0 + i) for i in range(7)]
    words = summary(outcomes)
    assert "p/c6 106 s, p/c5 105 s, p/c4 104 s, p/c3 103 s, p/c2 102 s" in words
    assert "p/c1" not in words
    assert "WARNING" not in words
    assert words.splitlines()[-1] == "executed 0, cached 7, failed 0"
    assert "WARNING: the chapters take 24 kernel-minutes" in summary([*outcomes, *outcomes])


def test_code_cells_know_their_lines(project: Project) -> None:
    path = project.write("part/steady", "a = 1\n\nb = 2", "c = 3", prose="Text.\n\n```python\nc = 3\n```")
    lines = path.read_text().splitlines()
    (chapter,) = [chapter for chapter in chapters(project.root) if chapter.name == "part/steady"]
    assert [lines[cell.line - 1] for cell in chapter.code_cells] == ["a = 1", "c = 3"]
    assert chapter.code_cells[1].line == len(lines) - 1


def test_ctrl_c_ends_the_kernels(empty_project: Project) -> None:
    mark = empty_project.root / "kernel"
    empty_project.write(
        "part/long",
        f"import os, time, pathlib\npathlib.Path({str(mark)!r}).write_text(str(os.getpid()))\ntime.sleep(60)",
    )
    code = (
        "import sys; from pathlib import Path; from chapters import chapters; from conditions import Conditions; "
        "from execute import execute; root = Path(sys.argv[1]); "
        "execute(chapters(root), conditions=Conditions(), out=root / '_build')"
    )
    path = os.pathsep.join([str(ROOT / "book" / "_ext"), str(ROOT)])
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(empty_project.root)],
        env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + CELL_TIMEOUT_S
    while not (mark.exists() and mark.read_text()):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=30)[1]
    assert "KeyboardInterrupt" in errors
    assert process.returncode != 0
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


def test_an_empty_selection_is_an_empty_result(tmp_path: Path) -> None:
    shutil.copy(ROOT / "constraints.txt", tmp_path)
    assert execute([], conditions=Conditions(), out=tmp_path / "_build", everything=False) == []
    assert CLAIM
