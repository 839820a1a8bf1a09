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


def chapter(folder: Path, guide: str, name: str = "part/one") -> Chapter:
    path = folder / "book" / f"{name}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(FRONT.replace("GUIDE", guide) + CLAIMS)
    return Chapter(folder, f"book/{name}")


def test_a_chapter_is_listed_for_its_bottlenecks_only(tmp_path: Path) -> None:
    one = chapter(tmp_path, "{for: [too big, too slow], rank: 10, gain: gain, limit: limit}")
    assert guide_faults(one) == []
    assert guide_rows("too big", [one]) == [(one, "part/one#gain", "part/one#limit")]
    assert guide_rows("does not train", [one]) == []


@pytest.mark.parametrize(
    ("guide", "fault"),
    [
        ("{for: [too big], rank: 1, gain: gain}", "must have the keys"),
        ("{for: [too big], gain: gain, limit: limit}", "must have the keys for, rank, gain and limit"),
        ("{for: [too heavy], rank: 1, gain: gain, limit: limit}", "must be a list out of"),
        ("{for: [], rank: 1, gain: gain, limit: limit}", "must be a list out of"),
        ("{for: [too big], rank: 0, gain: gain, limit: limit}", "rank must be a whole number >= 1"),
        ("{for: [too big], rank: first, gain: gain, limit: limit}", "got 'first'"),
        ("{for: [too big], rank: 1, gain: loss, limit: limit}", "gain names no claim"),
        ("{for: [too big], rank: 1, gain: gain, limit: edge}", "limit names no claim"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path: Path, guide: str, fault: str) -> None:
    assert any(fault in found for found in guide_faults(chapter(tmp_path, guide)))


def test_what_to_try_first_comes_first_and_two_chapters_cannot_both(tmp_path: Path) -> None:
    second = chapter(tmp_path, "{for: [too big, too slow], rank: 20, gain: gain, limit: limit}", "part/early")
    first = chapter(tmp_path, "{for: [too big], rank: 3, gain: gain, limit: limit}", "part/late")
    assert [row[0] for row in guide_rows("too big", [second, first])] == [first, second]
    again = chapter(tmp_path, "{for: [too slow], rank: 3, gain: gain, limit: limit}", "part/again")
    assert [row[0] for row in guide_rows("too slow", [second, first, again])] == [again, second]
    rival = chapter(tmp_path, "{for: [too big], rank: 20, gain: gain, limit: limit}", "part/rival")
    with pytest.raises(ValueError, match=r"unique for 'too big', got 20 in part/early and in part/rival"):
        guide_rows("too big", [second, first, rival])


def test_every_bottleneck_of_the_book_has_a_chapter_and_a_place_in_the_guide() -> None:
    page = (ROOT / "book" / "capstones" / "decision_guide.md").read_text(encoding="utf-8")
    for bottleneck in BOTTLENECKS:
        assert guide_rows(bottleneck, chapters(ROOT)), bottleneck
        assert f"```{{nnopt-guide}} {bottleneck}\n" in page
