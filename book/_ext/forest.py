"""The forest plot of the book: every claim on one axis, as inline SVG in the colors of the page."""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

__all__ = ["forest_svg", "standardized"]

WIDTH, LABELS, RERUNS, ROW, HEAD = 760, 250, 90, 18, 40
LOWEST, HIGHEST = -3.0, 9.0


def standardized(row: Mapping[str, Any]) -> float | None:
    """Return how far a claim's value lies beyond its margin, in half widths of its interval.

    Above 1 the whole interval is on the claimed side, whatever the direction. None for exact results, which
    have no width.
    """
    scale: Callable[[float], float] = math.log if row["scale"] == "ratio" else float
    low, high, value, margin = (scale(row[name]) for name in ("low", "high", "value", "margin"))
    half = (high - low) / 2
    if half <= 0 or not math.isfinite(half):
        return None
    if row["direction"] == "within":
        return (abs(margin) - abs(value)) / half
    return (value - margin if row["direction"] == "above" else margin - value) / half


def forest_svg(
    rows: Sequence[Mapping[str, Any]],
    *,
    reruns: Mapping[str, Sequence[bool]],
    link: Callable[[Mapping[str, Any]], str],
) -> str:
    """Draw one line per claim, grouped by chapter, with one dot per re-run.

    Args:
        rows: claims in the order of the book.
        reruns: claim id -> whether it held, for each re-run.
        link: row -> address of its place in the book.
    """
    height = HEAD + ROW * (len(rows) + len({row["chapter"] for row in rows})) + 8
    held = sum(bool(row["held"]) for row in rows)
    alt = f"Forest plot of {len(rows)} claims, {held} of which hold: distance from the margin in half widths"
    parts = [
        f'<svg class="nnopt-book-forest" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(alt)}">',
        _axis(height),
    ]
    y, chapter = HEAD, None
    for row in rows:
        if row["chapter"] != chapter:
            chapter = row["chapter"]
            parts.append(f'<text class="nnopt-chapter" x="4" y="{y + 13}">{escape(chapter)}</text>')
            y += ROW
        parts.append(_line(row, y + ROW / 2, reruns.get(row["id"], ()), link(row)))
        y += ROW
    return "".join([*parts, "</svg>"])


def _x(position: float) -> float:
    inside = min(max(position, LOWEST), HIGHEST)
    return LABELS + (inside - LOWEST) / (HIGHEST - LOWEST) * (WIDTH - LABELS - RERUNS)


def _axis(height: float) -> str:
    marks = "".join(
        f'<text class="nnopt-tick" x="{_x(tick):.1f}" y="{HEAD - 8}">{str(tick).replace("-", "−")}</text>'
        for tick in (-2, 0, 2, 4, 6, 8)
    )
    return (
        f'<text class="nnopt-tick" x="{_x(3):.1f}" y="12">beyond the margin, in half widths of the interval →</text>'
        f'<text class="nnopt-tick" x="{WIDTH - RERUNS / 2}" y="{HEAD - 8}">re-runs</text>{marks}'
        f'<line class="nnopt-margin" x1="{_x(0):.1f}" x2="{_x(0):.1f}" y1="{HEAD - 4}" y2="{height - 4}"/>'
    )


def _line(row: Mapping[str, Any], y: float, reruns: Sequence[bool], address: str) -> str:
    status = str(row["status"])
    position = standardized(row)
    name = str(row["id"]).partition("#")[2]
    parts = [
        f'<a href="{escape(address)}"><title>{escape(str(row["statement"]))}</title>'
        f'<text class="nnopt-name" x="16" y="{y + 4:.1f}">{escape(_short(name))}</text></a>',
        f'<g class="nnopt-{escape(status)}">',
    ]
    if position is None:
        # an exact result has no interval: a square at the margin's right or left
        x = _x(1.0 if row["held"] else -1.0)
        parts.append(f'<rect class="nnopt-exact" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"/>')
    else:
        low, high = _x(position - 1), _x(position + 1)
        parts.append(f'<line class="nnopt-interval" x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_point(position, y, held=bool(row["held"])))
    parts.append("</g>")
    for number, again in enumerate(reruns):
        x = WIDTH - RERUNS + 24 + 14 * number
        kind, word = ("held", "held") if again else ("failed", "did not hold")
        shape = f'<circle cx="{x}" cy="{y:.1f}" r="4"/>' if again else _cross(x, y)
        parts.append(f'<g class="nnopt-again nnopt-{kind}"><title>{word} at re-run {number + 1}</title>{shape}</g>')
    return "".join(parts)


def _point(position: float, y: float, *, held: bool) -> str:
    x = _x(position)
    if position > HIGHEST:
        # an arrow: the value lies further out
        return f'<path class="nnopt-point" d="M{x - 6:.1f},{y - 5:.1f} l10,5 l-10,5 z"/>'
    return f'<circle class="nnopt-point" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>' if held else _cross(x, y)


def _cross(x: float, y: float) -> str:
    return f'<path class="nnopt-cross" d="M{x - 4:.1f},{y - 4:.1f} l8,8 m0,-8 l-8,8"/>'


def _short(name: str) -> str:
    return name if len(name) <= 34 else name[:33] + "…"
