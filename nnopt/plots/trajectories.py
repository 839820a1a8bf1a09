"""Paths of an optimizer over the level lines of a loss in two variables."""

from collections.abc import Callable, Mapping

import numpy as np

from nnopt.checks import require_non_empty

from ._figure import COLORS, DASHES, GRID, Figure, finish, name_lines, new_axes, styled
from ._prepare import Numbers, as_array

__all__ = ["trajectories"]


@styled
def trajectories(
    loss: Callable[[np.ndarray, np.ndarray], np.ndarray],
    paths: Mapping[str, Numbers],
    *,
    alt: str,
    caption: str = "",
    xlim: tuple[float, float],
    ylim: tuple[float, float],
    xlabel: str = "first weight",
    ylabel: str = "second weight",
    num_levels: int = 12,
) -> Figure:
    """Draw level lines of ``loss`` and the paths that optimizers took over them.

    Args:
        loss: two arrays of coordinates -> values of the same shape.
        paths: name -> points (T, 2), in the order of the steps.
        alt: what the figure shows; at least four words.
        caption: one sentence that answers the figure's question.
        xlim: range of the first coordinate.
        ylim: range of the second coordinate.
        xlabel: what the first coordinate is.
        ylabel: what the second is.
        num_levels: how many level lines, at quantiles of the loss.

    Returns:
        The figure.

    Raises:
        ValueError: a path is empty, holds NaN or is not (T, 2); ``alt`` says too little.
    """
    require_non_empty("paths", paths)
    arrays = {name: as_array(f"path {name!r}", points) for name, points in paths.items()}
    for name, points in arrays.items():
        if points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(f"path {name!r} must have shape (T, 2), got {points.shape}")
    canvas, (axes,) = new_axes(alt=alt, height=4.2)
    grid_x, grid_y = np.meshgrid(np.linspace(*xlim, 160), np.linspace(*ylim, 160))
    values = loss(grid_x, grid_y)
    levels = np.unique(np.quantile(values, np.linspace(0.01, 0.95, num_levels)))
    axes.contour(grid_x, grid_y, values, levels=levels, colors=GRID, linewidths=1.0, linestyles="solid")
    for number, (name, points) in enumerate(arrays.items()):
        axes.plot(
            points[:, 0], points[:, 1], color=COLORS[number % len(COLORS)], linestyle=DASHES[number % len(DASHES)],
            marker="o", markersize=3, linewidth=1.2, label=name,
        )  # fmt: skip
    axes.set(xlim=xlim, ylim=ylim, xlabel=xlabel, ylabel=ylabel)
    axes.grid(visible=False)
    name_lines(canvas, axes)
    return finish(canvas, alt=alt, caption=caption)
