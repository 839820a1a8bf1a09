"""The box at the top of a chapter: what the reader will do and need, and what the run itself says."""

from pathlib import Path
from typing import Any, ClassVar

from chapters import ROOT
from docutils import nodes
from records import read_json
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

__all__ = ["HeaderDirective", "RunFacts", "fill_headers", "run_facts"]


class RunFacts(nodes.General, nodes.Element):  # type: ignore[misc]
    """Stands where the facts of the execution will be; filled when the page is written."""


class HeaderDirective(SphinxDirective):
    """``{nnopt-header}``: the author's "You will / You need", and "Runs in", which the build fills in."""

    has_content = True
    required_arguments = 0
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        self.assert_has_content()
        box = nodes.container(classes=["nnopt-header"])
        self.state.nested_parse(self.content, self.content_offset, box)
        box += RunFacts()
        return [box]


def run_facts(root: Path, docname: str) -> str:
    """Say in one line how, when and at which commit the chapter was executed."""
    run = read_json(root / "_build" / "runs" / f"{docname}.json")
    if not run:
        return "not executed yet"
    versions = run.get("versions", {})
    parts = [f"{run['seconds']:.0f} s" if run.get("seconds", 0) >= 1 else "under 1 s"]
    if "device" in run:
        parts[0] += f" on {'one CPU thread' if run['device'] == 'cpu' and run.get('threads') == 1 else run['device']}"
    if run.get("loading"):
        parts[0] += f", after {run['loading']:.0f} s of loading the libraries"
    names = ", ".join(f"{name} {versions[name]}" for name in ("python", "torch", "numpy") if name in versions)
    names = names.replace("python", "Python").replace("numpy", "NumPy")
    if names:
        parts.append(names)
    if "date" in run:
        parts.append(f"executed {run['date']} at commit {run.get('commit', 'unknown')}")
    return " · ".join(parts)


def fill_headers(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Replace the placeholders of one page."""
    for node in list(doctree.findall(RunFacts)):
        term = nodes.term("", "Runs in")
        definition = nodes.definition("", nodes.paragraph("", run_facts(ROOT, docname)))
        item = nodes.definition_list_item("", term, definition)
        node.replace_self(nodes.definition_list("", item, classes=["simple", "nnopt-run"]))
