"""The decision guide: what to try first for a bottleneck, what it brought, where it stopped, and what it cost."""

from collections.abc import Mapping, Sequence
from typing import Any

from chapters import ROOT, Chapter, chapters
from claims_page import build_table, claim_address
from docutils import nodes
from records import read_json
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

__all__ = ["GuideDirective", "GuidePlace", "fill_guide", "guide_faults", "guide_rows"]

LOGGER = logging.getLogger(__name__)
BOTTLENECKS = ("does not train", "too little data", "too big", "too slow", "several machines", "cannot tell")
COSTS = (("parameters", "parameters"), ("file_bytes", "bytes"), ("macs", "MACs"))


class GuidePlace(nodes.General, nodes.Element):  # type: ignore[misc]
    """Stands where the table of a bottleneck will be."""


class GuideDirective(SphinxDirective):
    """``{nnopt-guide}`` with a bottleneck: the chapters whose front matter says they are for it, by their rank."""

    has_content = False
    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        if self.arguments[0] not in BOTTLENECKS:
            raise self.error(f"the bottleneck must be one of {', '.join(BOTTLENECKS)}, got {self.arguments[0]!r}")
        self.env.metadata[self.env.docname]["nnopt_claims"] = True
        return [GuidePlace(bottleneck=self.arguments[0], line=self.lineno)]


def guide_faults(chapter: Chapter) -> list[str]:
    """Say what is wrong with the entry ``guide`` of a chapter's front matter."""
    entry = chapter.options.get("guide")
    if entry is None:
        return []
    if not isinstance(entry, Mapping) or set(entry) != {"for", "rank", "gain", "limit"}:
        return ["guide must have the keys for, rank, gain and limit"]
    faults = []
    if type(entry["rank"]) is not int or entry["rank"] < 1:
        faults.append(f"guide: rank must be a whole number >= 1, the lowest is tried first, got {entry['rank']!r}")
    wrong = [name for name in entry["for"] if name not in BOTTLENECKS]
    if wrong or not entry["for"]:
        faults.append(f"guide: for must be a list out of {', '.join(BOTTLENECKS)}")
    for key in ("gain", "limit"):
        if f'"{chapter.name}#{entry[key]}"' not in chapter.text:
            faults.append(f"guide: {key} names no claim of the chapter: {entry[key]}")
    return faults


def guide_rows(bottleneck: str, found: Sequence[Chapter]) -> list[tuple[Chapter, str, str]]:
    """Return chapter, id of what it gained and id of where it stopped, for each chapter of a bottleneck, by rank.

    Raises:
        ValueError: two chapters of the bottleneck have one rank.
    """
    by_rank: dict[int, tuple[Chapter, str, str]] = {}
    for chapter in found:
        entry = chapter.options.get("guide", {})
        if bottleneck in entry.get("for", ()):
            row = chapter, f"{chapter.name}#{entry['gain']}", f"{chapter.name}#{entry['limit']}"
            other = by_rank.setdefault(entry["rank"], row)[0]
            if other is not chapter:
                raise ValueError(
                    f"guide: rank must be unique for {bottleneck!r}, got {entry['rank']} in {other.name} "
                    f"and in {chapter.name}"
                )
    return [by_rank[rank] for rank in sorted(by_rank)]


def fill_guide(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Replace the placeholders of one page with what today's build knows."""
    places = list(doctree.findall(GuidePlace))
    if not places:
        return
    claims = {row["id"]: row for row in read_json(ROOT / "_build" / "claims.json").get("claims", [])}
    costs = read_json(ROOT / "_build" / "costs.json").get("costs", [])
    found = chapters(ROOT)
    for place in places:
        body: list[list[str | nodes.Node]] = []
        for number, (chapter, gain, limit) in enumerate(guide_rows(place["bottleneck"], found), start=1):
            for name in (gain, limit):
                if name not in claims:
                    LOGGER.warning("no claim is called %r", name, location=(docname, place["line"]))
            page = app.builder.get_relative_uri(docname, chapter.docname)
            title = str(app.env.titles[chapter.docname].astext()).split(":")[0]
            link = nodes.paragraph("", f"{number}. ", nodes.reference("", title, internal=True, refuri=page))
            seen = [_claim(app, docname, claims[name]) if name in claims else "–" for name in (gain, limit)]
            body.append([link, *seen, _costs([row for row in costs if row["chapter"] == chapter.name])])
        if not body:
            LOGGER.warning("no chapter is for %r", place["bottleneck"], location=(docname, place["line"]))
            place.replace_self([])
            continue
        header = ["Try", "What it brought here", "Where it stopped here", "Cost"]
        place.replace_self(nodes.container("", build_table(header, body), classes=["nnopt-scroll", "nnopt-guide"]))


def _claim(app: Sphinx, docname: str, row: Mapping[str, Any]) -> nodes.Node:
    sentence = nodes.paragraph()
    address = claim_address(app, docname, row)
    sentence += nodes.reference("", str(row["statement"]), internal=True, refuri=address)
    number = nodes.paragraph("", f"{row['metric']}: {row['seen']}", classes=["nnopt-caption"])
    return nodes.container("", sentence, number)


def _costs(rows: Sequence[Mapping[str, Any]]) -> nodes.Node:
    """Write the chapter's first and last measured model, which is before and after where there are two."""
    shown = [rows[0], rows[-1]] if len(rows) > 1 else list(rows)
    lines = []
    for row in shown:
        numbers = ", ".join(f"{row[key]:,} {unit}" for key, unit in COSTS if row.get(key) is not None)
        lines.append(nodes.paragraph("", f"{row['model']}: {numbers}", classes=["nnopt-caption"]))
    return nodes.container("", *lines) if lines else nodes.paragraph("", "in the chapter", classes=["nnopt-caption"])
