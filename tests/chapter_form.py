"""The form of a chapter, as far as a machine can judge it: each rule returns its faults in words."""

import ast
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from chapters import Cell, Chapter
from guide import guide_faults

ELEMENTS_BY_TAG = ("failure", "parity", "claim", "cost", "limit")
BLOCKS_BY_CLASS = ("predict", "practice")
MAX_WORDS, MIN_WORDS = 1_900, 1_000
MAX_VISIBLE_CELLS, MAX_CELL_LINES, MAX_FIGURES = 12, 20, 5
MAX_LINE_WIDTH = 88  # what the page shows without scrolling
HIDING = {"hide-input", "hide-cell", "remove-cell", "remove-input"}
# a chapter must run with only nnopt installed
ALLOWED_IMPORTS = {"nnopt", "torch", "torchvision", "numpy", "scipy", "sklearn"} | set(sys.stdlib_module_names)
CLAIM_CALL = re.compile(r"\bclaims\.(difference|equivalence|frequency|bound|time_ratio)\(")
TIMING_CALL = re.compile(r"\b(timing\.)?compare\(|\bclaims\.time_ratio\(|\.seconds\b|_s\b")
GLOBAL_SEEDS = re.compile(
    r"torch\.manual_seed|torch\.cuda\.manual_seed|np\.random\.seed|numpy\.random\.seed|random\.seed\("
)
FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|:{3,})(?P<info>.*)$")
MATH_FENCES = ("math", "prf:", "raw", "bibliography", "nnopt-", "glossary", "figure", "image")

NUMBER = re.compile(
    r"(?<![\w.])(?:"
    r"\d*\.\d+"  # a decimal
    r"|\d[\d,]*\s?(?:%|×|±|times\b|fold\b|percent\b)"
    r"|[×±]\s?\d+"
    r"|\d[\d,]*(?:\s|-)?(?:s|ms|µs|ns|seconds?|minutes?|hours?|bytes?|kB|MB|GB|KiB|MiB|GiB)\b"
    r")"
)


@dataclass(frozen=True)
class Form:
    """A chapter as the rules see it."""

    chapter: Chapter

    @property
    def text(self) -> str:
        return self.chapter.text

    @cached_property
    def cells(self) -> list[Cell]:
        return self.chapter.code_cells

    @cached_property
    def without(self) -> dict[str, str]:
        """Elements that do not apply, each with its reason."""
        return dict(self.chapter.options.get("without", {}))

    def tagged(self, tag: str) -> list[Cell]:
        return [cell for cell in self.cells if tag in cell.tags]

    @cached_property
    def prose(self) -> str:
        """The text without front matter, code, mathematics, comments and the options of directives."""
        text = re.sub(r"\A---\n.*?\n---\n", "", self.text, flags=re.DOTALL)
        kept: list[str] = []
        stack: list[tuple[str, bool]] = []  # fence, whether its content is no prose
        options = False
        for line in text.splitlines():
            match = FENCE.match(line)
            if match and stack and match["info"].strip() == "" and match["fence"] == stack[-1][0]:
                stack.pop()
                options = False
                continue
            if match and match["info"].strip():
                name = re.match(r"\s*\{([^}]*)\}", match["info"])
                silent = name is None or name[1].startswith(("code", *MATH_FENCES))
                stack.append((match["fence"], silent or any(quiet for _, quiet in stack)))
                title = "" if name is None else match["info"].split("}", 1)[1]
                if not stack[-1][1] and name is not None and not name[1].startswith(("exercise", "solution")):
                    kept.append(title)
                options = True
                continue
            if stack and stack[-1][1]:
                continue
            if options and re.match(r"\s*:[\w-]+:", line):
                continue
            options = False
            kept.append(line)
        body = "\n".join(kept)
        body = re.sub(r"\$\$.*?\$\$(\s*\([\w:-]+\))?", " ", body, flags=re.DOTALL)
        body = re.sub(r"\$[^$\n]+\$", " ", body)
        body = re.sub(r"\{math\}`[^`]*`", " ", body)
        return re.sub(r"^%.*$|^\([\w-]+\)=$", "", body, flags=re.MULTILINE)

    @cached_property
    def words(self) -> str:
        """The prose without roles and code spans: what a reader reads and a measured number must not be in."""
        body = re.sub(r"\{[\w:]+\}`[^`]*`", " ", self.prose)
        body = re.sub(r"`[^`]*`", " ", body)
        body = re.sub(r"\b[Ss]ections? [\d.]+(( and |, |–)[\d.]+)*", " ", body)  # a place in a reference
        body = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", body)
        return re.sub(r"https?://\S+", " ", body)


def header(form: Form) -> Iterator[str]:
    metadata = form.chapter.notebook.metadata
    if metadata.get("kernelspec", {}).get("name") != "python3":
        yield "the front matter must name the kernel python3"
    if "jupytext" not in metadata:
        yield "the front matter lacks jupytext"
    if "{nnopt-header}" not in form.text:
        yield "no header box (nnopt-header)"
    elif not re.search(r"You will", form.text) or not re.search(r"You need", form.text):
        yield "the header box must say 'You will' and 'You need'"
    yield from guide_faults(form.chapter)
    for element, reason in form.without.items():
        if len(str(reason).split()) < 4:
            yield f"the reason why {element} does not apply is too short"


def elements(form: Form) -> Iterator[str]:
    for tag in ELEMENTS_BY_TAG:
        if not form.tagged(tag) and tag not in form.without:
            yield f"no cell is tagged {tag}"
    for name in BLOCKS_BY_CLASS:
        if not re.search(rf":class: [^\n]*\b{name}\b", form.text) and name not in form.without:
            yield f"no block has the class {name}"
    if not re.search(r":class: [^\n]*\berrata\b", form.text) and "errata" not in form.without:
        yield "no errata box (class errata)"
    if not re.search(r"\{exercise(-start)?\}", form.text):
        yield "no exercise"
    solutions = re.findall(r"\{solution(?:-start)?\}[^\n]*\n(?::[^\n]*\n)*", form.text)
    if not solutions:
        yield "no solution"
    if any("dropdown" not in solution for solution in solutions):
        yield "a solution is not folded (class dropdown)"
    if "exercises" not in "\n".join(cell.source for cell in form.cells):
        yield "no exercise is checked by nnopt.exercises"
    if not re.search(r"^## References", form.text, flags=re.MULTILINE) or "{cite" not in form.text:
        yield "no references"


def first_screen(form: Form) -> Iterator[str]:
    if "failure" in form.without:
        return
    visible = [cell for cell in form.cells if not {"remove-cell", "hide-cell"} & set(cell.tags)]
    if visible and "failure" not in visible[0].tags:
        yield "the first visible cell is not the failure"
    before = form.text.split("```{code-cell}")[0]
    if len(re.sub(r"\A---\n.*?\n---\n", "", before, flags=re.DOTALL).split()) > 220:
        yield "more than a screen of words before the failure"
    if "?" not in form.words:
        yield "no question is asked"


def claims(form: Form) -> Iterator[str]:
    kinds = [
        kind for cell in form.cells for kind in CLAIM_CALL.findall(cell.source) if "raises-exception" not in cell.tags
    ]
    if not kinds:
        if "claim" not in form.without:
            yield "no claim"
        return
    if len(kinds) > 4:
        yield f"{len(kinds)} claims: choose the headline ones (at most 4)"
    bounding = any(kind in ("equivalence", "bound", "frequency") for kind in kinds)
    if not bounding and not any("negative" in cell.tags for cell in form.cells):
        yield "no claim is negative or bounding (tag it negative)"
    for cell in form.cells:
        calls = CLAIM_CALL.findall(cell.source)
        if calls and "claim" not in cell.tags and "raises-exception" not in cell.tags:
            yield f"line {cell.line}: a claim in a cell without the tag claim"
        if calls and not HIDING & set(cell.tags):
            yield f"line {cell.line}: a claim cell must fold its code (hide-input)"
        for name in re.findall(r"[\"']([\w/]+)#[\w-]+[\"']", cell.source):
            if calls and name != form.chapter.name:
                yield f"line {cell.line}: the claim belongs to {name}"


def size(form: Form) -> Iterator[str]:
    count = len(re.findall(r"[A-Za-z][\w'’-]*", flow(form)))
    if not MIN_WORDS <= count <= MAX_WORDS:
        yield f"{count} words of prose, not {MIN_WORDS} to {MAX_WORDS}"
    visible = [cell for cell in form.cells if not HIDING & set(cell.tags) and "solution" not in cell.tags]
    if len(visible) > MAX_VISIBLE_CELLS:
        yield f"{len(visible)} visible code cells, more than {MAX_VISIBLE_CELLS}"
    for cell in visible:
        lines = sum(bool(line.strip()) for line in cell.source.splitlines())
        if lines > MAX_CELL_LINES:
            yield f"line {cell.line}: {lines} visible lines, more than {MAX_CELL_LINES}"
        widest = max(map(len, cell.source.splitlines()), default=0)
        if widest > MAX_LINE_WIDTH:
            yield f"line {cell.line}: a visible line of {widest} characters, more than {MAX_LINE_WIDTH}"
    figures = sum(len(re.findall(r"\bplots\.\w+\(", cell.source)) for cell in form.cells)
    if figures > MAX_FIGURES:
        yield f"{figures} figures, more than {MAX_FIGURES}"


def flow(form: Form) -> str:
    """The words that a reader reads, exercises and solutions included, headings and references not."""
    text = re.split(r"^## References", form.words, flags=re.MULTILINE)[0]
    return re.sub(r"^#+ .*$", "", text, flags=re.MULTILINE)


def code(form: Form) -> Iterator[str]:
    allowed = ALLOWED_IMPORTS | {cell.file.removesuffix(".py") for cell in form.cells if cell.file}
    for cell in form.cells:
        place = f"line {cell.line}"
        if GLOBAL_SEEDS.search(cell.source):
            yield f"{place}: a global seed"
        if ".cuda()" in cell.source:
            yield f"{place}: .cuda() instead of a device"
        lines = [line for line in cell.source.splitlines() if not line.startswith(("%", "!"))]
        for node in ast.walk(ast.parse("\n".join(lines))):
            if isinstance(node, ast.Try):
                yield f"{place}: try/except"
            names = (
                [alias.name for alias in node.names] if isinstance(node, ast.Import)
                else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            )  # fmt: skip
            for name in names:
                if name.split(".")[0] not in allowed:
                    yield f"{place}: imports {name}"
            if isinstance(node, ast.FunctionDef) and "solution" not in cell.tags and not HIDING & set(cell.tags):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > 15:
                    yield f"{place}: the function {node.name} has {length} lines, more than 15"
        if "nbval-ignore-output" in cell.tags and not TIMING_CALL.search(cell.source):
            yield f"{place}: nbval-ignore-output without a timing"
        if "nbval-ignore-output" in cell.tags and set(CLAIM_CALL.findall(cell.source)) - {"time_ratio"}:
            yield f"{place}: nbval-ignore-output hides a claim about quality"
        if "nbval-skip" in cell.tags:
            yield f"{place}: nbval-skip"


def numbers(form: Form) -> Iterator[str]:
    """A measured number is never typed: it comes from its cell by glue, or is marked as given."""
    for match in NUMBER.finditer(form.words):
        around = form.words[max(0, match.start() - 30) : match.end() + 15].replace("\n", " ")
        yield f"the number {match[0]!r} is typed into the prose: …{around}…"


RULES: tuple[Callable[[Form], Iterator[str]], ...] = (header, elements, first_screen, claims, size, code, numbers)


def faults_of(chapter: Chapter) -> list[str]:
    """Return everything that the rules object to."""
    form = Form(chapter)
    return [fault for rule in RULES for fault in rule(form)]
