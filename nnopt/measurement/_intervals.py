"""The statistics behind the claims: intervals of paired runs and what a pilot promises."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """Mean of paired values with its 95 % t interval and their standard deviation."""

    mean: float
    low: float
    high: float
    sd: float


def t_interval(values: Sequence[float]) -> Interval:
    """Return the interval of the mean; a spread of exactly zero gives an interval of no width."""
    array = np.asarray(values, dtype=np.float64)
    mean, sd = float(array.mean()), float(array.std(ddof=1))
    if sd == 0.0:
        return Interval(mean, mean, mean, 0.0)
    half = t_quantile((1 + CONFIDENCE) / 2, len(array) - 1) * sd / math.sqrt(len(array))
    return Interval(mean, mean - half, mean + half, sd)


def t_quantile(probability: float, degrees: int) -> float:
    """Return the quantile of Student's distribution."""
    from scipy import special  # importing scipy.stats instead would take seconds

    return float(special.stdtrit(degrees, probability))


def clopper_pearson(successes: int, trials: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a probability."""
    from scipy import special

    tail = (1 - CONFIDENCE) / 2
    low = special.betaincinv(successes, trials - successes + 1, tail) if successes > 0 else 0.0
    high = special.betaincinv(successes + 1, trials - successes, 1 - tail) if successes < trials else 1.0
    return float(low), float(high)


def hold_probability(distance: float, num_seeds: int) -> float:
    """Return the chance that a *difference* claim holds again at fresh seeds.

    The paired differences are taken as normal; the claim holds when the near end of its 95 % t interval
    clears the margin, an event of the noncentral t distribution.

    Args:
        distance: from the true effect to the margin, in standard errors of the paired mean; negative
            on the wrong side.
        num_seeds: paired runs, at least 2.

    Returns:
        A probability; about one half when the distance is the critical value of t.

    Raises:
        ValueError: ``num_seeds`` is below 2 or ``distance`` is not finite.

    Source:
        Noncentral t distribution as in any power analysis of the paired t test.

    Example:
        >>> round(hold_probability(3.0, 5), 2), round(hold_probability(7.0, 8), 2)
        (0.62, 1.0)
    """
    from scipy import special

    if num_seeds < 2:
        raise ValueError(f"num_seeds must be >= 2, got {num_seeds!r}")
    if not math.isfinite(distance):
        raise ValueError(f"distance must be finite, got {distance!r}")
    critical = t_quantile((1 + CONFIDENCE) / 2, num_seeds - 1)
    return float(1 - special.nctdtr(num_seeds - 1, distance, critical))
