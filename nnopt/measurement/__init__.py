"""Measuring: what a model costs, how long it takes, and what a comparison proves."""

from .claims import Claim as Claim
from .claims import ClaimFailed as ClaimFailed
from .claims import Plan as Plan
from .claims import bound as bound
from .claims import difference as difference
from .claims import equivalence as equivalence
from .claims import frequency as frequency
from .claims import glue as glue
from .claims import hold_probability as hold_probability
from .claims import plan as plan
from .claims import time_ratio as time_ratio

__all__ = [
    "Claim",
    "ClaimFailed",
    "Plan",
    "bound",
    "difference",
    "equivalence",
    "frequency",
    "glue",
    "hold_probability",
    "plan",
    "time_ratio",
]
