"""The role ``{given}``: a number that the author sets or cites, as opposed to one that a cell measured."""

from typing import Any

from docutils import nodes

__all__ = ["given_role"]


def given_role(
    name: str, rawtext: str, text: str, lineno: int, inliner: Any, options: Any = None, content: Any = None
) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    """Return the text as it stands; the linter of numbers in prose passes over it."""
    return [nodes.inline(rawtext, text, classes=["nnopt-given"])], []
