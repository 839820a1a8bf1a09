"""The checker accepts the probability of improvement and refuses the planted wrong ones."""

from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import Tensor

from nnopt import exercises

Probability = Callable[[Tensor, Tensor], float]


def by_pairs(first: Tensor, second: Tensor) -> float:
    one, other = first.unsqueeze(2), second.unsqueeze(1)
    return float(((one < other).double() + (one == other).double() / 2).mean(dim=(1, 2)).mean())


def by_the_statistic_of_mann_and_whitney(first: Tensor, second: Tensor) -> float:
    shares = [
        stats.mannwhitneyu(b.numpy(), a.numpy()).statistic / (len(a) * len(b))
        for a, b in zip(first, second, strict=True)
    ]
    return float(sum(shares) / len(shares))


@pytest.mark.parametrize("right", [by_pairs, by_the_statistic_of_mann_and_whitney])
def test_right_answers_pass(right: Probability) -> None:
    assert exercises.check_probability_of_improvement(right)


def run_against_run(first: Tensor, second: Tensor) -> float:
    return float(((first < second).double() + (first == second).double() / 2).mean())


def without_ties(first: Tensor, second: Tensor) -> float:
    return float((first.unsqueeze(2) < second.unsqueeze(1)).double().mean())


def all_tasks_together(first: Tensor, second: Tensor) -> float:
    return by_pairs(first.flatten().unsqueeze(0), second.flatten().unsqueeze(0))


def by_means(first: Tensor, second: Tensor) -> float:
    return float((first.mean(dim=1) < second.mean(dim=1)).double().mean())


def by_ratios(first: Tensor, second: Tensor) -> float:
    ratio = first.unsqueeze(2) / second.unsqueeze(1)
    return float(((ratio < 1).double() + (ratio == 1).double() / 2).mean())


def sorts_its_input(first: Tensor, second: Tensor) -> float:
    found = by_pairs(first, second)
    first.copy_(torch.flip(first, (1,)))
    return found


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (run_against_run, "For runs that overlap you find 0.3333; it is 0.4444"),
        (without_ties, "For ties you find 0; it is 0.3333"),
        (all_tasks_together, "For two tasks of different size you find"),
        (by_means, "For runs that overlap you find 0; it is"),
        (by_ratios, "For runs that never arrive you find 0.3333; it is 0.5556"),
        (sorts_its_input, "changes the tables"),
    ],
)
def test_planted_wrong_answers_are_refused_with_a_reason(wrong: Probability, message: str) -> None:
    verdict = exercises.check_probability_of_improvement(wrong)
    assert not verdict
    assert message in repr(verdict)
