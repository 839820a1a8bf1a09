"""Distributions of one number over runs."""

from collections.abc import Mapping

import numpy as np

from nnopt.checks import require_integer, require_non_empty

from ._figure import COLORS, DASHES, Figure, finish, mark_positions, name_lines, new_axes, styled
from ._prepare import Numbers, as_array

__all__ = ["histograms"]


@styled
def histograms(
    samples: Mapping[str, Numbers],
    *,
    alt: str,
    xlabel: str,
    caption: str = "",
    num_bins: int = 30,
    vertical: Mapping[str, float] | None = None,
) -> Figure:
    """Draw the distributions of several samples over common bins, as fractions of runs.

    Args:
        samples: name -> values, any shape.
        alt: what the figure shows; at least four words.
        xlabel: with unit.
        caption: one sentence that answers the figure's question.
        num_bins: how many bins, at least 2.
        vertical: label -> position of a reference line.

    Returns:
        The figure.

    Raises:
        ValueError: a sample is empty or holds NaN; ``alt`` says too little.
    """
    require_non_empty("samples", samples)
    require_integer("num_bins", num_bins, minimum=2)
    arrays = {name: as_array(f"sample {name!r}", values).ravel() for name, values in samples.items()}
    everything = np.concatenate(list(arrays.values()))
    edges = np.linspace(everything.min(), everything.max() + 1e-12, num_bins + 1)
    canvas, (axes,) = new_axes(alt=alt)
    axes.set(xlabel=xlabel, ylabel="fraction of runs")
    for number, (name, values) in enumerate(arrays.items()):
        heights = np.histogram(values, edges)[0] / len(values)
        color = COLORS[number % len(COLORS)]
        axes.stairs(heights, edges, fill=True, color=color, alpha=0.25)
        axes.stairs(heights, edges, color=color, linestyle=DASHES[number % len(DASHES)], linewidth=1.6, label=name)
    mark_positions(axes, vertical or {})
    name_lines(canvas, axes)
    return finish(canvas, alt=alt, caption=caption)
