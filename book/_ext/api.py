"""The API reference: one directive lists everything a module makes public, so that nothing can be forgotten."""

import importlib
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, TypeVarTuple

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

__all__ = ["ApiDirective", "api_lines", "public_modules", "public_names", "resolve_own", "untyped_returns"]


def public_modules(root: Path) -> list[str]:
    """Return the modules of floor 0 and the rooms of ``nnopt``, as import paths."""
    package = root / "nnopt"
    modules = [path.stem for path in package.glob("*.py") if not path.stem.startswith("_")]
    rooms = [path.parent.name for path in package.glob("*/__init__.py")]
    return [f"nnopt.{name}" for name in sorted([*modules, *rooms])]


def public_names(module: ModuleType) -> list[str]:
    """Return what ``__all__`` lists."""
    return list(module.__all__)


def api_lines(name: str) -> list[str]:
    """Return the reStructuredText that documents a module and each of its public names, in their order."""
    module = importlib.import_module(name)
    lines = [f".. automodule:: {name}", "   :no-members:", ""]
    for member in public_names(module):
        value = getattr(module, member)
        kind = "class" if inspect.isclass(value) else "function" if inspect.isroutine(value) else "data"
        lines.append(f".. auto{kind}:: {name}.{member}")
        if kind == "class":
            lines += ["   :members:", "   :show-inheritance:"]
        if kind == "data":
            lines.append("   :no-value:")
        lines.append("")
    return lines


class ApiDirective(SphinxDirective):
    """``{nnopt-api} nnopt.data``: everything that the module makes public."""

    required_arguments = 1
    has_content = False
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        # autodoc speaks reStructuredText: hand it over to eval-rst, which parses it inside a Markdown page
        fence = ["```{eval-rst}", *api_lines(self.arguments[0]), "```"]
        container = nodes.container()
        source = f"{self.env.docname}:{self.arguments[0]}"
        self.state.nested_parse(StringList(fence, source=source), self.content_offset, container)
        return list(container.children)


def resolve_own(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.Node | None:
    """Link names of ``nnopt`` where they are documented, and show those that are not public as plain text.

    A signature names a class by the module that defines it; the reference documents it under its room.
    """
    target = str(node.get("reftarget", ""))
    if node.get("refdomain") != "py" or not target:
        return None
    scope = str(node.get("py:module") or "")
    if scope.startswith("nnopt") and _is_type_variable(target, scope):
        return content
    names = [target] if target.startswith("nnopt.") else [f"{scope}.{target}"] if scope.startswith("nnopt") else []
    for name in names:
        value = _find(name)
        if value is None:
            continue
        for module in public_modules(Path(app.srcdir)):
            home = importlib.import_module(module)
            for member in public_names(home):
                if getattr(home, member) is value and f"{module}.{member}" != target:
                    domain = env.get_domain("py")
                    found = domain.resolve_xref(
                        env, str(node["refdoc"]), app.builder, "obj", f"{module}.{member}", node, content
                    )
                    if isinstance(found, nodes.Node):
                        return found
        return content
    return None


def untyped_returns(app: Sphinx, what: str, name: str, value: object, options: Any, lines: list[str]) -> None:
    """Keep napoleon from reading "The claim: held if …" as a type: our types stand in signatures only."""
    for index, line in enumerate(lines[:-1]):
        if line.strip() in ("Returns:", "Yields:") and lines[index + 1].strip():
            text = lines[index + 1].lstrip()
            lines[index + 1] = lines[index + 1][: -len(text)] + ": " + text


def _is_type_variable(name: str, room: str) -> bool:
    """Tell whether a module of the room has a variable number of types (``*Ts``) under this name."""
    modules = [module for path, module in list(sys.modules.items()) if path.startswith(f"{room}.")]
    return any(isinstance(vars(module).get(name), TypeVarTuple) for module in modules)


def _find(path: str) -> object | None:
    """Return the object that a dotted path names, or None if there is no such thing."""
    parts = path.split(".")
    for split in range(len(parts) - 1, 0, -1):
        try:
            value: object = importlib.import_module(".".join(parts[:split]))
        except ImportError:
            continue
        for part in parts[split:]:
            value = getattr(value, part, None)
        return value
    return None
