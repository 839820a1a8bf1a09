"""Sphinx extension of the book: executes what is missing, fills in what only the build knows."""

import os
import shutil
from pathlib import Path
from typing import Any

from api import ApiDirective, resolve_own, untyped_returns
from chapters import ROOT, chapters
from claims_page import ClaimsDirective, ClaimsPlace, ForestDirective, fill_claims, old_claims_pages
from conditions import commit, published, site_key
from docutils import nodes
from execute import check_import, execute, summary
from export import export, repository
from given import given_role
from guide import GuideDirective, GuidePlace, fill_guide
from header import HeaderDirective, RunFacts, fill_headers
from landing import (
    MeasuredPlace,
    MeasuredRole,
    RoomsDirective,
    RoomsPlace,
    StatusDirective,
    StatusPlace,
    fill_landing,
)
from plain import plain_code
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ExtensionError
from sphinx.util import logging
from vendor import vendor

from nnopt.storage import write_atomic

__all__ = ["setup"]

LOGGER = logging.getLogger(__name__)


def prepare(app: Sphinx, settings: Config) -> None:
    """Bring everything that Sphinx only copies up to date: MathJax, executed chapters, exported notebooks.

    After ``make book`` there is nothing left to do; a plain ``jupyter-book build`` does the same here.
    """
    # Sphinx runs from the root, but one who calls it elsewhere gets the same cache
    settings.nb_execution_cache_path = str(ROOT / "_build" / ".jupyter_cache")
    try:
        conditions = published()
        os.environ.update({k: v for k, v in conditions.environment().items() if k not in os.environ})
        vendor(ROOT)
        problem = check_import(conditions)
        if problem:
            raise ExtensionError(f"nnopt cannot be imported\n{problem}")
        outcomes = execute(chapters(ROOT), conditions=conditions, out=ROOT / "_build")
        export(ROOT)
    except (OSError, ValueError) as error:
        raise ExtensionError(str(error)) from error
    LOGGER.info(summary(outcomes))
    failed = [outcome.chapter.name for outcome in outcomes if outcome.status == "failed"]
    if failed:
        raise ExtensionError(f"chapters failed: {', '.join(failed)}")


def note_outputs(app: Sphinx, doctree: nodes.document) -> None:
    """Tell Sphinx that a page is old when its outputs are: by itself it only looks at the Markdown."""
    docname = app.env.docname
    for path in (executed_path(docname), ROOT / "_build" / "runs" / f"{docname}.json"):
        if path.is_file():
            app.env.note_dependency(str(path))


def hide_tool_comments(app: Sphinx, doctree: nodes.document) -> None:
    """Show the code of chapters without what a formatter or type checker is told."""
    for block in doctree.findall(nodes.literal_block):
        text = block.astext()
        plain = plain_code(text)
        if plain != text and str(block.get("language", "")).startswith("ipython"):
            block.rawsource = plain
            block.children = [nodes.Text(plain)]


def executed_path(docname: str) -> Path:
    return ROOT / "_build" / "executed" / f"{docname}.ipynb"


def add_buttons(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Offer the notebook for download and, if a repository is named, in Colab; say which commit this is."""
    context["theme_extra_footer"] = f"Built from commit {app.env.nnopt_commit}."  # type: ignore[attr-defined]
    notebook = ROOT / "_build" / "notebooks" / f"{pagename}.ipynb"
    if not notebook.is_file():
        return
    up = context["pathto"]("", 1) if "pathto" in context else ""
    for group in context.get("header_buttons", []):
        if group.get("label") == "download-buttons":
            group["buttons"].insert(
                0,
                {
                    "type": "link",
                    "url": f"{up.rstrip('/') or '.'}/_notebooks/{pagename}.ipynb",
                    "text": ".ipynb",
                    "icon": "fas fa-code",
                    "tooltip": "Download this chapter as a notebook",
                    "label": "download-notebook-button",
                },
            )
    name = repository(ROOT)
    if name:
        context.setdefault("header_buttons", []).append(
            {
                "type": "link",
                "url": f"https://colab.research.google.com/github/{name}/blob/notebooks/{pagename}.ipynb",
                "text": "Colab",
                "icon": "fas fa-rocket",
                "tooltip": "Open this chapter in Colab",
                "label": "launch-colab-button",
            }
        )


def remember_commit(app: Sphinx) -> None:
    app.env.nnopt_commit = commit(ROOT)  # type: ignore[attr-defined]


def finish_site(app: Sphinx, error: Exception | None) -> None:
    """Put the exported notebooks beside the pages, and note what the site was built from."""
    if error is None and app.builder.format == "html":
        write_atomic(Path(app.outdir) / ".built-from", site_key(ROOT).encode())
        target = Path(app.outdir) / "_notebooks"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(ROOT / "_build" / "notebooks", target)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register directives and events."""
    app.add_config_value("nnopt_repository", "", "html")
    app.add_node(RunFacts)
    app.add_node(ClaimsPlace)
    app.add_role("given", given_role)
    app.add_node(MeasuredPlace)
    app.add_node(StatusPlace)
    app.add_node(RoomsPlace)
    app.add_node(GuidePlace)
    app.add_role("measured", MeasuredRole())
    app.add_directive("nnopt-status", StatusDirective)
    app.add_directive("nnopt-rooms", RoomsDirective)
    app.add_directive("nnopt-header", HeaderDirective)
    app.add_directive("nnopt-api", ApiDirective)
    app.add_directive("nnopt-claims", ClaimsDirective)
    app.add_directive("nnopt-forest", ForestDirective)
    app.add_directive("nnopt-guide", GuideDirective)
    app.connect("config-inited", prepare)
    app.connect("builder-inited", remember_commit)
    app.connect("doctree-read", note_outputs)
    app.connect("doctree-read", hide_tool_comments)
    # before napoleon, which listens at the default priority
    app.connect("autodoc-process-docstring", untyped_returns, priority=400)
    app.connect("missing-reference", resolve_own)
    app.connect("env-updated", old_claims_pages)
    app.connect("doctree-resolved", fill_headers)
    app.connect("doctree-resolved", fill_claims)
    app.connect("doctree-resolved", fill_landing)
    app.connect("doctree-resolved", fill_guide)
    # after the theme's own buttons, which it adds at 501
    app.connect("html-page-context", add_buttons, priority=502)
    app.connect("build-finished", finish_site)
    return {"parallel_read_safe": False, "parallel_write_safe": False, "version": "1"}
