"""One drawing surface: deterministic inline SVG whose colors belong to the page."""

import functools
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure as Canvas

# drawn with these colors, then replaced by variables of the page's style sheet, so that one figure
# serves light and dark mode; the fallback colors serve a page without the style sheet (Colab)
_INK, _GRID = "#010203", "#010204"
_FALLBACKS = {
    _INK: "var(--nnopt-ink, currentColor)",
    _GRID: "var(--nnopt-grid, #8884)",
    "#020100": "var(--nnopt-c0, #0072b2)",
    "#020101": "var(--nnopt-c1, #d55e00)",
    "#020102": "var(--nnopt-c2, #009e73)",
    "#020103": "var(--nnopt-c3, #aa4499)",
    "#020104": "var(--nnopt-c4, #b58900)",
    "#020105": "var(--nnopt-c5, #6b7280)",
}
COLORS = tuple(_FALLBACKS)[2:]
INK, GRID = _INK, _GRID
# told apart without color, too
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (7, 2, 1.5, 2)), (0, (3, 1, 1, 1, 1, 1)), (0, (9, 3)))

_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "font.family": "sans-serif",
    "svg.fonttype": "none",
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _GRID,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "mathtext.default": "regular",
}

_LETTERS_PER_INCH = 11

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Figure:
    """A finished figure: its SVG, its alternative text and its caption."""

    svg: str
    alt: str
    caption: str = ""

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        caption = f"<figcaption>{escape(self.caption)}</figcaption>" if self.caption else ""
        return {
            "text/html": f'<figure class="nnopt-figure">{self.svg}{caption}</figure>',
            "text/plain": f"Figure: {self.alt}",
        }


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Run a plotting function under the book's settings, whatever the reader's are."""

    @functools.wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        import matplotlib

        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(_STYLE)
            return draw(*args, **kwargs)

    return inside


def new_axes(
    *, alt: str, num_panels: int = 1, width: float = 7.0, height: float = 3.4, share_y: bool = False
) -> tuple["Canvas", list["Axes"]]:
    """Return a canvas and its panels; colors and fonts are those of the book.

    Raises:
        ValueError: ``alt`` does not describe the figure.
    """
    from matplotlib.figure import Figure as Canvas

    if len(alt.split()) < 4:
        raise ValueError(f"alt must describe what the figure shows, got {alt!r}")
    canvas = Canvas(figsize=(width, height), layout="constrained")
    axes = canvas.subplots(1, num_panels, squeeze=False, sharey=share_y)[0]
    return canvas, list(axes)


def mark_positions(axes: "Axes", positions: Mapping[str, float]) -> None:
    """Draw a labeled vertical reference line at each position."""
    for label, position in positions.items():
        axes.axvline(position, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.annotate(
            label, (position, 1), xycoords=("data", "axes fraction"), xytext=(4, -3), textcoords="offset points",
            va="top", color=INK,
        )  # fmt: skip


def mark_levels(axes: "Axes", levels: Mapping[str, float]) -> None:
    """Draw a horizontal reference line at each height; its label stands in the margin, where no curve crosses it.

    Comes after the limits of the axis: labels of lines that are close are moved apart.
    """
    for level in levels.values():
        axes.axhline(level, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
    height = axes.get_figure(root=True).get_figheight()  # type: ignore[union-attr]
    line_height = 0.19 / (height - 0.6)  # of text, as a fraction of the axes
    to_fraction = axes.transData + axes.transAxes.inverted()
    places: list[tuple[float, str]] = []
    for level, label in sorted((level, label) for label, level in levels.items()):
        wanted = float(to_fraction.transform((1.0, level))[1])
        lowest = places[-1][0] + line_height if places else wanted
        places.append((max(wanted, lowest), label))
    for place, label in places:
        axes.annotate(
            label, (1, place), xycoords="axes fraction", xytext=(4, 0), textcoords="offset points",
            va="center", color=INK,
        )  # fmt: skip


def name_lines(canvas: "Canvas", axes: "Axes") -> None:
    """Put the legend above the axes: inside them it would lie on a curve, or out of sight on a phone."""
    handles, names = axes.get_legend_handles_labels()
    if len(names) < 2:
        return
    columns = len(names)
    while columns > 1 and sum(_column_widths(names, columns)) > canvas.get_figwidth() * _LETTERS_PER_INCH:
        columns -= 1
    rows = -(-len(names) // columns)
    canvas.set_figheight(canvas.get_figheight() + 0.2 * rows)
    # matplotlib fills column by column; a reader goes row by row
    order = [row * columns + column for column in range(columns) for row in range(rows)]
    order = [place for place in order if place < len(names)]
    canvas.legend(
        [handles[place] for place in order], [names[place] for place in order], loc="outside upper left",
        ncols=columns, borderaxespad=0, handlelength=2.6, columnspacing=1.4,
    )  # fmt: skip


def _column_widths(names: Sequence[str], columns: int) -> list[int]:
    """Return the widths in letters of the columns of a legend, lines included."""
    return [max(map(len, names[column::columns])) + 6 for column in range(columns)]


def label_log_axis(axis: "Axis", places: Sequence[float] = ()) -> None:
    """Write plain numbers on a logarithmic axis: at ``places``, else at 1, 2 and 5 of an axis of few decades."""
    from matplotlib import ticker

    low, high = sorted(axis.get_view_interval())
    if places:
        axis.set_ticks(places, [f"{place:g}" for place in places])
        axis.set_minor_locator(ticker.NullLocator())
    elif high < 1000 * low:
        axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5), numticks=20))
        axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(ticker.NullFormatter())


def finish(canvas: "Canvas", *, alt: str, caption: str = "") -> Figure:
    """Turn a canvas into inline SVG that is the same at every run."""
    import matplotlib

    buffer = io.StringIO()
    # the salt keeps ids of two figures of one page apart
    with matplotlib.rc_context({"svg.hashsalt": alt}):
        canvas.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # this style would reach every other SVG of the page
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    width = float(re.search(r'width="([\d.]+)pt"', svg)[1])  # type: ignore[index]
    svg = re.sub(
        r'<svg [^>]*?viewBox="([^"]*)"[^>]*>',
        rf'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="\1" role="img" '
        rf'aria-label="{escape(alt)}" style="stroke-linejoin: round; max-width: {width * 4 / 3:.0f}px; width: 100%">',
        svg,
        count=1,
        flags=re.DOTALL,
    )
    svg = re.sub(r"font:\s*([\d.]+px)[^;\"]*", r"font: \1 var(--nnopt-font, sans-serif)", svg)
    for drawn, shown in _FALLBACKS.items():
        svg = svg.replace(drawn, shown)
    svg = re.sub(r"\s*\n\s*", " ", svg)
    return Figure(svg.strip(), alt, caption)
