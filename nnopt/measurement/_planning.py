"""What a pilot can carry: how many seeds a margin needs, and the boldest margin."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nnopt.checks import require_one_of

from ._intervals import t_interval

MIN_SEEDS = 8
NUM_PILOT_SEEDS = 16
MAX_SEEDS = 64

# paired standard deviations between the pilot's mean and the margin -> seeds needed, so that a claim
# planned on 16 pilots holds again at 99.5 % of fresh seeds (predictive, exact noncentral t)
_SEEDS_BY_DISTANCE = ((4.5, 5), (3.0, 8), (2.5, 9), (2.0, 13), (1.5, 26), (1.25, 38))


@dataclass(frozen=True)
class Plan:
    """What a pilot says about a claim that does not exist yet.

    Args:
        claimable: whether the pilot supports the claim at any number of seeds.
        num_seeds: paired runs the report needs; 0 if not claimable.
        distance: from the nearest pilot mean to the margin, in paired standard deviations.
        margin: the boldest margin that ``MIN_SEEDS`` runs would carry.
        advice: the same in words.
    """

    claimable: bool
    num_seeds: int
    distance: float
    margin: float
    advice: str

    def __str__(self) -> str:
        return self.advice


def outliers(values: Sequence[float]) -> int:
    """Count values more than 5 median absolute deviations from the median: collapsed runs."""
    array = np.asarray(values, dtype=np.float64)
    away = np.abs(array - np.median(array))
    spread = float(np.median(away)) * 1.4826  # consistent with a standard deviation for normal values
    return int((away > 5 * spread).sum()) if spread > 0 else 0


def seeds_needed(distance: float, *, num_sets: int) -> int | None:
    """Return how many runs a claim needs at this distance in standard deviations, or None."""
    if num_sets > 1:
        if distance <= 0:
            return None
        needed = max(MIN_SEEDS, math.ceil((6.0 / distance) ** 2))
        return needed if needed <= MAX_SEEDS else None
    for least, needed in _SEEDS_BY_DISTANCE:
        if distance >= least:
            return needed
    return None


def round_toward(value: float, target: float) -> float:
    """Round to two significant digits, never past ``value`` on the side away from ``target``."""
    if value == 0 or not math.isfinite(value):
        return value
    step = 10.0 ** (math.floor(math.log10(abs(value))) - 1)
    rounded = (math.ceil if target > value else math.floor)(value / step) * step
    return float(f"{rounded:.2g}")


def plan(
    pilot: Sequence[float],
    second: Sequence[float] | None = None,
    *,
    margin: float,
    direction: Literal["above", "below", "within"],
    scale: Literal["difference", "ratio"] = "difference",
) -> Plan:
    """Say what a pilot can carry: how many seeds a claim at this margin needs, and the boldest margin.

    Args:
        pilot: paired differences (or ratios) of one pilot set, at least 10, better 16.
        second: an independent second set, at least 10; then the nearer of the two means decides.
        margin: the one under consideration.
        direction: ``above``, ``below`` or ``within``.
        scale: ``difference`` or ``ratio``.

    Returns:
        The plan; ``str(plan)`` is its advice.

    Raises:
        ValueError: too few values, NaN, all values equal, or a collapsed run (claim a frequency).

    Example:
        >>> values = [0.10, 0.12, 0.11, 0.13, 0.09, 0.12, 0.11, 0.10, 0.12, 0.11]
        >>> plan(values, margin=0.05, direction="above").num_seeds
        5
    """
    require_one_of("direction", direction, ("above", "below", "within"))
    sets = [pilot] if second is None else [pilot, second]
    arrays = [_pilot_array(values, scale) for values in sets]
    goal = math.log(margin) if scale == "ratio" else float(margin)
    intervals = [t_interval(array.tolist()) for array in arrays]
    sd = max(interval.sd for interval in intervals)
    if direction == "within":
        nearest = max(abs(interval.mean) for interval in intervals)
        gap = goal - nearest
    else:
        sign = 1.0 if direction == "above" else -1.0
        nearest = min((interval.mean for interval in intervals), key=lambda mean: sign * mean)
        gap = sign * (nearest - goal)
    needed = seeds_needed(gap / sd, num_sets=len(sets))
    reach = (6.0 / math.sqrt(MIN_SEEDS) if second is not None else 3.0) * sd
    boldest = nearest + reach if direction == "within" else nearest - (reach if direction == "above" else -reach)
    suggested = math.exp(boldest) if scale == "ratio" else boldest
    suggested = round_toward(suggested, -math.inf if direction == "above" else math.inf)
    null = 1.0 if scale == "ratio" else 0.0
    carried = direction == "within" or (suggested > null if direction == "above" else suggested < null)
    bold = f"{MIN_SEEDS} seeds would carry {suggested:g}" if carried else f"{MIN_SEEDS} seeds would carry no margin"
    verdict = "too near to claim" if needed is None else f"{needed} seeds"
    advice = f"{gap / sd:.1f} paired standard deviations from the margin {margin:g}: {verdict}; {bold}."
    return Plan(needed is not None, needed or 0, gap / sd, suggested, advice)


def _pilot_array(values: Sequence[float], scale: Literal["difference", "ratio"]) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < 10:
        raise ValueError(f"a pilot set must hold at least 10 values, got shape {array.shape}")
    if scale == "ratio":
        if not (array > 0).all():
            raise ValueError("ratios must be > 0")
        array = np.log(array)
    if not np.isfinite(array).all():
        raise ValueError("a pilot must be finite: count failures with a frequency")
    if array.std() == 0:
        raise ValueError("every pilot run gave the same value: claim a bound")
    if collapsed := outliers(array.tolist()):
        raise ValueError(f"{collapsed} of {len(array)} pilot runs lie more than 5 deviations away: claim a frequency")
    return array
