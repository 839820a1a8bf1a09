"""Faults planted in a small book: each must be seen, or CI would be green over it."""

from pathlib import Path

import conditions as conditions_module
import nbformat
import pytest
from cache import ExecutionCache
from chapters import ROOT, Chapter, chapters
from conditions import Conditions
from records import CLAIM, claim_rows, executed_errors
from rehearse import build_wheel, install_wheel, origin_notebook, rehearse

from .conftest import Plant, Project


def cached(project: Project, conditions: Conditions | None = None) -> bool:
    """Tell whether the cache would serve the chapter ``part/steady`` under these conditions."""
    return read(project, conditions)[0]


def read(project: Project, conditions: Conditions | None = None) -> tuple[bool, list[str]]:
    store = ExecutionCache(project.out / ".jupyter_cache", conditions or Conditions(), project.root)
    found = store.find(Chapter(project.root, "book/part/steady").notebook)
    return found is not None, store.dropped


def test_a_cell_that_raises_fails_its_chapter_and_shows_why(project: Project) -> None:
    project.write("part/broken", "x = 1", "raise RuntimeError('planted')")
    outcomes = project.run()
    assert outcomes["part/broken"].status == "failed"
    assert "raise RuntimeError('planted')" in outcomes["part/broken"].error
    assert not (project.out / "executed/book/part/broken.ipynb").exists()
    assert outcomes["part/steady"].status == "cached"
    # and again: a failure is not remembered as a success
    assert project.run()["part/broken"].status == "failed"


def test_a_dead_kernel_fails_its_chapter(empty_project: Project) -> None:
    empty_project.write("part/dead", "import os; os._exit(1)")
    assert "died" in empty_project.run()["part/dead"].error.lower()


def test_a_claim_that_no_longer_holds_fails_its_chapter(
    empty_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    empty_project.write(
        "part/claim",
        "from nnopt.measurement import claims",
        'claims.bound("part/claim#size", "It is small.", metric="bytes", value=2.0, margin=1.0, direction="below")',
    )
    outcome = empty_project.run()["part/claim"]
    assert outcome.status == "failed"
    assert "ClaimFailed" in outcome.error


def test_a_re_run_keeps_the_row_of_a_failed_claim_and_tells_it_from_other_errors(empty_project: Project) -> None:
    row = {"id": "part/claim#small", "held": False}
    raising = "class ClaimFailed(AssertionError): ...\nraise ClaimFailed"
    show = f"from IPython.display import display\ndisplay({{'{CLAIM}': {row}}}, raw=True)"
    empty_project.write("part/claim", f"{show}\n{raising}", "1 / 0")
    empty_project.write("part/clean", "1 / 0", tags="raises-exception")
    assert {outcome.status for outcome in empty_project.run(allow_errors=True).values()} == {"executed"}
    assert claim_rows(empty_project.out, empty_project.root) == [{**row, "chapter": "part/claim", "pilot": None}]
    assert executed_errors(empty_project.out) == {"part/claim": "ZeroDivisionError: division by zero"}


def edit_package(project: Project) -> None:
    (project.root / "nnopt/__init__.py").write_text("VALUE = 2\n")


def edit_constraints(project: Project) -> None:
    (project.root / "constraints.txt").write_text("torch==2\n")


def add_module(project: Project) -> None:
    (project.root / "nnopt/room").mkdir()
    (project.root / "nnopt/room/new.py").write_text("")


@pytest.mark.parametrize("plant", [edit_package, edit_constraints, add_module])
def test_a_change_of_the_sources_empties_the_cache(project: Project, plant: Plant) -> None:
    assert cached(project)
    plant(project)
    assert not cached(project)


@pytest.mark.parametrize(
    "other", [Conditions(offset=1), Conditions(stream="pilot"), Conditions(device="cuda"), Conditions(threads=2)]
)
def test_other_seeds_device_or_threads_never_share_a_result(project: Project, other: Conditions) -> None:
    assert not cached(project, other)


def test_another_version_of_a_library_empties_the_cache(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    found = conditions_module.versions()
    monkeypatch.setattr(conditions_module, "versions", lambda: {**found, "torch": "0.0"})
    assert not cached(project)


def test_the_key_does_not_depend_on_the_place_of_the_clone(project: Project, executed_once: Path) -> None:
    assert Conditions().key(project.root) == Conditions().key(executed_once)


def test_a_change_in_the_package_is_seen_in_the_output(project: Project) -> None:
    edit_package(project)
    assert project.run()["part/steady"].status == "executed"
    assert "value 2" in project.executed("part/steady")


def base(project: Project) -> Path:
    """Return the cache's file of the chapter ``part/steady``."""
    (path,) = [
        path for path in (project.out / ".jupyter_cache/executed").rglob("base.ipynb") if "files" in path.read_text()
    ]
    return path


def truncate(project: Project) -> None:
    base(project).write_bytes(base(project).read_bytes()[:-100])


def empty(project: Project) -> None:
    base(project).write_bytes(b"")


def garble(project: Project) -> None:
    base(project).write_bytes(b"\xff\xfe\x00 not a notebook")


def change_a_number(project: Project) -> None:
    base(project).write_text(base(project).read_text().replace("value 1", "value 9"))


def remove(project: Project) -> None:
    base(project).unlink()


@pytest.mark.parametrize("plant", [truncate, empty, garble, change_a_number, remove])
def test_a_damaged_cache_entry_counts_as_missing(project: Project, plant: Plant) -> None:
    plant(project)
    found, dropped = read(project)
    assert not found
    assert len(dropped) == 1


def test_a_damaged_cache_index_counts_as_an_empty_cache(project: Project) -> None:
    (project.out / ".jupyter_cache/global.db").write_bytes(b"not a database" * 100)
    assert read(project) == (False, ["index"])


def test_a_damaged_entry_is_executed_again(project: Project) -> None:
    before = project.executed("part/steady")
    change_a_number(project)
    outcomes = project.run()
    assert (outcomes["part/steady"].status, outcomes["part/claim"].status) == ("executed", "cached")
    assert project.executed("part/steady") == before


def test_outputs_that_differ_between_two_runs_fail_and_the_kernels_use_the_wheel(
    project: Project, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    project.write("part/moving", "import os; print(os.getpid())")
    project.run()
    # the result of a claim that changed since: one number in its row
    path = project.out / "executed/book/part/claim.ipynb"
    path.write_text(path.read_text().replace('"value": 1.5', '"value": 1.6'))
    # the package on the path is not the one in the wheel: the wheel must win
    wheel = build_wheel(tmp_path / "wheel", project.root)
    edit_package(project)
    status = rehearse(
        chapters(project.root), conditions=Conditions(), executed=project.out / "executed", jobs=1, wheel=wheel
    )
    report = capfd.readouterr().out
    assert status == 1
    failed = {line.split("/")[-1].split("::")[0] for line in report.splitlines() if line.startswith("FAILED")}
    assert failed == {"moving.ipynb", "claim.ipynb"}
    assert "2 failed, 2 passed" in report


def test_a_chapter_that_was_not_executed_fails_the_rehearsal(project: Project) -> None:
    project.write("part/new", "1")
    status = rehearse(chapters(project.root), conditions=Conditions(), executed=project.out / "executed")
    assert status == 1


def test_the_origin_check_sees_a_package_from_elsewhere(
    empty_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NNOPT_WHEEL", "/nowhere")
    (cell,) = origin_notebook().cells
    empty_project.write("part/origin", cell.source)
    assert empty_project.run()["part/origin"].status == "executed"
    notebook = nbformat.reads(empty_project.executed("part/origin"), as_version=4)
    assert notebook.cells[-1].outputs[0].data["text/plain"] == "False"
    assert cell.outputs[0].data["text/plain"] == "True"


def test_a_wheel_that_cannot_be_built_says_why(empty_project: Project, tmp_path: Path) -> None:
    (empty_project.root / "pyproject.toml").write_text("[project\n")
    with pytest.raises(RuntimeError, match="the wheel could not be built"):
        build_wheel(tmp_path / "wheel", empty_project.root)


def test_only_a_pure_wheel_is_unpacked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"wheel must be pure Python, got nnopt-1-cp311-cp311-linux\.whl"):
        install_wheel(tmp_path / "nnopt-1-cp311-cp311-linux.whl", tmp_path)
