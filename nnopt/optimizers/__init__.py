"""Optimizers: each rule as a pure step in the letters of its chapter, and classes where torch has none."""

from ._adaptive_variants import adafactor_step as adafactor_step
from ._adaptive_variants import nadam_step as nadam_step
from ._adaptive_variants import radam_step as radam_step
from ._lion import Lion as Lion
from .adaptive import adagrad_step as adagrad_step
from .adaptive import adam_step as adam_step
from .adaptive import lion_step as lion_step
from .adaptive import rmsprop_step as rmsprop_step
from .descent import gradient_step as gradient_step
from .descent import largest_curvature as largest_curvature
from .descent import stability_limit as stability_limit
from .momentum import critical_momentum as critical_momentum
from .momentum import momentum_rate as momentum_rate
from .momentum import momentum_step as momentum_step
from .momentum import optimal_momentum as optimal_momentum

__all__ = [
    "Lion",
    "adafactor_step",
    "adagrad_step",
    "adam_step",
    "critical_momentum",
    "gradient_step",
    "largest_curvature",
    "lion_step",
    "momentum_rate",
    "momentum_step",
    "nadam_step",
    "optimal_momentum",
    "radam_step",
    "rmsprop_step",
    "stability_limit",
]
