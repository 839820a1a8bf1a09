"""The landing page says what the build knows, and nothing else."""

from pathlib import Path
from typing import Any

from chapters import ROOT, chapters
from landing import rooms, status_line

ROW: dict[str, Any] = {"id": "a/b#c", "version": 1, "held": True, "status": "held"}


def test_without_re_runs_it_says_so() -> None:
    assert status_line([ROW], {}) == "1 claims · all hold today · not re-run at fresh seeds yet"


def test_a_failure_is_counted_and_a_noisy_machine_is_not_one() -> None:
    rows = [ROW, {**ROW, "id": "a/b#d", "held": False, "status": "failed"}]
    noisy = {**ROW, "id": "a/b#e", "held": False, "status": "inconclusive"}
    assert "2 claims · 1 fail today" in status_line(rows, {})
    assert "all hold today" in status_line([ROW, noisy], {})


def test_re_runs_count_only_the_present_version() -> None:
    runs = [
        {"offset": 5, "claims": {"a/b#c": {"held": True, "version": 1}}},
        {"offset": 9, "claims": {"a/b#c": {"held": False, "version": 1}}},
    ]
    old = {"offset": 7, "claims": {"a/b#c": {"held": False, "version": 0}}}
    assert "re-run at 3 offsets that nobody chose: 1 of 2 came out again" in status_line([ROW], {"runs": [*runs, old]})


def test_the_map_has_every_chapter_in_its_room() -> None:
    found = [name for _, files in rooms(ROOT) for name in files]
    assert {chapter.docname for chapter in chapters()} <= set(found)
    assert len(found) == len(set(found))
    assert "Reference" not in dict(rooms(ROOT))


def test_the_map_follows_the_table_of_contents(tmp_path: Path) -> None:
    toc = (
        "root: intro\nparts:\n- {caption: A, chapters: [{file: x}, {file: y}]}\n- {caption: Reference, chapters: []}\n"
    )
    (tmp_path / "_toc.yml").write_text(toc)
    assert rooms(tmp_path) == [("A", ["x", "y"])]
