"""The exported notebooks: plain Markdown, the executed code, an install cell that does no harm."""

import re

import pytest
from chapters import chapters
from export import exported, install_cell, repository
from plain import plain_code, plain_markdown

LEFTOVER = re.compile(r"\{[\w:+.-]+\}`|^\s*:{3,}|^\s*`{3,}\{", re.MULTILINE)


def test_exported_code_is_the_executed_code_after_one_install_cell() -> None:
    for chapter in chapters():
        notebook = exported(chapter, "")
        code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
        assert code[0] == install_cell("")
        assert code[1:] == [cell.source for cell in chapter.notebook.cells if cell.cell_type == "code"]
        assert code[1:] == [cell.source for cell in chapter.code_cells]


def test_no_role_or_directive_is_left_in_any_exported_chapter() -> None:
    for chapter in chapters():
        for cell in exported(chapter, "").cells:
            if cell.cell_type == "markdown":
                assert not LEFTOVER.search(cell.source), (chapter.name, cell.source)


@pytest.mark.parametrize(
    ("myst", "plain"),
    [
        ("{math}`x^2` and {eq}`loss`", "$x^2$ and (loss)"),
        ("{cite:p}`kingma2015, reddi2018`", "[kingma2015, reddi2018]"),
        ("{func}`~nnopt.training.fit`, {class}`torch.Tensor`", "`fit`, `torch.Tensor`"),
        ("is {glue:text}`gap:.2f` better", "is (computed below) better"),
        ("within {given}`5 %`", "within 5 %"),
        ("{ref}`the rule <rule>` and {term}`epoch`", "the rule and epoch"),
        ("write `{glue}` or ``{a}`b` `` in code", "write `{glue}` or ``{a}`b` `` in code"),
        ("see [the notation](../notation.md) and [torch](https://pytorch.org)", "see the notation and [torch](https://pytorch.org)"),
        ("(label)=\n## Title", "## Title"),
        ("```{math}\n:label: step\nx = 1\n```", "$$\nx = 1\n\\tag{step}\n$$"),
        ("$$\nx = 1\n$$ (step)", "$$\nx = 1\n\\tag{step}\n$$"),
        ("```{prf:theorem} Edge\n:label: edge\nIt {math}`x`.\n```", "> **Theorem (Edge)**\n>\n> It $x$."),
        ("```{dropdown} Answer\nYes.\n```", "> **Answer**\n>\n> Yes."),
        ("```{solution} ex-one\nTwo.\n```", "> **Solution**\n>\n> Two."),
        ("::::{note}\n:::{tip}\nInner.\n:::\n::::", "> **Note**\n>\n> > **Tip**\n> >\n> > Inner."),
        ("```python\nx = {1}\n```", "```python\nx = {1}\n```"),
    ],
)  # fmt: skip
def test_plain_markdown_of_each_construct(myst: str, plain: str) -> None:
    assert plain_markdown(myst) == plain


def test_an_included_file_is_written_out() -> None:
    plain = plain_markdown("```{literalinclude} ../../CHANGELOG.md\n:language: text\n```")
    assert plain.startswith("```text\n# Changelog\n")
    assert "## Unreleased" in plain
    cut = plain_markdown("```{literalinclude} ../../CHANGELOG.md\n:language: text\n:end-before: ## Unreleased\n```")
    assert "semantic versioning" in cut
    assert "## Unreleased" not in cut


def test_install_cell_without_a_repository_installs_nothing() -> None:
    assert "%pip" not in install_cell("")
    compile(install_cell(""), "install", "exec")


def test_install_cell_takes_the_named_repository_and_the_extra_of_the_chapter() -> None:
    assert '"nnopt @ git+https://github.com/me/book"' in install_cell("me/book")
    assert '"nnopt[deploy] @ git+https://github.com/me/book"' in install_cell("me/book", "deploy")


def test_the_environment_names_the_repository_and_a_malformed_name_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NNOPT_REPOSITORY", "me/book")
    assert repository() == "me/book"
    monkeypatch.setenv("NNOPT_REPOSITORY", "https://example.org/me")
    with pytest.raises(ValueError, match=r"nnopt_repository must be owner/name, got 'https"):
        repository()


def test_comments_for_tools_are_not_shown_and_others_are() -> None:
    source = "a = f(  # reasons stay\n    1, 2,\n)  # fmt: skip\nb = g()  # type: ignore[arg-type]  # noqa: E731\n"
    assert plain_code(source) == "a = f(  # reasons stay\n    1, 2,\n)\nb = g()\n"
    assert plain_code("text = '# a heading'\n") == "text = '# a heading'\n"
