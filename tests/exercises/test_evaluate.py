"""The checker accepts the estimate with swapped roles and refuses the tempting shortcuts."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nnopt import exercises


def right(first: Tensor, second: Tensor) -> float:
    a, b = first.argmax(), second.argmax()
    return float((first[a] - second[a] + second[b] - first[b]) / 2)


def changes_its_input(first: Tensor, second: Tensor) -> float:
    answer = right(first, second)
    first.zero_()
    return answer


WRONG: dict[str, Callable[[Tensor, Tensor], float]] = {
    "one role only": lambda first, second: float(first.max() - second[first.argmax()]),
    "against the average model": lambda first, second: float(
        (first.max() - first.mean() + second.max() - second.mean()) / 2
    ),
    "the best of each half": lambda first, second: float(first.max() - second.max()),
    "chosen and judged by the same rows": lambda first, second: float(((first + second) / 2).max() - first.max()),
    "never any optimism": lambda first, second: 0.0,
    "the spread": lambda first, second: float(first.std()),
    "the sum of both roles": lambda first, second: 2 * right(first, second),
    "NaN": lambda first, second: float("nan"),
    "changes its input": changes_its_input,
}


def test_the_right_estimate_passes() -> None:
    verdict = exercises.check_optimism(right)
    assert repr(verdict) == "✓ Your estimate is right on every hidden pair of halves."


@pytest.mark.parametrize("name", WRONG)
def test_planted_wrong_estimates_are_refused(name: str) -> None:
    verdict = exercises.check_optimism(WRONG[name])
    assert not verdict
    assert repr(verdict).startswith("✗ ")


def test_the_hidden_cases_have_no_ties() -> None:
    from nnopt.exercises.evaluate import _cases

    for first, second in _cases().values():
        assert torch.unique(first).numel() == first.numel()
        assert torch.unique(second).numel() == second.numel()
