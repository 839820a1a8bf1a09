"""The checker accepts every sound repair of a collinear layer and refuses the planted wrong ones."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nnopt import exercises
from nnopt.merging import ridge_regression

Pair = tuple[Tensor, Tensor]


def centered(features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x_mean, y_mean = features.mean(0), targets.mean(0)
    return features - x_mean, targets - y_mean, x_mean, y_mean


def by_normal_equations(features: Tensor, targets: Tensor) -> Pair:
    x, y, x_mean, y_mean = centered(features, targets)
    penalty = 1e-3 * len(x) * x.square().mean() * torch.eye(x.shape[1]).to(x)
    weight = torch.linalg.solve(x.T @ x + penalty, x.T @ y).T
    return weight, y_mean - weight @ x_mean


def by_few_directions(features: Tensor, targets: Tensor) -> Pair:
    x, y, x_mean, y_mean = centered(features, targets)
    weight = (torch.linalg.pinv(x, rtol=1e-4) @ y).T
    return weight, y_mean - weight @ x_mean


@pytest.mark.parametrize("right", [by_normal_equations, by_few_directions])
def test_sound_repairs_pass(right: Callable[[Tensor, Tensor], Pair]) -> None:
    assert repr(exercises.check_repair(right)) == "✓ Your repair holds on rows that it has not seen."


def least_squares(features: Tensor, targets: Tensor) -> Pair:
    return ridge_regression(features, targets, ridge=0.0)


def without_bias(features: Tensor, targets: Tensor) -> Pair:
    weight = torch.linalg.solve(features.T @ features + torch.eye(12).to(features), features.T @ targets).T
    return weight, torch.zeros(3).to(weight)


def far_too_much(features: Tensor, targets: Tensor) -> Pair:
    return ridge_regression(features, targets, ridge=10.0)


def bias_penalized(features: Tensor, targets: Tensor) -> Pair:
    x = torch.cat([features, torch.ones(len(features), 1).to(features)], dim=1)
    solution = torch.linalg.solve(x.T @ x + 100 * torch.eye(13).to(x), x.T @ targets)
    return solution[:-1].T, solution[-1]


def transposed(features: Tensor, targets: Tensor) -> Pair:
    weight, bias = by_normal_equations(features, targets)
    return weight.T, bias


def not_a_number(features: Tensor, targets: Tensor) -> Pair:
    weight, bias = by_normal_equations(features, targets)
    return weight * float("nan"), bias


def in_place(features: Tensor, targets: Tensor) -> Pair:
    answer = by_normal_equations(features, targets)
    features -= features.mean(0)
    return answer


WRONG: dict[Callable[[Tensor, Tensor], Pair], str] = {
    least_squares: "On rows it has not seen",
    without_bias: "On rows it has not seen",
    far_too_much: "On rows it has not seen",
    bias_penalized: "On rows it has not seen",
    transposed: "must have the shapes (3, 12) and (3,), yours (12, 3) and (3,)",
    not_a_number: "squared error nan",
    in_place: "changes what it is given",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_planted_wrong_repairs_are_refused(wrong: Callable[[Tensor, Tensor], Pair]) -> None:
    verdict = exercises.check_repair(wrong)
    assert not verdict
    assert WRONG[wrong] in verdict.sentence
