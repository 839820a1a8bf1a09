"""The decision guide: built from what the chapters say of themselves and what the build has seen."""

from pathlib import Path

import pytest
from chapters import ROOT, Chapter, chapters
from guide import BOTTLENECKS, guide_faults, guide_rows

FRONT = """---
jupytext: {text_representation: {format_name: myst}}
kernelspec: {name: python3}
nnopt: {guide: GUIDE}
---
"""
CLAIMS = 'claims.bound("part/one#gain")\nclaims.bound("part/one#limit")\n'


def chapter(folder: Path, guide: str) -> Chapter:
    path = folder / "book" / "part" / "one.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(FRONT.replace("GUIDE", guide) + CLAIMS)
    return Chapter(folder, "book/part/one")


def test_a_chapter_is_listed_for_its_bottlenecks_only(tmp_path: Path) -> None:
    one = chapter(tmp_path, "{for: [too big, too slow], gain: gain, limit: limit}")
    assert guide_faults(one) == []
    assert guide_rows("too big", [one]) == [(one, "part/one#gain", "part/one#limit")]
    assert guide_rows("does not train", [one]) == []


@pytest.mark.parametrize(
    ("guide", "fault"),
    [
        ("{for: [too big], gain: gain}", "must have the keys"),
        ("{for: [too heavy], gain: gain, limit: limit}", "must be a list out of"),
        ("{for: [], gain: gain, limit: limit}", "must be a list out of"),
        ("{for: [too big], gain: loss, limit: limit}", "gain names no claim"),
        ("{for: [too big], gain: gain, limit: edge}", "limit names no claim"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path: Path, guide: str, fault: str) -> None:
    assert any(fault in found for found in guide_faults(chapter(tmp_path, guide)))


def test_every_bottleneck_of_the_book_has_a_chapter_and_a_place_in_the_guide() -> None:
    page = (ROOT / "book" / "capstones" / "decision_guide.md").read_text(encoding="utf-8")
    for bottleneck in BOTTLENECKS:
        assert guide_rows(bottleneck, chapters(ROOT)), bottleneck
        assert f"```{{nnopt-guide}} {bottleneck}\n" in page
