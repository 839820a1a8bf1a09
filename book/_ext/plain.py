"""Turn what only our tools read into what a reader sees: roles and directives, comments for the formatter."""

import re
from pathlib import Path

__all__ = ["plain_code", "plain_markdown"]

OPENING = re.compile(r"^(?P<indent>\s*)(?P<fence>`{3,}|:{3,}|~{3,})\s*(?P<info>.*)$")
DIRECTIVE = re.compile(r"^\{(?P<name>[\w:+.-]+)\}\s*(?P<argument>.*)$")
OPTION = re.compile(r"^:(?P<key>[\w-]+):\s*(?P<value>.*)$")
# a role, or a code span, which must stay as it is
INLINE = re.compile(
    r"\{(?P<name>[\w:+.-]+)\}(?P<ticks>`+)(?P<content>.+?)(?P=ticks)(?!`)|(?P<code>(?P<t>`+).+?(?P=t)(?!`))"
)
TITLED = re.compile(r"^(?P<title>.*?)\s*<(?P<target>[^<>]+)>$", re.DOTALL)
LOCAL_IMAGE = re.compile(r"!\[(?P<alt>[^\]]*)\]\((?!https?:)[^)]*\)")
LOCAL_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?!https?:|mailto:)[^)]*\)")
LABELED_DISPLAY = re.compile(r"^\$\$\s*\((?P<label>[\w:.-]+)\)\s*$")
LABELED_LINE = re.compile(r"^\$\$(?P<body>.+)\$\$\s*\((?P<label>[\w:.-]+)\)\s*$")

# what a formatter or type checker is told
TOOL_COMMENT = re.compile(
    r"(?:[ \t]*#[ ](?:fmt:[ ]\w+|noqa(?::[ ][\w, ]+)?|type:[ ]ignore(?:\[[\w, -]+\])?))+[ \t]*$", re.MULTILINE
)

HEADINGS = {
    "nnopt-header": "Before you start",
    "admonition": "",
    "dropdown": "",
    "seealso": "See also",
}
POINTERS = {
    "bibliography": "The references are listed on the chapter's page in the book.",
    "glossary": "The glossary is a page of the book.",
    "nnopt-claims": "The table of claims is a page of the book.",
    "toctree": "",
    "tableofcontents": "",
}
CODE_ROLES = ("func", "class", "meth", "mod", "attr", "data", "exc", "obj", "code")


def plain_code(source: str) -> str:
    """Return the code of a cell without comments for tools, which tell a reader nothing."""
    return TOOL_COMMENT.sub("", source)


def plain_markdown(text: str) -> str:
    """Convert one Markdown cell; code cells are not its business.

    Math becomes ``$`` and ``$$`` with ``\\tag``, directives become quoted blocks with a bold heading, roles
    become their text. Plain code fences stay as they are.
    """
    lines = text.splitlines()
    result: list[str] = []
    index = 0
    while index < len(lines):
        line = lines[index]
        opening = OPENING.match(line)
        if opening is None:
            result.extend(_plain_line(line))
            index += 1
            continue
        end = _closing(lines, index, opening["fence"])
        body = lines[index + 1 : end]
        directive = DIRECTIVE.match(opening["info"])
        if directive is None:
            result.extend(lines[index : end + 1])
        else:
            result.extend(_directive(directive["name"], directive["argument"].strip(), body))
        index = end + 1
    return re.sub(r"\n{3,}", "\n\n", "\n".join(result)).strip("\n")


def _closing(lines: list[str], start: int, fence: str) -> int:
    """Return the index of the line that closes the fence opened at ``start``."""
    for index in range(start + 1, len(lines)):
        stripped = lines[index].strip()
        if len(stripped) >= len(fence) and stripped == fence[0] * len(stripped):
            return index
    return len(lines)


def _plain_line(line: str) -> list[str]:
    if re.match(r"^\([\w:.-]+\)=\s*$", line) or line.startswith(("% ", "+++")):
        return []
    if display := LABELED_DISPLAY.match(line):
        return [rf"\tag{{{display['label']}}}", "$$"]
    if single := LABELED_LINE.match(line):
        return ["$$", single["body"].strip(), rf"\tag{{{single['label']}}}", "$$"]
    line = INLINE.sub(_inline, line)
    line = LOCAL_IMAGE.sub(lambda match: f"*(figure in the book: {match['alt']})*", line)
    return [LOCAL_LINK.sub(lambda match: match["text"], line)]


def _inline(match: re.Match[str]) -> str:
    if match["code"] is not None:
        return match["code"]
    name, content = match["name"].removeprefix("py:"), match["content"]
    if name == "math":
        return f"${content}$"
    if name == "eq":
        return f"({content})"
    if name.split(":")[0] == "cite":
        return "[" + ", ".join(key.strip() for key in content.split(",")) + "]"
    if name.split(":")[0] == "glue":
        return "(computed below)"
    titled = TITLED.match(content)
    if name in CODE_ROLES:
        target = titled["title"] if titled else content
        return f"`{target.rsplit('.', 1)[-1] if target.startswith('~') else target.lstrip('!')}`"
    return titled["title"] if titled else content


def _directive(name: str, argument: str, body: list[str]) -> list[str]:
    options, body = _split_options(body)
    if name == "math":
        label = [rf"\tag{{{options['label']}}}"] if "label" in options else []
        return ["", "$$", *_strip(body), *label, "$$", ""]
    if name in POINTERS:
        return ["", f"*{POINTERS[name]}*" if POINTERS[name] else "", ""]
    if name in ("figure", "image"):
        caption = plain_markdown("\n".join(body)).replace("\n", " ")
        return ["", f"*(figure in the book: {options.get('alt', caption) or argument})*", "", caption, ""]
    if name in ("raw", "margin-toc"):
        return []
    if name == "literalinclude":
        text = Path(__file__).parents[2].joinpath(*(part for part in Path(argument).parts if part != "..")).read_text()
        end = options.get("end-before", "")
        lines = text.rstrip().splitlines()
        last = next((place for place, line in enumerate(lines) if end and end in line), len(lines))
        return ["", "```text", *lines[:last], "```", ""]
    if name in ("code-block", "code"):
        return ["", f"```{argument}", *body, "```", ""]
    heading = HEADINGS.get(name, name.split(":")[-1].replace("-", " ").capitalize())
    title = INLINE.sub(_inline, argument)
    if name in ("solution", "solution-start"):
        # the argument is the label of the exercise
        title = ""
    words = " ".join(part for part in (heading, f"({title})" if heading and title else title) if part)
    inner = plain_markdown("\n".join(_strip(body))).splitlines()
    block = ([f"**{words}**", ""] if words else []) + inner
    return ["", *(f"> {line}".rstrip() for line in block), ""]


def _split_options(body: list[str]) -> tuple[dict[str, str], list[str]]:
    """Split off the options of a directive, in either of their two notations."""
    options: dict[str, str] = {}
    if body and body[0].strip() == "---" and "---" in [line.strip() for line in body[1:]]:
        end = next(i for i in range(1, len(body)) if body[i].strip() == "---")
        for line in body[1:end]:
            key, _, value = line.partition(":")
            options[key.strip()] = value.strip()
        return options, body[end + 1 :]
    index = 0
    while index < len(body) and (option := OPTION.match(body[index].strip())):
        options[option["key"]] = option["value"]
        index += 1
    return options, body[index:]


def _strip(lines: list[str]) -> list[str]:
    start, end = 0, len(lines)
    while start < end and not lines[start].strip():
        start += 1
    while end > start and not lines[end - 1].strip():
        end -= 1
    return lines[start:end]
