"""``make pilot CHAPTER=…``: run a chapter on pilot seeds, twice, and write what they carry into the register."""

import argparse
import datetime
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chapters import ROOT, select
from conditions import Conditions, commit, device
from execute import check_import, execute
from records import claim_rows, executed_errors
from register import add_pilot, read_register, write_register

from nnopt.measurement import claims

__all__ = ["advise", "merge_pilots"]

SETS = (0, 1)


def advise(rows: list[Mapping[str, Any]]) -> tuple[float | None, str]:
    """Return the margin that the pilot sets of one claim carry, and the advice in words."""
    first = rows[0]
    if first["kind"] not in ("difference", "equivalence") or first.get("timing"):
        return None, f"no plan for a {'timing' if first.get('timing') else first['kind']}: look at the values"
    values = [row["values"] for row in rows]
    try:
        plan = claims.plan(
            values[0],
            values[1] if len(values) > 1 else None,
            margin=first["margin"],
            direction=first["direction"],
            scale=first["scale"],
        )
    except ValueError as error:
        return None, str(error)
    return plan.margin, plan.advice


def merge_pilots(
    register: dict[str, Any], sets: Mapping[int, list[dict[str, Any]]], *, date: str, at_commit: str
) -> list[str]:
    """Put the rows of all pilot sets into the register; return one line per claim."""
    lines = []
    names = dict.fromkeys(row["id"] for rows in sets.values() for row in rows)
    for name in names:
        found = {number: row for number, rows in sets.items() for row in rows if row["id"] == name}
        margin, advice = advise(list(found.values()))
        for number, row in found.items():
            pilot = {
                "set": number,
                "version": row["version"],
                "scale": row["scale"],
                "n": row["n"],
                "mean": row["value"],
                "sd": row["sd"],
                "margin": row["margin"],
                "d": row["d"],
                "suggested_margin": margin,
                "plan": advice,
                "date": date,
                "commit": at_commit,
            }
            add_pilot(register, row, pilot)
        means = ", ".join(f"{row['value']:.4g} (n = {row['n']})" for row in found.values())
        lines.append(f"{name}: pilot {means}; {advice}")
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("chapters", nargs="+")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args(arguments)
    try:
        wanted = select(options.chapters)
    except ValueError as error:
        print(f"pilot: {error}", file=sys.stderr)
        return 2
    sets: dict[int, list[dict[str, Any]]] = {}
    errors: list[str] = []
    for number in SETS:
        conditions = Conditions(offset=number, stream="pilot", device=device())
        problem = check_import(conditions)
        if problem:
            print(f"pilot: nnopt cannot be imported\n{problem}", file=sys.stderr)
            return 1
        out: Path = ROOT / "_build" / "pilot" / str(number)
        outcomes = execute(wanted, conditions=conditions, out=out, jobs=options.jobs, allow_errors=True, preload=True)
        errors += [f"{o.chapter.name}, set {number}: {o.error}" for o in outcomes if o.error]
        errors += [f"{name}, set {number}: {error}" for name, error in executed_errors(out).items()]
        # what is exact has no pilot
        sets[number] = [row for row in claim_rows(out, ROOT) if row["seeds"]]
    register = read_register(ROOT)
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    lines = merge_pilots(register, sets, date=date, at_commit=commit(ROOT))
    write_register(ROOT, register)
    print("\n".join([*lines, *errors]))
    print(f"pilot: {len(lines)} claims, {len(SETS)} sets of seeds, written to book/register.json")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
