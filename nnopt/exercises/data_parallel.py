"""Exercises of the chapter ``distributed/data_parallel``."""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from nnopt.distributed import WorkerError, launch

from ._verdict import Verdict

__all__ = ["check_averaging"]

_DEADLINE_S = 30.0
_PARTS = ((3, 1), (4, 4), (2, 5), (6, 0))


def check_averaging(candidate: Callable[[Tensor, int], Tensor]) -> Verdict:
    """Check a function that averages gradients over real processes, in two of them.

    Args:
        candidate: called in every rank as ``candidate(gradient, num_rows)`` with the gradient of the mean over
            this rank's rows, and returns that of the mean over all rows. In a file of its own, since other
            processes have to import it. A rank may have no rows; its gradient is then NaN.

    Returns:
        A verdict; the parts have 3 and 1, 4 and 4, 2 and 5, and 6 and 0 rows.

    Raises:
        ValueError: the function cannot be found by another process.
    """
    try:
        answers = launch(_answers, 2, candidate, deadline_s=_DEADLINE_S)
    except WorkerError as error:
        return Verdict(False, f"In rank {error.rank} your function fails: {error.report.strip().splitlines()[-1]}")
    except TimeoutError:
        return Verdict(False, "Your function waits for ever: every rank must call the same collectives.")
    for parts, first, second in zip(_PARTS, *answers, strict=True):
        for rank, (answer, right, kept) in enumerate((first, second)):
            if not kept:
                return Verdict(False, "Your function changes the gradient that it is given.")
            if answer != right:  # NaN is wrong too
                where = f"With parts of {parts[0]} and {parts[1]} rows"
                return Verdict(False, f"{where} rank {rank} gets {answer:.4g}, and the whole batch gives {right:.4g}.")
    return Verdict(True, "Your average is the gradient of the whole batch, however uneven the parts are.")


def _answers(candidate: Callable[[Tensor, int], Tensor]) -> list[tuple[float, float, bool]]:
    """Return, for each split of a batch, the candidate's answer, the right one, and whether its input was kept.

    The loss ½ mean (θ − x)² at θ = 0 has the gradient −mean x: small integers, exact in every order.
    """
    answers = []
    for parts in _PARTS:
        rows = torch.arange(1.0, sum(parts) + 1, dtype=torch.float64) ** 2 * 840
        mine = rows.split(list(parts))[dist.get_rank()]
        gradient = -mine.mean(dim=0, keepdim=True)
        kept = gradient.clone()
        answer = candidate(gradient, len(mine))
        same = torch.equal(gradient.nan_to_num(), kept.nan_to_num())
        answers.append((round(float(answer), 6), round(float(-rows.mean()), 6), same))
    return answers
