"""Numbers of other pages on a page without code: the book's state in one line, and the value of a claim."""

from pathlib import Path
from typing import Any, ClassVar

import yaml
from chapters import ROOT
from claims_page import rerun_status
from docutils import nodes
from records import read_json
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

__all__ = [
    "MeasuredPlace",
    "MeasuredRole",
    "RoomsDirective",
    "RoomsPlace",
    "StatusDirective",
    "StatusPlace",
    "fill_landing",
    "rooms",
    "status_line",
]

LOGGER = logging.getLogger(__name__)


class MeasuredPlace(nodes.Inline, nodes.Element):  # type: ignore[misc]
    """Stands where the value of a claim will be."""


class StatusPlace(nodes.General, nodes.Element):  # type: ignore[misc]
    """Stands where the state of the book will be."""


class RoomsPlace(nodes.General, nodes.Element):  # type: ignore[misc]
    """Stands where the map of the book will be."""


class MeasuredRole(SphinxRole):
    """``{measured}`` with ``chapter#claim`` and, after a colon, a format: the claim's value at this build."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        self.env.metadata[self.env.docname]["nnopt_claims"] = True
        name, _, form = self.text.partition(":")
        return [MeasuredPlace(claim=name, form=form, line=self.lineno)], []


class StatusDirective(SphinxDirective):
    """``{nnopt-status}``: how many claims there are, how often they were re-run, and what failed."""

    has_content = False
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        self.env.metadata[self.env.docname]["nnopt_claims"] = True
        return [StatusPlace()]


class RoomsDirective(SphinxDirective):
    """``{nnopt-rooms}``: every part of the book with its chapters, from the table of contents."""

    has_content = False
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        self.env.metadata[self.env.docname]["nnopt_claims"] = True
        return [RoomsPlace()]


def rooms(root: Path) -> list[tuple[str, list[str]]]:
    """Return each part that has chapters, with their pages, in reading order."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    parts = [(part["caption"], [entry["file"] for entry in part["chapters"]]) for part in toc["parts"]]
    return [(caption, files) for caption, files in parts if caption != "Reference"]


def status_line(rows: list[dict[str, Any]], reseed: dict[str, Any]) -> str:
    """Say in one line what the build knows about the book's claims."""
    again = [held for row in rows for held in rerun_status(reseed, row)]
    offsets = len(reseed.get("runs", []))
    failed = sum(not row["held"] for row in rows if row["status"] != "inconclusive")
    parts = [f"{len(rows)} claims", f"{failed} fail today" if failed else "all hold today"]
    if offsets:
        plural = "" if offsets == 1 else "s"
        parts.append(
            f"re-run at {offsets} offset{plural} that nobody chose: {sum(again)} of {len(again)} came out again"
        )
    else:
        parts.append("not re-run at fresh seeds yet")
    return " · ".join(parts)


def fill_landing(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Replace the placeholders of one page with today's numbers."""
    rows = read_json(ROOT / "_build" / "claims.json").get("claims", [])
    by_id = {row["id"]: row for row in rows}
    for place in list(doctree.findall(MeasuredPlace)):
        row = by_id.get(place["claim"])
        if row is None:
            LOGGER.warning("no claim is called %r", place["claim"], location=(docname, place["line"]))
            continue
        text = format(row["value"], place["form"] or ".2f").replace("-", "−").replace("%", " %")
        place.replace_self(nodes.strong("", text))
    for status in list(doctree.findall(StatusPlace)):
        line = nodes.paragraph(classes=["nnopt-status"])
        line += nodes.Text(status_line(rows, read_json(ROOT / "book" / "reseed.json")) + " · ")
        target = app.builder.get_relative_uri(docname, "book/claims")
        line += nodes.reference("", "see them all, and what failed", internal=True, refuri=target)
        status.replace_self(line)
    for place in list(doctree.findall(RoomsPlace)):
        items = []
        for caption, files in rooms(ROOT):
            links = nodes.paragraph()
            for number, name in enumerate(files):
                links += nodes.Text(" · " if number else "")
                title = app.env.titles[name].astext()
                links += nodes.reference("", title, internal=True, refuri=app.builder.get_relative_uri(docname, name))
            items.append(nodes.definition_list_item("", nodes.term("", caption), nodes.definition("", links)))
        place.replace_self(nodes.definition_list("", *items, classes=["simple", "nnopt-rooms"]))
