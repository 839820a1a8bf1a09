"""How a claim reaches a page: a readable line, a small forest plot, a row of data, numbers for prose."""

import math
import sys
from collections.abc import Mapping
from html import escape
from typing import Any

CLAIM_MIME = "application/vnd.nnopt.claim+json"
COST_MIME = "application/vnd.nnopt.cost+json"
_GLUE_MIME = "application/papermill.record/"


def in_notebook() -> bool:
    """Tell whether something listens to rich outputs; IPython itself is no dependency."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None


def show(bundle: Mapping[str, Any], metadata: Mapping[str, Any] | None = None) -> None:
    """Display a MIME bundle in a notebook; in a plain Python session print its text."""
    if in_notebook():
        from IPython.display import display

        display(dict(bundle), raw=True, metadata=dict(metadata or {}))
    elif "text/plain" in bundle:
        print(bundle["text/plain"])


def glue(key: str, value: float | int | str) -> None:
    """Give a number of this cell a name that the prose can print with ``{glue:text}``.

    Args:
        key: name, unique in the chapter.
        value: a number, or a word.

    Raises:
        ValueError: the key is empty or the number is NaN.
        TypeError: the value is neither a number nor a string.

    Example:
        >>> glue("steps", 12)  # outside a notebook nothing happens
    """
    if not key:
        raise ValueError("key must not be empty")
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError(f"value must be a number or a string, got {type(value).__name__}")
    if isinstance(value, float) and math.isnan(value):
        raise ValueError("value must not be NaN")
    # a bare number: a format such as :.2f in the prose needs it
    show(
        {f"{_GLUE_MIME}text/plain": repr(value) if not isinstance(value, str) else value},
        {"scrapbook": {"name": key, "mime_prefix": _GLUE_MIME}},
    )


def number(value: float, width: float) -> str:
    """Write a number with as many digits as its interval's width deserves."""
    if math.isnan(value):
        return "NaN"
    if not math.isfinite(value):
        return "∞" if value > 0 else "−∞"
    if value == int(value) and abs(value) < 1e6 and width == 0:
        return f"{int(value):,}".replace("-", "−")
    reference = width if width > 0 else abs(value)
    digits = max(0, 1 - math.floor(math.log10(reference))) if reference > 0 else 0
    if digits > 8 or abs(value) >= 1e7:
        return f"{value:.3g}".replace("-", "−")
    return f"{value:,.{digits}f}".replace("-", "−")


def interval_text(row: Mapping[str, Any]) -> str:
    """Write value and interval of a row, such as ``0.44 [0.38, 0.51] steps``."""
    width = row["high"] - row["low"]
    unit = f" {row['unit']}" if row["unit"] else ""
    value = number(row["value"], width)
    if not row["seeds"] and not row["timing"]:
        return f"{value}{unit}"
    return f"{value} [{number(row['low'], width)}, {number(row['high'], width)}]{unit}"


def requirement_text(row: Mapping[str, Any]) -> str:
    """Write what the claim demands of its interval."""
    margin = number(row["margin"], 0.0)
    if row["direction"] == "within":
        return (
            f"within {number(1 / row['margin'], 0.0)} and {margin}" if row["scale"] == "ratio" else f"within ±{margin}"
        )
    return f"{row['direction']} {margin}"


def plain_line(row: Mapping[str, Any]) -> str:
    """Write the claim as one line of text."""
    runs = f", n = {row['n']}, {row['scope']}" if row["seeds"] else f", {row['scope']}"
    return (
        f"{row['status'].upper()}: {row['statement']} "
        f"{row['metric']} {interval_text(row)}, claimed {requirement_text(row)}{runs}"
    )


_MARKS = {"held": "✓", "failed": "✗", "inconclusive": "?", "pilot": "…"}


def claim_html(row: Mapping[str, Any]) -> str:
    """Write the claim as one block of the page; its classes are colored by the style sheet."""
    details = [
        f"{escape(row['metric'])} <b>{escape(interval_text(row))}</b>",
        f"claimed {escape(requirement_text(row))}",
    ]
    if row["seeds"]:
        details.append(f"n = {row['n']}")
    if row["d"] is not None:
        details.append(f"{row['d']:.1f} standard errors from the margin")
    if row["failed_runs"]:
        details.append(f"{row['failed_runs']} run{'s' * (row['failed_runs'] > 1)} did not finish")
    details.append(escape(row["scope"]))
    return (
        f'<div class="nnopt-claim nnopt-{row["status"]}" id="claim-{escape(row["id"].split("#")[1])}">'
        f'<p class="nnopt-claim-statement"><span class="nnopt-mark" role="img" aria-label="{row["status"]}">'
        f"{_MARKS[row['status']]}</span> {escape(row['statement'])}</p>"
        f'{forest_svg(row)}<p class="nnopt-claim-details">{" · ".join(details)}</p></div>'
    )


def forest_svg(row: Mapping[str, Any]) -> str:
    """Draw value, interval, margin and the point of no effect on one axis."""
    ratio = row["scale"] == "ratio"

    def scale(x: float) -> float:
        return math.log(x) if ratio else x

    margins = [row["margin"]]
    if row["direction"] == "within":
        margins.append(1 / row["margin"] if ratio else -row["margin"])
    null = 1.0 if ratio else 0.0
    candidates = [row["low"], row["high"], row["value"], null, *margins]
    if any(not math.isfinite(x) or (ratio and x <= 0) for x in candidates):
        return ""
    marks = [scale(x) for x in candidates]
    low, high = min(marks), max(marks)
    span = (high - low) or 1.0

    def x(value: float) -> str:
        return f"{20 + 360 * (scale(value) - low) / span:.1f}"

    label = escape(f"{row['metric']}: {interval_text(row)}, claimed {requirement_text(row)}")
    parts = [
        f'<svg class="nnopt-forest" viewBox="0 0 400 26" role="img" aria-label="{label}">',
        '<line class="nnopt-axis" x1="10" x2="390" y1="13" y2="13"/>',
        f'<line class="nnopt-null" x1="{x(null)}" x2="{x(null)}" y1="3" y2="23"/>',
    ]
    parts += [f'<line class="nnopt-margin" x1="{x(m)}" x2="{x(m)}" y1="3" y2="23"/>' for m in margins]
    parts += [
        f'<line class="nnopt-interval" x1="{x(row["low"])}" x2="{x(row["high"])}" y1="13" y2="13"/>',
        f'<circle class="nnopt-point" cx="{x(row["value"])}" cy="13" r="4.5"/></svg>',
    ]
    return "".join(parts)
