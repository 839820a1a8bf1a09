"""The register: every pilot, tuning grid, failure and dropped experiment, committed as ``book/register.json``.

``make pilot`` and ``make reseed`` add to it; ``tuning``, ``dropped`` and any other field are written by hand and
kept.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cache import dumps
from records import read_json

from nnopt.storage import write_atomic

__all__ = ["add_failure", "add_pilot", "read_register", "spent_offsets", "write_register"]


def read_register(root: Path) -> dict[str, Any]:
    """Return the register with its three sections, however little the file holds."""
    content = read_json(root / "book" / "register.json")
    return {"claims": {}, "dropped": [], "tuning": [], **content}


def write_register(root: Path, content: Mapping[str, Any]) -> None:
    """Write the register, whole or not at all."""
    write_atomic(root / "book" / "register.json", dumps(content))


def add_pilot(register: dict[str, Any], row: Mapping[str, Any], pilot: Mapping[str, Any]) -> None:
    """Add one pilot set of a claim; the same numbers again change nothing."""
    entry = _entry(register, row)
    pilots = entry.setdefault("pilots", [])
    facts = ("set", "version", "n", "mean", "sd", "margin")
    for position, known in enumerate(pilots):
        if all(known.get(name) == pilot.get(name) for name in facts):
            pilots[position] = {**known, **pilot}
            return
    pilots.append(dict(pilot))


def add_failure(register: dict[str, Any], row: Mapping[str, Any], failure: Mapping[str, Any]) -> None:
    """Note that a claim did not hold at an offset, which is thereby spent for it."""
    failures = _entry(register, row).setdefault("failures", [])
    facts = ("offset", "version")
    if not any(all(known.get(name) == failure.get(name) for name in facts) for known in failures):
        failures.append(dict(failure))


def spent_offsets(register: Mapping[str, Any], row: Mapping[str, Any]) -> set[int]:
    """Return the offsets at which an earlier version of the claim failed: they cannot judge this one."""
    failures = register["claims"].get(row["id"], {}).get("failures", [])
    return {int(failure["offset"]) for failure in failures if failure.get("version") != row["version"]}


def _entry(register: dict[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = register["claims"].setdefault(row["id"], {})
    entry.update({name: row[name] for name in ("kind", "statement", "version")})
    return entry
