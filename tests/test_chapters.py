"""Every chapter has every element; and a chapter without one is refused."""

from pathlib import Path

import pytest
from chapters import Chapter, chapters

from tests.chapter_form import faults_of
from tests.test_structure import ROOMS

GOOD = """---
jupytext: {text_representation: {extension: .md, format_name: myst, format_version: 0.13}}
kernelspec: {display_name: Python 3, language: python, name: python3}
---

# A chapter

```{nnopt-header}
You will
: learn.

You need
: nothing.
```

Here it goes wrong. Why?

```{code-cell} ipython3
:tags: [failure]
print(1 / 3)
```

:::{admonition} Predict
:class: predict dropdown
About $0.5$ of them, as {cite:t}`somebody` says, {glue:text}`x:.2f` and {given}`0.3 s`, see `0.5`.
:::

WORDS

```{math}
x = 0.5
```

```{code-cell} ipython3
:tags: [parity]
import torch
```

```{code-cell} ipython3
:tags: [claim, hide-input]
claims.bound("room/good#x", "s", metric="m", value=1, margin=1, direction="below")
```

```{code-cell} ipython3
:tags: [cost, nbval-ignore-output]
timing.compare({})
```

```{code-cell} ipython3
:tags: [limit]
x = 2
```

:::{admonition} Erratum
:class: errata
Wrong.
:::

:::{admonition} In practice
:class: practice
Use it.
:::

## Exercises

```{exercise}
:label: one
Do.
```

```{solution-start} one
:class: dropdown
```
```{code-cell} ipython3
:tags: [solution]
exercises.check_it(1)
```
```{solution-end}
```

## References

```{bibliography}
:filter: docname in docnames
```
""".replace("WORDS", "plain words " * 600)


def book_chapters() -> list[Chapter]:
    return [chapter for chapter in chapters() if chapter.name.split("/")[0] in ROOMS]


def test_there_are_chapters() -> None:
    assert len(book_chapters()) >= 1


@pytest.mark.parametrize("chapter", book_chapters(), ids=lambda chapter: chapter.name)
def test_a_chapter_has_the_form_of_the_book(chapter: Chapter) -> None:
    assert faults_of(chapter) == []


def faults_of_text(folder: Path, text: str) -> list[str]:
    path = folder / "book" / "room" / "good.md"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return faults_of(Chapter(folder, "book/room/good"))


def test_a_good_chapter_passes(tmp_path: Path) -> None:
    assert faults_of_text(tmp_path, GOOD) == []


PLANTED = [
    ("[failure]", "[]", "no cell is tagged failure"),
    ("[parity]", "[]", "no cell is tagged parity"),
    ("[claim, hide-input]", "[claim]", "must fold its code"),
    ("[claim, hide-input]", "[hide-input]", "no cell is tagged claim"),
    ("[cost, nbval-ignore-output]", "[nbval-ignore-output]", "no cell is tagged cost"),
    ("[limit]", "[]", "no cell is tagged limit"),
    (":class: predict dropdown", ":class: dropdown", "no block has the class predict"),
    (":class: practice", ":class: note", "no block has the class practice"),
    (":class: errata", ":class: note", "no errata box"),
    ("{exercise}", "{note}", "no exercise"),
    (":class: dropdown\n```\n```{code-cell}", "```\n```{code-cell}", "a solution is not folded"),
    ("exercises.check_it(1)", "y = 1", "no exercise is checked"),
    ("## References", "## Sources", "no references"),
    ("{nnopt-header}", "{note}", "no header box"),
    ("You need", "You want", "must say 'You will' and 'You need'"),
    ("name: python3", "name: other", "must name the kernel python3"),
    ("Why?", "Why.", "no question is asked"),
    ("claims.bound(", "claims.difference(", "no claim is negative or bounding"),
    ('"room/good#x"', '"room/other#x"', "the claim belongs to room/other"),
    ("claims.bound", "bound", "no claim"),
    ("plain words ", "plain ", "words of prose"),
    ("x = 2", "x = 2\n" * 21, "21 visible lines"),
    ("x = 2", "x = 2  # " + "wide " * 17, "a visible line of 94 characters"),
    ("x = 2", "plots.a()\n" * 6, "6 figures"),
    ("x = 2", "try:\n    x = 2\nexcept ValueError:\n    pass", "try/except"),
    ("x = 2", "torch.manual_seed(0)", "a global seed"),
    ("x = 2", "x.cuda()", ".cuda() instead of a device"),
    ("import torch", "import pandas", "imports pandas"),
    ("import torch", "from matplotlib import pyplot", "imports matplotlib"),
    ("x = 2", "def f():\n" + "    y = 1\n" * 15, "the function f has 16 lines"),
    ("timing.compare({})", "print(1)", "nbval-ignore-output without a timing"),
    ("timing.compare({})", "timing.compare(claims.bound())", "hides a claim about quality"),
    ("[limit]", "[limit, nbval-skip]", "nbval-skip"),
    ("Here it goes wrong.", "It gains 3.5 points.", "the number '3.5' is typed"),
    ("Here it goes wrong.", "It is 12 % better.", "the number '12 %' is typed"),
    ("Here it goes wrong.", "It is 3× faster.", "the number '3×' is typed"),
    ("Here it goes wrong.", "It takes 20 ms.", "the number '20 ms' is typed"),
    ("Here it goes wrong.", "It weighs 5 kB.", "the number '5 kB' is typed"),
    ("Use it.", "It gains .5 here.", "the number '.5' is typed"),
]


@pytest.mark.parametrize(("old", "new", "message"), PLANTED)
def test_a_planted_fault_is_seen(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    faults = faults_of_text(tmp_path, GOOD.replace(old, new))
    assert any(message in fault for fault in faults), faults


def test_an_element_that_does_not_apply_gives_its_reason(tmp_path: Path) -> None:
    text = GOOD.replace("[cost, nbval-ignore-output]", "[]").replace("timing.compare({})", "z = 1")
    reasoned = text.replace("name: python3}\n", "name: python3}\nnnopt: {without: {cost: REASON}}\n")
    assert faults_of_text(tmp_path / "a", reasoned.replace("REASON", "nothing is paid here at all")) == []
    assert any("too short" in fault for fault in faults_of_text(tmp_path / "b", reasoned.replace("REASON", "no")))


def test_too_many_cells_are_counted(tmp_path: Path) -> None:
    extra = "\n\n```{code-cell} ipython3\nx = 1\n```\n" * 12
    assert any(
        "visible code cells" in f
        for f in faults_of_text(tmp_path, GOOD.replace("## Exercises", extra + "\n## Exercises"))
    )


def test_a_module_that_the_chapter_writes_may_be_imported(tmp_path: Path) -> None:
    cell = "```{code-cell} ipython3\n%%writefile own.py\nvalue = 1\n```\n\n```{code-cell} ipython3\nimport own\n```\n"
    text = GOOD.replace("## Exercises", cell + "\n## Exercises")
    assert faults_of_text(tmp_path / "a", text) == []
    faults = faults_of_text(tmp_path / "b", text.replace("%%writefile own.py\n", ""))
    assert any("imports own" in fault for fault in faults)
