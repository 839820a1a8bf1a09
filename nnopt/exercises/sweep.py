"""Exercises of the chapter ``training/sweep``."""

import math
from collections.abc import Callable

import numpy as np

from ._verdict import Verdict

__all__ = ["check_tuner"]

_BUDGET = 32
_NOISE = 0.25
# log10 of the best rate, curvature below it, steps of ten from it to the edge where runs diverge
_PROBLEMS = ((-2.6, 0.5, 0.6), (-1.2, 0.8, 1.2), (-0.1, 0.3, 0.4), (-3.4, 0.6, 0.9))


class _OverBudget(Exception):
    pass


def check_tuner(candidate: Callable[[Callable[[float], float]], float]) -> Verdict:
    """Check a function that spends 32 noisy training runs and returns a learning rate.

    Args:
        candidate: gets ``train``, which maps a learning rate to the validation loss of one run with a
            fresh seed (NaN if the run diverged), and may call it 32 times; returns the rate to use.
            Good rates lie somewhere between 1e-4 and 2.

    Returns:
        A verdict over four hidden problems, ten times each: the mean regret (mean loss at the returned
        rate minus the lowest mean loss) must stay below 0.15 on each, and no returned rate may diverge.
    """
    for number, problem in enumerate(_PROBLEMS, start=1):
        regrets = []
        for repetition in range(10):
            try:
                rate = float(candidate(_trainer(problem, np.random.default_rng([number, repetition]))))
            except _OverBudget:
                return Verdict(False, f"Your tuner asked for more than {_BUDGET} runs.")
            loss = _mean_loss(rate, problem)
            if math.isnan(loss):
                return Verdict(False, f"On problem {number} your tuner returned {rate:.2g}, at which runs diverge.")
            regrets.append(loss - 1.0)
        if np.mean(regrets) > 0.15:
            return Verdict(False, f"On problem {number} the rates you returned cost {np.mean(regrets):.2f} in loss.")
    return Verdict(True, "Your tuner finds good rates on every hidden problem, within its budget.")


def _trainer(problem: tuple[float, float, float], rng: np.random.Generator) -> Callable[[float], float]:
    left = [_BUDGET]

    def train(lr: float) -> float:
        if left[0] == 0:
            raise _OverBudget
        left[0] -= 1
        return _mean_loss(lr, problem) + float(rng.normal(0.0, _NOISE))

    return train


def _mean_loss(lr: float, problem: tuple[float, float, float]) -> float:
    """A valley in the logarithm of the rate, with lowest loss 1 and a cliff on its right."""
    best, slope, room = problem
    if not lr > 0:
        return math.nan
    away = math.log10(lr) - best
    if away > room:
        return math.nan
    return 1.0 + slope * away**2
