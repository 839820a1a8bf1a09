"""The code of chapters is checked like any other code, and faults are reported at the lines of the Markdown."""

import re

import pytest
from lint import lint_chapters

from .conftest import Project


def test_clean_chapters_pass(empty_project: Project) -> None:
    empty_project.write("part/clean", "import math\n\nvalue = math.pi", "value")
    assert lint_chapters(empty_project.root, types=False) == (0, "All checks passed!\n")


def test_a_fault_is_reported_at_the_line_of_the_markdown(empty_project: Project) -> None:
    path = empty_project.write("part/faulty", "a = 1", "print(undefined_name)")
    line = path.read_text().splitlines().index("print(undefined_name)") + 1
    status, report = lint_chapters(empty_project.root, types=False)
    assert status == 1
    assert re.search(rf"F821.*`undefined_name`\s+--> book/part/faulty\.md:{line}:7", report)


def test_a_type_error_between_two_cells_is_seen(empty_project: Project) -> None:
    empty_project.write("part/typed", "def double(x: int) -> int:\n    return 2 * x", "double('two')")
    status, report = lint_chapters(empty_project.root)
    assert status == 1
    assert "book/part/typed.md:" in report
    assert 'Argument 1 to "double" has incompatible type "str"' in report


def test_a_module_that_a_chapter_writes_is_checked_and_imported(empty_project: Project) -> None:
    module = "%%writefile own.py\ndef double(x: int) -> int:\n    return 2 * x"
    path = empty_project.write("part/writes", module, "import own", "own.double('two')")
    line = path.read_text().splitlines().index("own.double('two')") + 1
    status, report = lint_chapters(empty_project.root)
    assert status == 1
    assert f'book/part/writes.md:{line}: error: Argument 1 to "double"' in report
    path.write_text(path.read_text().replace("return 2 * x", "return missing"))
    line = path.read_text().splitlines().index("    return missing") + 1
    status, report = lint_chapters(empty_project.root, types=False)
    assert status == 1
    assert re.search(rf"F821.*`missing`\s+--> book/part/writes\.md:{line}:12", report)


def test_two_chapters_cannot_write_one_module(empty_project: Project) -> None:
    for name in ("part/one", "part/two"):
        empty_project.write(name, "%%writefile own.py\nvalue = 1")
    with pytest.raises(ValueError, match=r"part/two writes own\.py, as another chapter does"):
        lint_chapters(empty_project.root, types=False)


def test_a_book_without_chapters_does_not_pass(empty_project: Project) -> None:
    empty_project.list_pages()
    assert lint_chapters(empty_project.root) == (1, "no chapters found\n")
