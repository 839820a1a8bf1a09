"""No test is vacuous: each one asserts, and no comparison is thrown away."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DROPPED = {"allclose", "equal", "isclose", "all", "any", "array_equal", "startswith", "endswith", "exists"}


def name_of(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def asserts(node: ast.AST, asserting: set[str]) -> bool:
    for child in ast.walk(node):
        if isinstance(child, ast.Assert):
            return True
        if isinstance(child, ast.Call) and (
            name_of(child).startswith("assert_")
            or name_of(child) in {"raises", "warns", "fail", "gradcheck", "gradgradcheck"}
            or name_of(child) in asserting
        ):
            return True
    return False


def faults_of(text: str) -> list[str]:
    """Return vacuous tests and thrown-away comparisons of one test file."""
    tree = ast.parse(text)
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    helpers = {f.name for f in functions if not f.name.startswith("test_") and asserts(f, set())}
    faults = [
        f"line {f.lineno}: {f.name} asserts nothing"
        for f in functions
        if f.name.startswith("test_") and not asserts(f, helpers)
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            if isinstance(node.value, (ast.Compare, ast.BoolOp)):
                faults.append(f"line {node.lineno}: a comparison is thrown away")
            elif isinstance(node.value, ast.Call) and name_of(node.value) in DROPPED:
                faults.append(f"line {node.lineno}: the answer of {name_of(node.value)} is thrown away")
        elif isinstance(node, ast.Assert):
            if isinstance(node.test, ast.Tuple):
                faults.append(f"line {node.lineno}: a tuple is always true")
            elif isinstance(node.test, ast.Constant):
                faults.append(f"line {node.lineno}: a constant is asserted")
    for f in functions:
        names = [n.attr for d in f.decorator_list for n in ast.walk(d) if isinstance(n, ast.Attribute)]
        if "skip" in names or "xfail" in names:
            faults.append(f"line {f.lineno}: {f.name} is switched off")
    return faults


def test_no_test_of_the_suite_is_vacuous() -> None:
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    assert len(files) > 5
    found = {path.relative_to(ROOT).as_posix(): faults_of(path.read_text()) for path in files}
    assert {path: faults for path, faults in found.items() if faults} == {}


PLANTED = [
    ("def test_a():\n    x = 1", "asserts nothing"),
    ("def test_a():\n    x == 1\n    assert y", "a comparison is thrown away"),
    ("def test_a():\n    torch.allclose(a, b)\n    assert y", "the answer of allclose is thrown away"),
    ("def test_a():\n    assert (x, 'why')", "a tuple is always true"),
    ("def test_a():\n    assert True", "a constant is asserted"),
    ("@pytest.mark.skip\ndef test_a():\n    assert x", "is switched off"),
    ("@pytest.mark.xfail(reason='')\ndef test_a():\n    assert x", "is switched off"),
]


@pytest.mark.parametrize(("text", "message"), PLANTED)
def test_a_planted_vacuous_test_is_seen(text: str, message: str) -> None:
    assert any(message in fault for fault in faults_of(text))


def test_honest_tests_pass() -> None:
    text = "def helper(x):\n    assert x\n\ndef test_a():\n    helper(1)\n"
    assert faults_of(text) == []
