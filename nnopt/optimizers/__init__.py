"""Optimizers: each rule as a pure step in the letters of its chapter."""

from ._feedback import Plateau as Plateau
from ._feedback import RangeTest as RangeTest
from ._feedback import range_test as range_test
from ._noise import expected_loss as expected_loss
from .descent import gradient_step as gradient_step
from .descent import largest_curvature as largest_curvature
from .descent import stability_limit as stability_limit
from .momentum import critical_momentum as critical_momentum
from .momentum import momentum_rate as momentum_rate
from .momentum import momentum_step as momentum_step
from .momentum import optimal_momentum as optimal_momentum
from .schedules import constant as constant
from .schedules import cosine as cosine
from .schedules import exponential as exponential
from .schedules import inverse_square_root as inverse_square_root
from .schedules import linear as linear
from .schedules import one_cycle as one_cycle
from .schedules import step_decay as step_decay
from .schedules import warmup_stable_decay as warmup_stable_decay
from .schedules import with_warmup as with_warmup

__all__ = [
    "Plateau",
    "RangeTest",
    "constant",
    "cosine",
    "critical_momentum",
    "expected_loss",
    "exponential",
    "gradient_step",
    "inverse_square_root",
    "largest_curvature",
    "linear",
    "momentum_rate",
    "momentum_step",
    "one_cycle",
    "optimal_momentum",
    "range_test",
    "stability_limit",
    "step_decay",
    "warmup_stable_decay",
    "with_warmup",
]
