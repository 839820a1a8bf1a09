"""Optimizers: each rule as a pure step in the letters of its chapter."""

from .descent import gradient_step as gradient_step
from .descent import largest_curvature as largest_curvature
from .descent import stability_limit as stability_limit
from .momentum import critical_momentum as critical_momentum
from .momentum import momentum_rate as momentum_rate
from .momentum import momentum_step as momentum_step
from .momentum import optimal_momentum as optimal_momentum

__all__ = [
    "critical_momentum",
    "gradient_step",
    "largest_curvature",
    "momentum_rate",
    "momentum_step",
    "optimal_momentum",
    "stability_limit",
]
