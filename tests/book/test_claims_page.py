"""The Claims page: every claim drawn once, on the right side, with its re-runs; nothing breaks when empty."""

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from typing import Any

import pytest
from claims_page import forest, register, rerun_status, table
from forest import forest_svg, standardized

Row = dict[str, Any]


def claim(name: str = "part/one#gain", **fields: Any) -> Row:
    row = {
        "id": name, "chapter": name.split("#")[0], "kind": "difference", "statement": "It is a < b & more.",
        "metric": "accuracy, a − b", "unit": "", "scope": "seeds", "held": True, "status": "held", "version": 1,
        "seeds": [0, 1], "timing": False, "direction": "above", "scale": "difference", "margin": 0.1, "value": 0.3,
        "low": 0.2, "high": 0.4, "n": 8, "d": 4.5, "pilot": None,
        "seen": "0.30 [0.20, 0.40]", "claimed": "above 0.1",
    }  # fmt: skip
    return {**row, **fields}


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def address(row: Mapping[str, Any]) -> str:
    return f"../{row['chapter']}.html#claim"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (claim(), 2.0),
        (claim(direction="below", margin=0.5), 2.0),
        (claim(direction="below"), -2.0),
        (claim(direction="within", margin=0.5, value=-0.1, low=-0.2, high=0.0), 4.0),
        (claim(scale="ratio", margin=1.0, value=math.e, low=1.0, high=math.e**2), 1.0),
        (claim(direction="within", scale="ratio", margin=math.e, value=1.0, low=math.e**-0.5, high=math.e**0.5), 2.0),
        (claim(low=0.3, high=0.3), None),
    ],
)
def test_distance_is_positive_on_the_claimed_side_of_every_direction(row: Row, expected: float | None) -> None:
    found = standardized(row)
    assert found == (expected if expected is None else pytest.approx(expected))


def test_every_claim_is_drawn_once_with_its_link_and_its_re_runs() -> None:
    rows = [claim(), claim("part/two#bad", held=False, status="failed"), claim("part/two#exact", low=0.3, high=0.3)]
    svg = parse(forest_svg(rows, reruns={"part/one#gain": [True, False]}, link=address))
    assert [link.get("href") for link in svg.iter("a")] == [address(row) for row in rows]
    classes = [group.get("class") for group in svg.iter("g")]
    assert classes == [
        "nnopt-held", "nnopt-again nnopt-held", "nnopt-again nnopt-failed", "nnopt-failed", "nnopt-held",
    ]  # fmt: skip
    assert len(list(svg.iter("rect"))) == 1
    assert svg.get("role") == "img"
    assert "3 claims, 2 of which hold" in str(svg.get("aria-label"))


def test_a_value_far_out_is_drawn_inside_the_picture() -> None:
    svg = parse(forest_svg([claim(value=1e6, low=1e6 - 1, high=1e6 + 1)], reruns={}, link=address))
    ends = [float(str(line.get(end))) for line in svg.iter("line") for end in ("x1", "x2")]
    assert max(ends) <= 760
    assert any(path.get("class") == "nnopt-point" for path in svg.iter("path"))


def test_a_re_run_of_another_version_says_nothing_about_this_one() -> None:
    runs = [{"offset": 1, "claims": {"part/one#gain": {"held": False, "version": 1}}}]
    assert rerun_status({"runs": runs}, claim()) == [False]
    assert rerun_status({"runs": runs}, claim(version=2)) == []


def test_a_book_without_claims_register_and_re_runs_says_so() -> None:
    assert "No chapter has published a claim yet." in forest([], {}, address)[0].astext()
    assert table([], {}, address) == []
    assert "Tried: 0. Claimed: 0." in register([], {})[1].astext()
    assert "Not re-run at fresh seeds yet" in forest([claim()], {}, address)[1].astext()


def test_the_page_says_what_kind_of_intervals_it_shows() -> None:
    assert "single 95 % interval" in forest([claim()], {}, address)[1].astext()
    assert "single 95 % intervals" in table([claim()], {}, address)[1].astext()


def test_the_table_has_sentence_interval_pilot_and_re_runs() -> None:
    runs = {"runs": [{"offset": 7, "claims": {"part/one#gain": {"held": True, "version": 1}}}]}
    words = table([claim(pilot={"n": 16, "mean": 0.25, "sd": 0.1})], runs, address)[0].astext()
    for part in ("It is a < b & more.", "0.30 [0.20, 0.40]", "above 0.1", "4.5", "0.25 (n = 16)", "1 of 1 held"):
        assert part in words


def test_the_register_counts_what_was_tried_failed_and_dropped() -> None:
    content = {
        "claims": {
            "part/one#gain": {"statement": "It helps.", "failures": [{"offset": 3, "version": 1}]},
            "part/one#given-up": {"statement": "It would help."},
        },
        "dropped": [{"id": "part/one#dead", "reason": "no effect"}],
        "tuning": [{"experiment": "part/one", "grid": "lr in 1e-3, 1e-2", "chosen": "lr = 1e-2"}],
    }
    nodes = register([claim(version=2)], content)
    words = " ".join(node.astext() for node in nodes)
    assert "Tried: 3. Claimed: 1. Failed at a re-run and changed since: 1. Dropped: 2." in words
    for part in ("version 1 failed at offset 3", "no effect", "piloted, not claimed", "lr in 1e-3, 1e-2"):
        assert part in words
