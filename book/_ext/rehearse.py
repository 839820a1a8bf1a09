"""Run every chapter a second time, against the built wheel, in an empty folder, and compare the outputs.

One pass does three things: nbval compares each output with the executor's (reproducibility), the kernels
import ``nnopt`` from the wheel (what is missing in the package shows), and the folder holds nothing but the
notebook (as in Colab).
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import nbformat
from chapters import ROOT, Chapter, select
from conditions import Conditions, published
from execute import kernels
from nbformat.v4 import new_code_cell, new_notebook, new_output

from nnopt.storage import write_atomic

__all__ = ["build_wheel", "install_wheel", "origin_notebook", "rehearse"]

SOURCES = ("pyproject.toml", "README.md", "LICENSE", "nnopt")


def build_wheel(folder: Path, root: Path = ROOT) -> Path:
    """Build the wheel of ``nnopt`` from a copy of its sources, with the setuptools of this environment.

    A copy, because setuptools leaves ``build/`` behind and would pack modules from there that are gone.

    Raises:
        RuntimeError: the build failed; the message has its output.
    """
    copy = folder / "source"
    copy.mkdir(parents=True)
    for name in SOURCES:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / name)
    code = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    result = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=copy, capture_output=True, text=True, check=False
    )
    wheels = list(folder.glob("*.whl"))
    if result.returncode or len(wheels) != 1:
        raise RuntimeError(f"the wheel could not be built\n{result.stdout}{result.stderr}")
    return wheels[0]


def install_wheel(wheel: Path, target: Path) -> None:
    """Install a pure Python wheel into a folder: that is what its format means by installing.

    Raises:
        ValueError: the wheel is not pure, so that unpacking would not be enough.
    """
    if not wheel.name.endswith("-none-any.whl"):
        raise ValueError(f"wheel must be pure Python, got {wheel.name}")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)


def origin_notebook() -> nbformat.NotebookNode:
    """Return a notebook that passes nbval only where ``nnopt`` comes from the wheel."""
    source = (
        'import os, pathlib, nnopt\npathlib.Path(nnopt.__file__).resolve().is_relative_to(os.environ["NNOPT_WHEEL"])'
    )
    cell = new_code_cell(source, execution_count=1)
    cell.outputs = [new_output("execute_result", data={"text/plain": "True"}, execution_count=1)]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook: nbformat.NotebookNode = new_notebook(cells=[cell], metadata={"kernelspec": kernel})
    return notebook


def rehearse(
    wanted: list[Chapter],
    *,
    conditions: Conditions,
    executed: Path,
    jobs: int = 2,
    wheel: Path | None = None,
    preload: bool = False,
) -> int:
    """Run nbval over the executed chapters against the wheel; return its exit status.

    Args:
        wanted: the chapters.
        conditions: seeds, device and threads of the executor's run.
        executed: folder of the executed notebooks.
        jobs: chapters at a time; those marked ``alone`` follow one by one.
        wheel: a wheel that is already built.
        preload: fork the kernels from a process that has loaded the libraries, where that is possible.
    """
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as name:
        folder = Path(name).resolve()
        target, notebooks = folder / "installed", folder / "notebooks"
        (folder / "wheel").mkdir()
        install_wheel(wheel or build_wheel(folder / "wheel", wanted[0].root), target)
        environment = {**conditions.environment(), "PYTHONPATH": str(target), "NNOPT_WHEEL": str(target)}
        environment.pop("PYTEST_ADDOPTS", None)
        write_atomic(folder / "pytest.ini", b"[pytest]\naddopts = -ra -p no:cacheprovider\n")
        nbformat.write(origin_notebook(), _parent(notebooks / "together" / "wheel.ipynb"))
        for chapter in wanted:
            source = executed / f"{chapter.docname}.ipynb"
            if not source.is_file():
                print(f"rehearse: {chapter.name} was not executed", file=sys.stderr)
                return 1
            kind = "alone" if chapter.alone else "together"
            # a folder of its own: nbval runs a notebook where it lies
            shutil.copy(source, _parent(notebooks / kind / chapter.name / source.name))
        status = 0
        parallel = ["-n", str(jobs), "--dist", "loadfile"] if jobs > 1 else []
        with kernels(conditions, environment, preload=preload):
            environment["JUPYTER_PATH"] = os.environ.get("JUPYTER_PATH", "")
            for kind, workers in (("alone", []), ("together", parallel)):
                if (notebooks / kind).is_dir():
                    command = [sys.executable, "-m", "pytest", "--nbval", *workers, f"notebooks/{kind}"]
                    status = subprocess.run(command, cwd=folder, env=environment, check=False).returncode or status
        return status


def _parent(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--chapters", nargs="*", default=[], help="default: all")
    options = parser.parse_args(arguments)
    try:
        conditions = published()
        wanted = select(options.chapters)
    except ValueError as error:
        print(f"rehearse: {error}", file=sys.stderr)
        return 2
    if conditions.device != "cpu":
        print("rehearse: GPU kernels need not be bit-stable, outputs are compared on the CPU only")
        return 0
    executed = ROOT / "_build" / "executed"
    return rehearse(wanted, conditions=conditions, executed=executed, jobs=options.jobs, preload=True)


if __name__ == "__main__":
    sys.exit(main())
