"""``make reseed``: run the book at fresh seeds and count which claims come out again."""

import argparse
import datetime
import hashlib
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from cache import dumps
from chapters import ROOT, Chapter, select
from conditions import Conditions, commit, device
from execute import Outcome, check_import, execute, summary
from records import claim_rows, executed_errors, read_json
from register import add_failure, read_register, spent_offsets, write_register

from nnopt.storage import write_atomic

__all__ = ["draw_offsets", "judge", "merge_runs", "stochastic", "verdict"]

BAR = 0.99
Row = dict[str, Any]


def draw_offsets(commit_name: str, number: int = 3) -> list[int]:
    """Draw offsets from a commit's hash, so that nobody chooses them; none is 0 or small like a pilot's.

    Raises:
        ValueError: there is no commit to draw from.
    """
    if commit_name == "unknown":
        raise ValueError("offsets are drawn from the commit, and there is none: say OFFSETS=…")
    drawn: list[int] = []
    counter = 0
    while len(drawn) < number:
        digest = hashlib.sha256(f"{commit_name.removesuffix('+')}:{counter}".encode()).digest()
        offset = 100 + int.from_bytes(digest[:4], "big") % 999_900
        if offset not in drawn:
            drawn.append(offset)
        counter += 1
    return drawn


def stochastic(row: Mapping[str, Any]) -> bool:
    """Tell whether a claim depends on seeds: exact bounds and timings do not count among re-runs."""
    return bool(row["seeds"]) and not row.get("timing", False)


def judge(
    published: Sequence[Row], found: Sequence[Row], *, offset: int, errors: Mapping[str, str], register: Row
) -> list[Row]:
    """Compare one re-run with the published claims.

    Args:
        published: the rows of the book.
        found: the rows at this offset.
        offset: the seed offset.
        errors: chapter -> an error that is not a failed claim.
        register: offsets that an earlier version of a claim has spent do not count for it.

    Returns:
        One row per stochastic claim with ``offset``, ``held`` and ``note``; a claim without a row has not
        held, and a chapter with another error, of whose claims none has failed, adds a row that has not held.
    """
    by_id = {row["id"]: row for row in found}
    judged = []
    for row in published:
        if not stochastic(row) or offset in spent_offsets(register, row):
            continue
        again = by_id.get(row["id"])
        if again is None:
            reason = errors.get(row["chapter"], "the cell did not run to its claim")
            judged.append({**row, "offset": offset, "held": False, "status": "failed", "note": f"no row: {reason}"})
        else:
            judged.append({**again, "offset": offset, "held": bool(again["held"]), "note": ""})
    for chapter, error in errors.items():
        failed = [row for row in judged if row["chapter"] == chapter and not row["held"]]
        for row in failed:
            row["note"] = row["note"] or f"and later {error}"
        if failed:
            # the error is their cause or their consequence: one failure, not two
            continue
        row = {
            "id": f"{chapter}#error",
            "chapter": chapter,
            "version": 1,
            "kind": "error",
            "statement": "The chapter runs.",
        }
        judged.append({**row, "offset": offset, "held": False, "status": "failed", "note": error})
    return judged


def verdict(rows: Sequence[Row]) -> tuple[bool, str]:
    """Return whether the bar is reached, and the result in words: 99 % hold, and no claim fails twice."""
    failures = Counter(row["id"] for row in rows if not row["held"])
    held = sum(bool(row["held"]) for row in rows)
    twice = sorted(name for name, count in failures.items() if count > 1)
    good = bool(rows) and held >= BAR * len(rows) and not twice
    words = f"{held} of {len(rows)} stochastic claim runs hold"
    if twice:
        words += f"; failed more than once: {', '.join(twice)}"
    return good, words if rows else "no stochastic claim to re-run"


def merge_runs(known: Mapping[str, Any], runs: list[Row], *, whole: bool) -> Row:
    """Return the committed table: new runs replace the old, or are merged in when only some chapters ran."""
    if whole:
        return {"runs": runs}
    by_offset = {run["offset"]: dict(run) for run in known.get("runs", [])}
    for run in runs:
        old = by_offset.get(run["offset"], {})
        by_offset[run["offset"]] = {**run, "claims": {**old.get("claims", {}), **run["claims"]}}
    return {"runs": [by_offset[offset] for offset in sorted(by_offset)]}


def rerun(wanted: list[Chapter], offset: int, jobs: int) -> tuple[list[Row], dict[str, str], list[Outcome]]:
    """Execute the chapters at an offset, in a folder of their own; return rows, other errors and outcomes."""
    out = ROOT / "_build" / "reseed" / str(offset)
    conditions = Conditions(offset=offset, device=device())
    outcomes = execute(wanted, conditions=conditions, out=out, jobs=jobs, allow_errors=True, preload=True)
    errors = {o.chapter.name: _last_line(o.error) for o in outcomes if o.status == "failed"}
    names = {chapter.name for chapter in wanted}
    errors.update({chapter: error for chapter, error in executed_errors(out).items() if chapter in names})
    return claim_rows(out, ROOT), errors, outcomes


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else "the kernel died"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--offsets", nargs="*", type=int, default=[], help="default: three drawn from the commit")
    parser.add_argument("--chapters", nargs="*", default=[], help="default: all")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args(arguments)
    now = commit(ROOT)
    try:
        wanted = select(options.chapters)
        offsets = options.offsets or draw_offsets(commit(ROOT, length=40))
        if min(offsets) < 1:
            raise ValueError(f"offsets must be >= 1, got {min(offsets)}: 0 is the published book")
    except ValueError as error:
        print(f"reseed: {error}", file=sys.stderr)
        return 2
    base = Conditions(device=device())
    problem = check_import(base)
    if problem:
        print(f"reseed: nnopt cannot be imported\n{problem}", file=sys.stderr)
        return 1
    build = ROOT / "_build"
    outcomes = execute(
        wanted, conditions=base, out=build, jobs=options.jobs, everything=not options.chapters, preload=True
    )
    if any(outcome.status == "failed" for outcome in outcomes):
        print("reseed: the book itself fails; mend it first", file=sys.stderr)
        return 1
    names = {chapter.name for chapter in wanted}
    published = [row for row in claim_rows(build, ROOT) if row["chapter"] in names]
    register = read_register(ROOT)
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    everything: list[Row] = []
    runs: list[Row] = []
    for offset in offsets:
        found, errors, outcomes = rerun(wanted, offset, options.jobs)
        rows = judge(published, found, offset=offset, errors=errors, register=register)
        everything += rows
        held = {row["id"]: {"held": row["held"], "version": row["version"]} for row in rows}
        runs.append({"offset": offset, "commit": now, "date": date, "claims": held})
        for row in rows:
            if not row["held"]:
                print(f"offset {offset}: {row['id']} did not hold. {row['note']}")
                if row["kind"] != "error":
                    add_failure(register, row, _failure(row, now, date))
        print(f"offset {offset}: {sum(r['held'] for r in rows)} of {len(rows)} hold\n{summary(outcomes)}")
    write_atomic(build / "reseed.json", dumps({"claims": everything}))
    table = merge_runs(read_json(ROOT / "book" / "reseed.json"), runs, whole=not options.chapters)
    write_atomic(ROOT / "book" / "reseed.json", dumps(table))
    if any(not row["held"] and row["kind"] != "error" for row in everything):
        write_register(ROOT, register)
    good, words = verdict(everything)
    print(f"reseed: {words}: {'passed' if good else 'MISSED'}")
    return 0 if good else 1


def _failure(row: Row, now: str, date: str) -> Row:
    facts = {name: row.get(name) for name in ("offset", "version", "margin", "note")}
    # a claim without a row has the published one's numbers, which are not of this offset
    seen = {} if row["note"].startswith("no row") else {name: row.get(name) for name in ("value", "low", "high")}
    return {**facts, **seen, "commit": now, "date": date}


if __name__ == "__main__":
    sys.exit(main())
