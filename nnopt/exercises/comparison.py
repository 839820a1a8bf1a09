"""Exercises of the chapter ``optimizers/comparison``."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ._verdict import Verdict

__all__ = ["check_probability_of_improvement"]

_INF = math.inf
# name -> costs of the first method and of the second, (tasks, runs)
_TABLES: dict[str, tuple[list[list[float]], list[list[float]]]] = {
    "one task and clear runs": ([[1.0, 2.0, 3.0]], [[5.0, 4.0, 6.0]]),
    "runs that overlap": ([[1.0, 4.0, 6.0]], [[2.0, 3.0, 5.0]]),
    "ties": ([[2.0, 2.0, 2.0]], [[2.0, 2.0, 1.0]]),
    "two tasks of different size": ([[1.0, 2.0], [300.0, 400.0]], [[3.0, 4.0], [100.0, 350.0]]),
    "runs that never arrive": ([[1.0, _INF, _INF]], [[_INF, _INF, 2.0]]),
}


def check_probability_of_improvement(candidate: Callable[[Tensor, Tensor], float]) -> Verdict:
    """Check how probable it is that a run of one method costs less than a run of another.

    Args:
        candidate: (costs of the first, costs of the second), each (T, R), infinite for a run that never arrives
            -> probability, averaged over the T tasks, with ties counted one half.

    Returns:
        A verdict. On every hidden table the probability must be right to a millionth, and the tables unchanged.
    """
    for name, (first, second) in _TABLES.items():
        tables = torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64)
        before = [table.clone() for table in tables]
        found = float(candidate(*tables))
        if not all(map(torch.equal, tables, before)):
            return Verdict(False, "Your function changes the tables that it is given.")
        # every pair of runs, one by one
        shares = [
            math.fsum((a < b) + (a == b) / 2 for a in one for b in other) / (len(one) * len(other))
            for one, other in zip(first, second, strict=True)
        ]
        right = math.fsum(shares) / len(shares)
        if not math.isclose(found, right, rel_tol=1e-6):
            return Verdict(False, f"For {name} you find {found:.4g}; it is {right:.4g}.")
    return Verdict(True, "On every hidden table this is the probability of improvement.")
