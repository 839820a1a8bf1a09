"""Optimizers: each rule as a pure step in the letters of its chapter."""

from .descent import gradient_step as gradient_step
from .descent import largest_curvature as largest_curvature
from .descent import stability_limit as stability_limit

__all__ = ["gradient_step", "largest_curvature", "stability_limit"]
