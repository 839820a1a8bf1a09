"""Every public name says what it takes, what it returns, what it refuses, and where it comes from."""

import inspect
import re
from collections.abc import Callable, Iterator

import pytest

import nnopt.optimizers as room

# ours, or everybody's: no single text can be named for them
WITHOUT_SOURCE = {
    "LinearSolution",
    "Plateau",
    "RangeTest",
    "accumulate",
    "averaged_weights",
    "constant",
    "dense_hessian",
    "exponential",
    "flat",
    "linear",
    "muon_groups",
    "stability_limit",
    "step_decay",
    "steps_to_target",
    "with_warmup",
}
SECTION = re.compile(r"^(Args|Returns|Raises|Convention|Source|Example):$", re.MULTILINE)


def sections_of(documented: object) -> dict[str, str]:
    """Return the sections of a docstring, the first lines as the section of no name."""
    pieces = SECTION.split(inspect.getdoc(documented) or "")
    return {"": pieces[0]} | dict(zip(pieces[1::2], pieces[2::2], strict=True))


def faults_of(named: Callable[..., object]) -> Iterator[str]:
    """Yield what the docstring of a function or a class lacks."""
    sections = sections_of(named)
    if not sections[""].strip():
        yield "has no docstring"
    takes = [name.lstrip("*") for name in inspect.signature(named).parameters]
    said = re.findall(r"^    (\w+): \S", sections.get("Args", ""), re.MULTILINE)
    if takes != said:
        yield f"takes {takes} and speaks of {said}"
    code = inspect.getsource(named)
    if re.search(r"\braise |\brequire|_require|\bleaves\(", code) and "Raises" not in sections:
        yield "refuses something and does not say what"
    if not isinstance(named, type):
        returns = inspect.signature(named).return_annotation
        if returns not in (None, "None") and takes and "Returns" not in sections:
            yield f"returns {returns} and does not say what"
    if "Source" not in sections and named.__name__ not in WITHOUT_SOURCE:
        yield "names no source"


@pytest.mark.parametrize("name", room.__all__)
def test_a_public_name_says_what_a_reader_must_know(name: str) -> None:
    assert list(faults_of(getattr(room, name))) == []


def test_the_list_of_names_without_a_source_is_short() -> None:
    assert set(room.__all__) >= WITHOUT_SOURCE
    assert not [name for name in WITHOUT_SOURCE if "Source" in sections_of(getattr(room, name))]


def test_planted_gaps_are_seen() -> None:
    def silent(one: int, other: int) -> int:
        """Add.

        Args:
            one: a number.
        """
        if one < 0:
            raise ValueError("one must be >= 0")
        return one + other

    assert list(faults_of(silent)) == [
        "takes ['one', 'other'] and speaks of ['one']",
        "refuses something and does not say what",
        "returns <class 'int'> and does not say what",
        "names no source",
    ]
