"""Curves over steps, epochs or a hyper-parameter, with their seeds or intervals."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from nnopt.checks import require_non_empty, require_one_of

from ._figure import (
    COLORS,
    DASHES,
    Figure,
    finish,
    label_log_axis,
    mark_levels,
    mark_positions,
    name_lines,
    new_axes,
    styled,
)
from ._prepare import Numbers, as_array, mean_and_band

__all__ = ["curves"]


@styled
def curves(
    x: Numbers,
    series: Mapping[str, Numbers],
    *,
    alt: str,
    xlabel: str,
    ylabel: str,
    caption: str = "",
    spread: Literal["interval", "seeds"] = "interval",
    xscale: Literal["linear", "log"] = "linear",
    yscale: Literal["linear", "log"] = "linear",
    vertical: Mapping[str, float] | None = None,
    horizontal: Mapping[str, float] | None = None,
    ylim: tuple[float, float] | None = None,
    markers: bool = False,
    size: Sequence[float] = (7.0, 3.4),
) -> Figure:
    """Draw one line per series; a series of several runs shows its spread.

    Args:
        x: positions (P,), shared by all series.
        series: name -> values (P,), or runs × values (R, P).
        alt: what the figure shows, for those who cannot see it; at least four words.
        xlabel: with unit.
        ylabel: with unit.
        caption: one sentence that answers the figure's question.
        spread: ``interval`` draws the mean and its 95 % t interval; ``seeds`` every run thinly.
        xscale: ``linear`` or ``log``.
        yscale: ``linear`` or ``log``.
        vertical: label -> position of a reference line.
        horizontal: label -> height of a reference line.
        ylim: limits of the vertical axis.
        markers: mark the points, for few of them.
        size: width and height in inches of the drawing, which the page scales.

    Returns:
        The figure.

    Raises:
        ValueError: a series is empty, holds NaN or does not fit ``x``; ``alt`` says too little.
    """
    require_non_empty("series", series)
    require_one_of("spread", spread, ("interval", "seeds"))
    positions = as_array("x", x)
    arrays = {name: as_array(f"series {name!r}", values) for name, values in series.items()}
    for name, values in arrays.items():
        if values.ndim not in (1, 2) or values.shape[-1] != len(positions):
            raise ValueError(f"series {name!r} must have shape (..., {len(positions)}), got {values.shape}")
    canvas, (axes,) = new_axes(alt=alt, width=size[0], height=size[1])
    axes.set(xlabel=xlabel, ylabel=ylabel, xscale=xscale, yscale=yscale)
    for number, (name, values) in enumerate(arrays.items()):
        color, dash = COLORS[number % len(COLORS)], DASHES[number % len(DASHES)]
        marker = "osD^vP"[number % 6] if markers else ""
        line = values
        if values.ndim == 2:
            if spread == "seeds" or len(values) == 1:
                axes.plot(positions, values.T, color=color, linewidth=0.6, alpha=0.45)
                line = np.median(values, axis=0)
            else:
                line, low, high = mean_and_band(values)
                axes.fill_between(positions, low, high, color=color, alpha=0.22, linewidth=0)
        axes.plot(positions, line, color=color, linestyle=dash, marker=marker, markersize=4.5, label=name)
    mark_positions(axes, vertical or {})
    if ylim is not None:
        axes.set_ylim(*ylim)
    mark_levels(axes, horizontal or {})
    if xscale == "log":
        label_log_axis(axes.xaxis, positions.tolist() if markers and len(positions) <= 10 else ())
    if yscale == "log":
        label_log_axis(axes.yaxis)
    name_lines(canvas, axes)
    return finish(canvas, alt=alt, caption=caption)
