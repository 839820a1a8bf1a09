"""Exercises of the chapter ``optimizers/schedules``."""

import math
from collections.abc import Callable, Sequence

from ._verdict import Verdict

__all__ = ["check_greedy_rates"]

# curvature, variance of the gradient, mean square of the start, steps
_PROBLEMS = {
    "a still day": (2.0, 1e-3, 1.0, 5),
    "a breeze": (1.0, 0.04, 1.0, 50),
    "a storm on flat ground": (0.1, 3.0, 4.0, 200),
}


def check_greedy_rates(candidate: Callable[[float, float, float, int], Sequence[float]]) -> Verdict:
    """Check the rates that minimize the expected square of noisy descent in each step.

    Args:
        candidate: (curvature, variance of the gradient, mean square of the start, number of steps) -> the
            learning rates.

    Returns:
        A verdict. On every hidden problem the square must come out within a millionth of the least possible.
    """
    for name, (curvature, noise, start, num_steps) in _PROBLEMS.items():
        rates = [float(rate) for rate in candidate(curvature, noise, start, num_steps)]
        if len(rates) != num_steps:
            return Verdict(False, f"On {name} you return {len(rates)} rates for {num_steps} steps.")
        if not all(math.isfinite(rate) and rate >= 0 for rate in rates):
            return Verdict(False, f"On {name} a rate is negative or no number.")
        square = start
        for rate in rates:
            square = (1 - rate * curvature) ** 2 * square + rate**2 * noise
        # every greedy step adds λ²/σ² to the inverse of the square
        least = 1 / (1 / start + num_steps * curvature**2 / noise)
        if square > least * (1 + 1e-6):
            return Verdict(False, f"On {name} the square ends at {square:.4g}; {least:.4g} is possible.")
    return Verdict(True, "On every hidden problem no sequence of rates ends closer.")
