"""Imports only go down; files stay small; rooms open their public names and nothing else."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FLOORS = {
    "checks": 0, "storage": 0, "seeding": 0, "types": 0, "devices": 0, "_version": 0,
    "measurement": 1, "data": 1, "models": 1,
    "training": 2,
    "optimizers": 3, "regularization": 3, "pruning": 3, "quantization": 3, "distillation": 3, "sharing": 3,
    "merging": 3, "compute": 3, "distributed": 3, "plots": 3,
    "exercises": 4,
}  # fmt: skip
FORBIDDEN_NAMES = {"utils", "util", "common", "core", "helpers", "base", "misc"}
MAX_LINES = 400

Sources = dict[str, str]  # path inside nnopt -> text


def package_sources() -> Sources:
    folder = ROOT / "nnopt"
    return {path.relative_to(folder).as_posix(): path.read_text() for path in sorted(folder.rglob("*.py"))}


def imports(path: str, text: str) -> Iterator[tuple[str, bool]]:
    """Yield what a module imports from nnopt as dotted names below it, and whether relatively."""
    parts = path.removesuffix(".py").split("/")
    package = parts[:-1]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "nnopt":
                    yield alias.name.removeprefix("nnopt").lstrip("."), False
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                above = package[: len(package) - (node.level - 1)]
                names = [node.module] if node.module else [alias.name for alias in node.names]
                for name in names:
                    yield ".".join([*above, name]), True
            elif node.module and node.module.split(".")[0] == "nnopt":
                below = node.module.removeprefix("nnopt").lstrip(".")
                if below:
                    yield below, False
                else:
                    for alias in node.names:
                        yield f"!{alias.name}", False


def faults_of(sources: Sources) -> list[str]:
    faults = []
    inside: dict[str, dict[str, set[str]]] = {}
    for path, text in sources.items():
        if path == "__init__.py":
            continue
        parts = path.removesuffix(".py").split("/")
        room = parts[0]
        if room not in FLOORS:
            faults.append(f"{path}: {room} has no floor")
            continue
        if FORBIDDEN_NAMES & {part.strip("_") for part in parts}:
            faults.append(f"{path}: a name that says nothing")
        if len(text.splitlines()) > MAX_LINES:
            faults.append(f"{path}: {len(text.splitlines())} lines")
        for target, relative in imports(path, text):
            if target.startswith("!"):
                faults.append(f"{path}: from nnopt import {target[1:]}")
                continue
            other = target.split(".")[0]
            if other not in FLOORS:
                faults.append(f"{path}: imports {target}, which has no floor")
            elif other == room:
                if len(parts) > 1:
                    if not relative:
                        faults.append(f"{path}: imports its own room absolutely")
                    inside.setdefault(room, {}).setdefault(parts[-1], set()).add(target.split(".")[-1])
            elif FLOORS[other] > FLOORS[room]:
                faults.append(f"{path}: imports upward from {other}")
            elif FLOORS[other] == FLOORS[room] and FLOORS[room] > 0:
                faults.append(f"{path}: imports sideways from {other}")
            elif FLOORS[room] > 0 and relative:
                faults.append(f"{path}: imports {other} relatively")
        if parts[-1] == "__init__":
            faults += [f"{path}: {fault}" for fault in room_init_faults(text)]
    for room, graph in inside.items():
        graph.pop("__init__", None)
        faults += [f"{room}: cycle through {name}" for name in graph if reaches(graph, name, name)]
    return faults


def room_init_faults(text: str) -> Iterator[str]:
    """A room's door: a docstring, ``from .module import name as name`` lines and ``__all__``."""
    exported: set[str] = set()
    listed: set[str] = set()
    for node in ast.parse(text).body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            for alias in node.names:
                if alias.asname != alias.name:
                    yield f"{alias.name} is not re-exported as itself"
                exported.add(alias.name)
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            listed = set(ast.literal_eval(node.value))
        else:
            yield f"line {node.lineno} does more than open the room"
    if exported != listed:
        yield f"__all__ and the imports differ: {sorted(exported ^ listed)}"


def reaches(graph: dict[str, set[str]], start: str, goal: str) -> bool:
    seen: set[str] = set()
    todo = list(graph.get(start, ()))
    while todo:
        name = todo.pop()
        if name == goal:
            return True
        if name not in seen:
            seen.add(name)
            todo += graph.get(name, ())
    return False


def test_the_package_keeps_to_its_floors() -> None:
    sources = package_sources()
    assert len(sources) > 10
    assert faults_of(sources) == []


PLANTED = [
    ({"data/a.py": "from nnopt.training import fit"}, "imports upward from training"),
    ({"checks.py": "import nnopt.data.datasets"}, "imports upward from data"),
    ({"checks.py": "def f():\n    from nnopt.data import digits"}, "imports upward from data"),
    ({"optimizers/a.py": "from nnopt.plots import curves"}, "imports sideways from plots"),
    ({"data/a.py": "from nnopt import checks"}, "from nnopt import checks"),
    ({"data/a.py": "from ..checks import require_type"}, "imports checks relatively"),
    ({"data/a.py": "from nnopt.data.b import x", "data/b.py": ""}, "imports its own room absolutely"),
    ({"data/a.py": "from .b import x", "data/b.py": "from .a import y"}, "cycle through a"),
    ({"data/utils.py": ""}, "a name that says nothing"),
    ({"cellar/a.py": ""}, "cellar has no floor"),
    ({"data/a.py": "x = 1\n" * 401}, "401 lines"),
    ({"data/__init__.py": "x = 1"}, "line 1 does more than open the room"),
    ({"data/__init__.py": "from .a import b as b\n__all__ = ['c']"}, "__all__ and the imports differ"),
    ({"data/__init__.py": "from .a import b\n__all__ = ['b']"}, "b is not re-exported as itself"),
]


@pytest.mark.parametrize(("sources", "message"), PLANTED)
def test_a_planted_fault_is_seen(sources: Sources, message: str) -> None:
    assert any(message in fault for fault in faults_of(sources))


def test_imports_downward_are_allowed() -> None:
    assert faults_of({"training/a.py": "from nnopt.data import digits\nfrom .b import c\nimport torch"}) == []
