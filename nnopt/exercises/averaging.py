"""Exercises of the chapter ``optimizers/averaging``."""

import math
from collections.abc import Callable

from ._verdict import Verdict

__all__ = ["check_noise_of_mean"]

# name -> what a step leaves of the distance (1 − ηλ), points in the mean
_WALKS = {
    "a single point": (0.6, 1),
    "steps that forget at once": (0.0, 7),
    "a steep direction": (0.5, 12),
    "a direction in which every step jumps across": (-0.8, 25),
    "a flat direction and a short mean": (0.99, 10),
    "a flat direction and a long mean": (0.97, 400),
}


def check_noise_of_mean(candidate: Callable[[float, int], float]) -> Verdict:
    """Check how much variance a plain mean leaves of points that follow each other.

    Args:
        candidate: (contraction, count) -> variance of the mean of ``count`` successive points over the variance
            of one of them, for points whose correlation is contraction ** (steps between them).

    Returns:
        A verdict. On every hidden walk the fraction must be right to a millionth.
    """
    for name, (contraction, count) in _WALKS.items():
        found = float(candidate(contraction, count))
        # every pair of points, one by one
        total = math.fsum(contraction ** abs(i - j) for i in range(count) for j in range(count))
        right = total / count**2
        if not math.isclose(found, right, rel_tol=1e-6):
            hint = ""
            if math.isclose(found, 1 / count, rel_tol=1e-6):
                hint = " Successive points are not independent."
            return Verdict(False, f"For {name} you find {found:.4g} of the variance; it is {right:.4g}.{hint}")
    return Verdict(True, "On every hidden walk this is the variance that the mean leaves.")
