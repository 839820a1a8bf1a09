"""Estimates with intervals on one axis, and paired dots."""

from collections.abc import Mapping, Sequence
from typing import Literal

from nnopt.checks import require_non_empty

from ._figure import COLORS, INK, Figure, finish, new_axes, styled
from ._prepare import Numbers, as_array

__all__ = ["bars", "intervals", "paired"]


@styled
def intervals(
    rows: Mapping[str, Sequence[float]],
    *,
    alt: str,
    xlabel: str,
    caption: str = "",
    margin: float | None = None,
    null: float | None = None,
    xscale: Literal["linear", "log"] = "linear",
) -> Figure:
    """Draw a forest plot: one row per estimate.

    Args:
        rows: name -> (value, low, high).
        alt: what the figure shows; at least four words.
        xlabel: with unit.
        caption: one sentence that answers the figure's question.
        margin: what was claimed; a dashed line.
        null: no effect (0, or 1 for ratios); a thin line.
        xscale: ``linear`` or ``log``.

    Returns:
        The figure.

    Raises:
        ValueError: a row is not three numbers in the order low ≤ value ≤ high; ``alt`` says too little.
    """
    require_non_empty("rows", rows)
    for name, row in rows.items():
        if len(row) != 3 or not row[1] <= row[0] <= row[2]:
            raise ValueError(f"row {name!r} must be (value, low, high) with low <= value <= high, got {tuple(row)}")
    canvas, (axes,) = new_axes(alt=alt, height=0.7 + 0.36 * len(rows))
    axes.set(xlabel=xlabel, xscale=xscale)
    axes.grid(axis="y", visible=False)
    for place, (value, low, high) in enumerate(rows.values()):
        axes.plot([low, high], [-place, -place], color=COLORS[0], linewidth=2.2, solid_capstyle="butt")
        axes.plot([value], [-place], "o", color=COLORS[0], markersize=6)
    axes.set_yticks([-place for place in range(len(rows))], labels=list(rows))
    axes.set_ylim(-len(rows) + 0.4, 0.6)
    if null is not None:
        axes.axvline(null, color=INK, linewidth=0.9)
    if margin is not None:
        axes.axvline(margin, color=COLORS[1], linewidth=1.4, linestyle=(0, (4, 3)))
    return finish(canvas, alt=alt, caption=caption)


@styled
def paired(
    arms: Mapping[str, Numbers],
    *,
    alt: str,
    ylabel: str,
    caption: str = "",
    yscale: Literal["linear", "log"] = "linear",
) -> Figure:
    """Draw the runs of several arms as dots, one line per seed.

    Args:
        arms: name -> one value per seed (R,), the same seeds in each arm.
        alt: what the figure shows; at least four words.
        ylabel: with unit.
        caption: one sentence that answers the figure's question.
        yscale: ``linear`` or ``log``.

    Returns:
        The figure.

    Raises:
        ValueError: the arms differ in length, are empty or hold NaN; ``alt`` says too little.
    """
    require_non_empty("arms", arms)
    columns = [as_array(f"arm {name!r}", values) for name, values in arms.items()]
    if {column.shape for column in columns} != {(len(columns[0]),)}:
        raise ValueError(f"arms must have one value per seed each, got shapes {[c.shape for c in columns]}")
    canvas, (axes,) = new_axes(alt=alt)
    axes.set(ylabel=ylabel, yscale=yscale)
    axes.grid(axis="x", visible=False)
    for run in zip(*columns):
        axes.plot(range(len(columns)), run, color=INK, linewidth=0.6, alpha=0.4)
    for place, column in enumerate(columns):
        axes.plot([place] * len(column), column, "o", color=COLORS[place % len(COLORS)], markersize=5)
    axes.set_xticks(range(len(arms)), labels=list(arms))
    axes.set_xlim(-0.4, len(arms) - 0.6)
    return finish(canvas, alt=alt, caption=caption)


@styled
def bars(
    groups: Mapping[str, Mapping[str, float]],
    *,
    alt: str,
    xlabel: str,
    caption: str = "",
    share: bool = False,
) -> Figure:
    """Draw stacked horizontal bars: one bar per group, one segment per part.

    Args:
        groups: bar -> part -> value ≥ 0; every bar has the same parts.
        alt: what the figure shows; at least four words.
        xlabel: with unit.
        caption: one sentence that answers the figure's question.
        share: scale each bar to fractions of its own sum.

    Returns:
        The figure.

    Raises:
        ValueError: bars differ in their parts, or a value is negative or NaN; ``alt`` says too little.
    """
    require_non_empty("groups", groups)
    parts = list(next(iter(groups.values())))
    for name, values in groups.items():
        if list(values) != parts or not parts:
            raise ValueError(f"group {name!r} must have the parts {parts}, got {list(values)}")
        if not all(value >= 0 for value in values.values()):
            raise ValueError(f"group {name!r} must have values >= 0, got {list(values.values())}")
    canvas, (axes,) = new_axes(alt=alt, height=1.2 + 0.45 * len(groups))
    axes.set(xlabel=xlabel)
    axes.grid(axis="y", visible=False)
    left = [0.0] * len(groups)
    hatches = ("", "//", "..", "\\\\", "xx", "--")
    for number, part in enumerate(parts):
        totals = [sum(values.values()) if share else 1.0 for values in groups.values()]
        lengths = [
            values[part] / total if total else 0.0 for values, total in zip(groups.values(), totals, strict=True)
        ]
        axes.barh(
            [-place for place in range(len(groups))], lengths, left=left, height=0.62, label=part,
            color=COLORS[number % len(COLORS)], alpha=0.85, hatch=hatches[number % len(hatches)], edgecolor=INK,
            linewidth=0.4,
        )  # fmt: skip
        left = [start + length for start, length in zip(left, lengths, strict=True)]
    axes.set_yticks([-place for place in range(len(groups))], labels=list(groups))
    if len(parts) > 1:
        canvas.legend(loc="outside upper center", ncols=min(len(parts), 4))
    return finish(canvas, alt=alt, caption=caption)
