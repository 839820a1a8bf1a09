"""Figures of the book: plain numbers in, inline SVG out, in the colors of the page."""

from ._figure import Figure as Figure
from .curves import curves as curves
from .histograms import histograms as histograms
from .interactive import noise_and_decay as noise_and_decay
from .interactive import rolling_point as rolling_point
from .interactive import valley_and_roots as valley_and_roots
from .interactive import will_it_hold as will_it_hold
from .intervals import bars as bars
from .intervals import intervals as intervals
from .intervals import paired as paired
from .trajectories import trajectories as trajectories

__all__ = [
    "Figure",
    "bars",
    "curves",
    "histograms",
    "intervals",
    "paired",
    "noise_and_decay",
    "rolling_point",
    "trajectories",
    "valley_and_roots",
    "will_it_hold",
]
