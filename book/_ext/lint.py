"""``make check``: ruff and mypy over the package, the tests, the tools and the code of every chapter."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from chapters import ROOT, chapters, write_code

__all__ = ["lint_chapters", "main"]

SOURCES = ("nnopt", "tests", "book/_ext", "benchmarks")
# in a chapter imports may stand below the top, and a cell's last expression is its output
CHAPTER_RULES = ["--select", "E,F,I,B,UP", "--ignore", "E402,B018,I001"]


def run(*arguments: str, root: Path, **variables: str) -> tuple[int, str]:
    """Run a tool of this environment, never one that happens to be on ``PATH``."""
    result = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=root,
        check=False,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return result.returncode, result.stdout


def lint_chapters(root: Path = ROOT, *, types: bool = True) -> tuple[int, str]:
    """Check the code of all chapters, reported at the lines of their Markdown; return status and report.

    Args:
        root: the repository.
        types: run mypy too, which has to import torch's types.
    """
    folder = root / "_build" / "code"
    shutil.rmtree(folder, ignore_errors=True)
    paths = write_code(folder, root)
    if not paths:
        return 1, "no chapters found\n"
    names = [str(path.relative_to(root)) for path in paths]
    configuration = ["--config", str(ROOT / "pyproject.toml")]
    excluding = ["--no-respect-gitignore", "--config", "extend-exclude=[]", "--exclude", "nothing"]
    status, report = run("ruff", "check", *configuration, *excluding, *CHAPTER_RULES, *names, root=root)
    shown = run("ruff", "check", *configuration, *excluding, "--show-files", *names, root=root)[1]
    if len(shown.split()) != len(paths):
        return 1, f"ruff saw {len(shown.split())} of {len(paths)} chapters\n{report}"
    if types:
        type_status, type_report = run(
            "mypy",
            "--config-file",
            str(ROOT / "pyproject.toml"),
            "--cache-dir",
            str(ROOT / ".mypy_cache"),
            *names,
            root=root,
            MYPYPATH=os.pathsep.join([str(folder), str(ROOT / "book" / "_ext")]),
        )
        seen = re.search(r"checked (\d+) source files?|in (?:no issues found in )?(\d+) source files?", type_report)
        if type_status == 0 and (seen is None or int(seen[1] or seen[2]) != len(paths)):
            return 1, f"mypy did not see all {len(paths)} chapters\n{type_report}"
        status, report = status or type_status, report + type_report
    # name the file that has to be mended
    report = report.replace(str(Path("_build", "code")) + os.sep, "book" + os.sep)
    for chapter in chapters(root):
        for name in {cell.file for cell in chapter.code_cells if cell.file}:
            report = report.replace(f"book/{name}:", f"{chapter.docname}.md:")
    return status, re.sub(r"(book/[\w/]+)\.py:", r"\1.md:", report)


def main() -> int:
    """Run everything, print what was found, return 1 if anything was."""
    present = [name for name in SOURCES if any((ROOT / name).rglob("*.py"))]
    failed = []
    for title, arguments in (
        ("ruff check", ["ruff", "check", *present]),
        ("ruff format", ["ruff", "format", "--check", *present]),
        ("mypy", ["mypy", *present]),
    ):
        status, report = run(*arguments, root=ROOT)
        print(f"== {title}\n{report.rstrip()}", flush=True)
        if status:
            failed.append(title)
    status, report = lint_chapters()
    print(f"== code of the chapters\n{report.rstrip()}", flush=True)
    if status:
        failed.append("code of the chapters")
    quick = [f"tests/{name}.py" for name in ("test_architecture", "test_structure", "test_chapters", "test_tests")]
    quick = [name for name in quick if (ROOT / name).is_file()]
    if quick:
        status, report = run("pytest", "-q", *quick, root=ROOT)
        print(f"== structure\n{report.rstrip()}", flush=True)
        if status:
            failed.append("structure")
    print(f"check: failed: {', '.join(failed)}" if failed else "check: passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
