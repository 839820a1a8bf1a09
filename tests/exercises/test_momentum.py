"""The checker accepts every right choice of learning rate and momentum and refuses the planted wrong ones."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nnopt import exercises
from nnopt.optimizers import optimal_momentum

Gradient = Callable[[Tensor], Tensor]


def curvatures(gradient: Gradient, size: int) -> tuple[float, float]:
    at_zero = gradient(torch.zeros(size, dtype=torch.float64))
    columns = [gradient(unit) - at_zero for unit in torch.eye(size, dtype=torch.float64)]
    eigenvalues = torch.linalg.eigvalsh(torch.stack(columns))
    return float(eigenvalues[0]), float(eigenvalues[-1])


def from_the_matrix(gradient: Gradient, size: int) -> tuple[float, float]:
    return optimal_momentum(*curvatures(gradient, size))


def by_power_iteration(gradient: Gradient, size: int) -> tuple[float, float]:
    at_zero = gradient(torch.zeros(size, dtype=torch.float64))

    def largest(shift: float) -> float:
        vector = torch.arange(1, size + 1, dtype=torch.float64).sqrt()
        for _ in range(4000):
            image = gradient(vector) - at_zero - shift * vector
            vector = image / image.norm()
        return float(vector @ (gradient(vector) - at_zero))

    high = largest(0.0)
    return optimal_momentum(largest(high), high)


@pytest.mark.parametrize("right", [from_the_matrix, by_power_iteration])
def test_right_answers_pass(right: Callable[[Gradient, int], tuple[float, float]]) -> None:
    verdict = exercises.check_momentum_choice(right)
    assert verdict
    assert repr(verdict) == "✓ On every hidden valley you are within a tenth of the fastest heavy ball."


def forgets_the_square(gradient: Gradient, size: int) -> tuple[float, float]:
    lr, momentum = from_the_matrix(gradient, size)
    return lr, math.sqrt(momentum)


def plain(gradient: Gradient, size: int) -> tuple[float, float]:
    low, high = curvatures(gradient, size)
    return 2 / (low + high), 0.0


def no_roots_of_the_condition(gradient: Gradient, size: int) -> tuple[float, float]:
    low, high = curvatures(gradient, size)
    return optimal_momentum(low, high)[0], ((high - low) / (high + low)) ** 2


def the_rate_of_plain_descent(gradient: Gradient, size: int) -> tuple[float, float]:
    low, high = curvatures(gradient, size)
    return 2 / (low + high), optimal_momentum(low, high)[1]


def minimum_taken_for_zero(gradient: Gradient, size: int) -> tuple[float, float]:
    columns = [gradient(unit) for unit in torch.eye(size, dtype=torch.float64)]
    sizes = torch.linalg.svdvals(torch.stack(columns))
    return optimal_momentum(float(sizes[-1]), float(sizes[0]))


def the_diagonal(gradient: Gradient, size: int) -> tuple[float, float]:
    at_zero = gradient(torch.zeros(size, dtype=torch.float64))
    units = torch.eye(size, dtype=torch.float64)
    diagonal = [float(unit @ (gradient(unit) - at_zero)) for unit in units]
    return optimal_momentum(min(diagonal), max(diagonal))


WRONG: dict[str, Callable[[Gradient, int], tuple[float, float]]] = {
    "the default": lambda gradient, size: (0.01, 0.9),
    "momentum 0.9 at the right rate": lambda gradient, size: (from_the_matrix(gradient, size)[0], 0.9),
    "plain descent at its best": plain,
    "the rate of plain descent": the_rate_of_plain_descent,
    "the square forgotten": forgets_the_square,
    "the condition without its root": no_roots_of_the_condition,
    "the minimum taken for zero": minimum_taken_for_zero,
    "the diagonal": the_diagonal,
    "Nesterov's settings": lambda gradient, size: optimal_momentum(*curvatures(gradient, size), nesterov=True),
    "past the edge": lambda gradient, size: (4 / curvatures(gradient, size)[1], 0.5),
    "momentum one": lambda gradient, size: (0.01, 1.0),
    "NaN": lambda gradient, size: (float("nan"), 0.5),
}


@pytest.mark.parametrize("name", WRONG)
def test_planted_wrong_answers_are_refused(name: str) -> None:
    verdict = exercises.check_momentum_choice(WRONG[name])
    assert not verdict
    assert repr(verdict).startswith("✗ ")
