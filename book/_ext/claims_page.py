"""The Claims page: the whole book as one forest plot and one table, and what was tried and did not hold."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from chapters import ROOT, docnames
from docutils import nodes
from forest import forest_svg
from records import read_json
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

__all__ = ["ClaimsDirective", "ClaimsPlace", "ForestDirective", "fill_claims", "old_claims_pages", "rerun_status"]

Row = Mapping[str, Any]


class ClaimsPlace(nodes.General, nodes.Element):  # type: ignore[misc]
    """Stands where plot and table will be; filled whenever a page is written."""


class ClaimsDirective(SphinxDirective):
    """``{nnopt-claims}``: forest plot, table and the register of what was tried."""

    has_content = False
    option_spec: ClassVar[dict[str, Any]] = {}
    parts: ClassVar[tuple[str, ...]] = ("forest", "table", "register")

    def run(self) -> list[nodes.Node]:
        self.env.metadata[self.env.docname]["nnopt_claims"] = True
        return [ClaimsPlace(parts=self.parts)]


class ForestDirective(ClaimsDirective):
    """``{nnopt-forest}``: the forest plot alone."""

    parts = ("forest",)


def old_claims_pages(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Return the pages with claims of other pages: they are written at every build."""
    return [docname for docname, metadata in env.metadata.items() if metadata.get("nnopt_claims")]


def claim_address(app: Sphinx, docname: str, row: Row) -> str:
    """Return where a claim stands, seen from a page."""
    page = app.builder.get_relative_uri(docname, f"book/{row['chapter']}")
    return f"{page}#claim-{str(row['id']).partition('#')[2]}"


def fill_claims(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Replace the placeholders of one page."""
    for node in list(doctree.findall(ClaimsPlace)):
        rows = book_order(read_json(ROOT / "_build" / "claims.json").get("claims", []))
        reseed = read_json(ROOT / "book" / "reseed.json")
        address = functools.partial(claim_address, app, docname)
        filled: list[nodes.Node] = []
        if "forest" in node["parts"]:
            filled += forest(rows, reseed, address)
        if "table" in node["parts"]:
            filled += table(rows, reseed, address)
        if "register" in node["parts"]:
            filled += register(rows, read_json(ROOT / "book" / "register.json"))
        node.replace_self(filled)


def book_order(rows: Iterable[Row]) -> list[Row]:
    """Sort claims by the place of their chapter in the book."""
    places = {name.removeprefix("book/"): place for place, name in enumerate(docnames(ROOT))}
    return sorted(rows, key=lambda row: places.get(str(row["chapter"]), len(places)))


def rerun_status(reseed: Mapping[str, Any], row: Row) -> list[bool]:
    """Return whether a claim held at each re-run of its present version."""
    return [
        bool(run["claims"][row["id"]]["held"])
        for run in reseed.get("runs", [])
        if run.get("claims", {}).get(row["id"], {}).get("version") == row["version"]
    ]


def forest(rows: Sequence[Row], reseed: Mapping[str, Any], address: Any) -> list[nodes.Node]:
    if not rows:
        return [_paragraph("No chapter has published a claim yet.")]
    svg = forest_svg(rows, reruns={str(row["id"]): rerun_status(reseed, row) for row in rows}, link=address)
    held = sum(bool(row["held"]) for row in rows)
    unsure = sum(row["status"] == "inconclusive" for row in rows)
    runs = [
        f"offset {run['offset']} at commit {run.get('commit', 'unknown')} on {run.get('date', 'an unknown date')}"
        for run in reseed.get("runs", [])
    ]
    words = (
        f"{held} of {len(rows)} claims hold"
        + (f", {unsure} inconclusive on this machine" if unsure else "")
        + ". Each line is a single 95 % interval, standardized so that the dashed line is the claim's own margin "
        "and the interval reaches from −1 to +1 around its point; squares are exact results. "
        + ("Re-runs at fresh seeds: " + "; ".join(runs) + "." if runs else "Not re-run at fresh seeds yet.")
    )
    plot = nodes.raw("", f'<div class="nnopt-scroll">{svg}</div>', format="html")
    return [plot, _paragraph(words, "nnopt-caption")]


def table(rows: Sequence[Row], reseed: Mapping[str, Any], address: Any) -> list[nodes.Node]:
    if not rows:
        return []
    header = ["Claim", "Seen [95 % interval]", "Claimed", "n", "Re-runs"]
    body = []
    for row in rows:
        sentence = nodes.paragraph()
        sentence += nodes.reference("", str(row["statement"]), internal=True, refuri=address(row))
        claim = nodes.container("", sentence, _paragraph(f"{row['metric']}; {row['scope']}", "nnopt-caption"))
        pilot = row.get("pilot") or {}
        aside = [f"d = {row['d']:.1f}"] if row["d"] is not None else []
        if pilot.get("mean") is not None:
            aside.append(f"pilot {pilot['mean']:.3g} (n = {pilot['n']})")
        seen = _paragraph(f"{row['seen']} ({row['status']})")
        again = rerun_status(reseed, row)
        body.append(
            [
                claim,
                nodes.container("", seen, _paragraph(", ".join(aside), "nnopt-caption")) if aside else seen,
                str(row["claimed"]),
                str(row["n"]) if row["n"] else "exact",
                f"{sum(again)} of {len(again)} held" if again else ("exact" if _exact(row) else "–"),
            ]
        )
    note = _paragraph(
        "d is the distance from the value to the margin in standard errors of the paired mean. The intervals are "
        "single 95 % intervals: among many, some miss their true value. That is what re-runs at fresh seeds are for."
    )
    return [nodes.container("", build_table(header, body), classes=["nnopt-scroll"]), note]


def register(rows: Sequence[Row], content: Mapping[str, Any]) -> list[nodes.Node]:
    """Say what was tried, claimed, and what failed or was dropped."""
    tried = content.get("claims", {})
    dropped = content.get("dropped", [])
    claimed = {str(row["id"]) for row in rows}
    failures = [(name, fault) for name, entry in sorted(tried.items()) for fault in entry.get("failures", [])]
    every = set(tried) | claimed
    result: list[nodes.Node] = [
        nodes.rubric("", "Tried and not held"),
        _paragraph(
            f"Tried: {len(every) + len(dropped)}. Claimed: {len(claimed)}. "
            f"Failed at a re-run and changed since: {len({name for name, _ in failures})}. "
            f"Dropped: {len(dropped) + len(set(tried) - claimed)}."
        ),
    ]
    body: list[list[str | nodes.Node]] = [
        [
            name,
            f"version {fault.get('version', '?')} failed at offset {fault.get('offset', '?')}",
            str(fault.get("note", "")),
        ]
        for name, fault in failures
    ]
    body += [
        [str(item.get("id", "")), "dropped", str(item.get("reason", item.get("statement", "")))] for item in dropped
    ]
    body += [
        [name, "piloted, not claimed", str(tried[name].get("statement", ""))] for name in sorted(set(tried) - claimed)
    ]
    if body:
        listing = build_table(["Claim", "What happened", "Why, or what was said"], body)
        result.append(nodes.container("", listing, classes=["nnopt-scroll"]))
    tuning = content.get("tuning", [])
    if tuning:
        result.append(_paragraph("Tuned on seeds of their own, on validation data, with these grids:"))
        rows_of_grids: list[list[str | nodes.Node]] = [
            [str(item.get("experiment", "")), str(item.get("grid", "")), str(item.get("chosen", ""))] for item in tuning
        ]
        listing = build_table(["Experiment", "Grid", "Chosen"], rows_of_grids)
        result.append(nodes.container("", listing, classes=["nnopt-scroll"]))
    return result


def build_table(header: Sequence[str], body: Sequence[Sequence[str | nodes.Node]]) -> nodes.table:
    group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in header), cols=len(header))
    group += nodes.thead("", _table_row(header))
    group += nodes.tbody("", *(_table_row(cells) for cells in body))
    return nodes.table("", group, classes=["nnopt-table"])


def _table_row(cells: Sequence[str | nodes.Node]) -> nodes.row:
    return nodes.row(
        "", *(nodes.entry("", nodes.paragraph("", cell) if isinstance(cell, str) else cell) for cell in cells)
    )


def _paragraph(text: str, *classes: str) -> nodes.paragraph:
    return nodes.paragraph("", text, classes=list(classes))


def _exact(row: Row) -> bool:
    return not row["seeds"] and not row.get("timing")
