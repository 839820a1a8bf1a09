"""Pilots, re-runs and the register: what counts as held, and what is never forgotten."""

from pathlib import Path
from typing import Any

import pytest
from pilot import advise, merge_pilots
from register import add_failure, add_pilot, read_register, spent_offsets, write_register
from reseed import draw_offsets, judge, merge_runs, stochastic, verdict

Row = dict[str, Any]
NO_REGISTER: Row = {"claims": {}}


def claim(name: str = "part/one#gain", *, held: bool = True, version: int = 1, **fields: Any) -> Row:
    row = {
        "id": name, "chapter": name.split("#")[0], "kind": "difference", "statement": "It helps.", "held": held,
        "status": "held" if held else "failed", "version": version, "seeds": [0, 1], "timing": False,
        "direction": "above", "scale": "difference", "margin": 0.1, "value": 0.2, "sd": 0.01, "d": 9.0, "n": 16,
    }  # fmt: skip
    return {**row, **fields}


def test_offsets_come_from_the_commit_and_from_nothing_else() -> None:
    first = draw_offsets("a" * 40)
    assert first == draw_offsets("a" * 40) == draw_offsets("a" * 40 + "+")
    assert first != draw_offsets("b" * 40)
    assert len(set(first)) == 3
    assert all(100 <= offset < 1_000_000 for offset in first)
    with pytest.raises(ValueError, match="offsets are drawn from the commit"):
        draw_offsets("unknown")


def test_exact_bounds_and_timings_do_not_count() -> None:
    assert stochastic(claim())
    assert not stochastic(claim(seeds=[]))
    assert not stochastic(claim(timing=True))


def test_a_missing_row_and_a_failed_row_have_not_held() -> None:
    published = [claim(), claim("part/one#other"), claim("part/two#third"), claim("part/two#exact", seeds=[])]
    found = [claim(value=0.3), claim("part/one#other", held=False)]
    rows = judge(published, found, offset=5, errors={}, register=NO_REGISTER)
    assert {row["id"]: row["held"] for row in rows} == {
        "part/one#gain": True, "part/one#other": False, "part/two#third": False,
    }  # fmt: skip
    assert rows[0]["value"] == 0.3
    assert all(row["offset"] == 5 for row in rows)
    assert rows[2]["note"].startswith("no row")


def test_another_error_of_a_chapter_has_not_held_even_if_its_claims_have() -> None:
    rows = judge([claim()], [claim()], offset=5, errors={"part/one": "NameError: x"}, register=NO_REGISTER)
    assert [(row["id"], row["held"]) for row in rows] == [("part/one#gain", True), ("part/one#error", False)]


def test_a_failed_claim_on_which_a_later_cell_stumbles_counts_once() -> None:
    published = [claim(), claim("part/two#third")]
    errors = {"part/one": "NameError: the failed cell did not define it"}
    failed = claim(held=False)
    rows = judge(published, [failed, published[1]], offset=5, errors=errors, register=NO_REGISTER)
    assert [(row["id"], row["held"]) for row in rows] == [("part/one#gain", False), ("part/two#third", True)]
    assert rows[0]["note"] == "and later NameError: the failed cell did not define it"
    # a claim without a row already carries the error
    rows = judge(published, [published[1]], offset=5, errors=errors, register=NO_REGISTER)
    assert [(row["id"], row["held"]) for row in rows] == [("part/one#gain", False), ("part/two#third", True)]
    assert "NameError" in rows[0]["note"]
    # an error of another chapter is one of its own, also where its claims do not count
    rows = judge(published, [failed, published[1]], offset=5, errors={"part/two": "TypeError: x"}, register=NO_REGISTER)
    assert [row["id"] for row in rows if not row["held"]] == ["part/one#gain", "part/two#error"]


def test_an_offset_at_which_an_earlier_version_failed_cannot_judge_the_claim() -> None:
    register = {"claims": {"part/one#gain": {"failures": [{"offset": 5, "version": 1}]}}}
    changed = claim(version=2)
    assert judge([changed], [changed], offset=5, errors={}, register=register) == []
    assert len(judge([changed], [changed], offset=6, errors={}, register=register)) == 1
    # the same version at the same offset has failed, and is judged so again
    assert len(judge([claim()], [claim(held=False)], offset=5, errors={}, register=register)) == 1


def test_the_bar_is_99_percent_and_no_claim_fails_twice() -> None:
    many = [claim(f"part/one#c{i}") for i in range(100)]
    assert verdict(many) == (True, "100 of 100 stochastic claim runs hold")
    assert verdict([*many[1:], claim("part/one#c0", held=False)])[0]
    assert not verdict([*many[2:], claim("part/one#c0", held=False), claim("part/one#c1", held=False)])[0]
    good, words = verdict([*many * 3, *[claim("part/one#bad", held=False)] * 2])
    assert not good
    assert words.endswith("failed more than once: part/one#bad")


def test_a_re_run_without_claims_does_not_pass() -> None:
    assert verdict([]) == (False, "no stochastic claim to re-run")


def test_a_whole_re_run_replaces_the_table_and_a_partial_one_is_merged() -> None:
    known = {"runs": [{"offset": 1, "commit": "a", "claims": {"x": {"held": True}, "y": {"held": True}}}]}
    new = [{"offset": 1, "commit": "b", "claims": {"x": {"held": False}}}]
    assert merge_runs(known, new, whole=True) == {"runs": new}
    merged = merge_runs(known, new, whole=False)
    assert merged["runs"][0]["claims"] == {"x": {"held": False}, "y": {"held": True}}
    assert len(merge_runs(known, [{"offset": 2, "claims": {}}], whole=False)["runs"]) == 2


def test_pilots_are_kept_and_the_same_pilot_is_not_kept_twice(tmp_path: Path) -> None:
    values = [0.2 + 0.001 * i for i in range(16)]
    sets = {0: [claim(values=values)], 1: [claim(values=values[::-1], value=0.21)]}
    register = read_register(tmp_path)
    register["dropped"].append({"id": "part/one#dead", "reason": "nothing to see"})
    lines = merge_pilots(register, sets, date="2026-01-01", at_commit="abc")
    merge_pilots(register, sets, date="2026-01-02", at_commit="def")
    entry = register["claims"]["part/one#gain"]
    assert [pilot["set"] for pilot in entry["pilots"]] == [0, 1]
    assert entry["pilots"][0]["mean"] == 0.2
    assert 0.1 < entry["pilots"][0]["suggested_margin"] < 0.2
    assert "seeds" in entry["pilots"][0]["plan"]
    assert len(lines) == 1
    # other settings are another pilot
    merge_pilots(register, {0: [claim(values=values, version=2)]}, date="2026-01-03", at_commit="def")
    assert [pilot["version"] for pilot in entry["pilots"]] == [1, 1, 2]
    write_register(tmp_path, register)
    assert read_register(tmp_path) == register
    assert register["dropped"] == [{"id": "part/one#dead", "reason": "nothing to see"}]


def test_the_advice_for_a_collapsed_run_says_so_and_other_kinds_need_no_plan() -> None:
    spoiled = [0.2 + 0.001 * i for i in range(15)] + [-40.0]
    margin, words = advise([claim(values=spoiled)])
    assert margin is None
    assert "claim a frequency" in words
    assert advise([claim(kind="bound", values=[])]) == (None, "no plan for a bound: look at the values")


def test_failures_are_kept_once_and_spend_their_offset_for_later_versions_only() -> None:
    register: Row = {"claims": {}}
    for _ in range(2):
        add_failure(register, claim(), {"offset": 9, "version": 1})
    assert len(register["claims"]["part/one#gain"]["failures"]) == 1
    assert spent_offsets(register, claim()) == set()
    assert spent_offsets(register, claim(version=2)) == {9}
    add_pilot(register, claim(version=2), {"set": 0, "version": 2})
    assert register["claims"]["part/one#gain"]["version"] == 2
