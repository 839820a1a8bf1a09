"""The checker accepts the variance that a mean leaves and refuses the planted wrong ones."""

from collections.abc import Callable

import pytest
import torch

from nnopt import exercises
from nnopt.exercises.averaging import _WALKS

Fraction = Callable[[float, int], float]


def by_lags(contraction: float, count: int) -> float:
    lags = sum((count - lag) * contraction**lag for lag in range(1, count))
    return float((count + 2 * lags) / count**2)


def closed_form(contraction: float, count: int) -> float:
    rest = 2 * contraction * (1 - contraction**count) / (count * (1 - contraction) ** 2)
    return ((1 + contraction) / (1 - contraction) - rest) / count


def by_matrix(contraction: float, count: int) -> float:
    place = torch.arange(count, dtype=torch.float64)
    gaps = (place - place.unsqueeze(1)).abs()
    return float((torch.tensor(contraction, dtype=torch.float64) ** gaps).mean())


@pytest.mark.parametrize("right", [by_lags, closed_form, by_matrix])
def test_right_answers_pass(right: Fraction) -> None:
    assert exercises.check_noise_of_mean(right)


def as_if_independent(contraction: float, count: int) -> float:
    return 1 / count


def of_a_long_mean(contraction: float, count: int) -> float:
    return (1 + contraction) / (1 - contraction) / count


def pairs_once(contraction: float, count: int) -> float:
    return sum((count - lag) * contraction**lag for lag in range(count)) / count**2


def one_point_too_many(contraction: float, count: int) -> float:
    return by_lags(contraction, count + 1)


def of_the_exponential_mean(contraction: float, count: int) -> float:
    decay = 1 - 1 / count
    return (1 - decay) * (1 + decay * contraction) / ((1 + decay) * (1 - decay * contraction))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (as_if_independent, "not independent"),
        (of_a_long_mean, "For a single point you find 4 of the variance; it is 1"),
        (pairs_once, "For a steep direction you find"),
        (one_point_too_many, "For a single point you find 0.8"),
        (of_the_exponential_mean, "For steps that forget at once"),
    ],
)
def test_planted_wrong_answers_are_refused_with_a_reason(wrong: Fraction, message: str) -> None:
    verdict = exercises.check_noise_of_mean(wrong)
    assert not verdict
    assert message in repr(verdict)


def test_the_hidden_walks_are_those_of_simulated_descent() -> None:
    contraction, count = _WALKS["a steep direction"]
    noise = torch.Generator().manual_seed(0)
    point = torch.randn(40_000, generator=noise, dtype=torch.float64) / (1 - contraction**2) ** 0.5
    total = torch.zeros_like(point)
    for _ in range(count):
        point = contraction * point + torch.randn(len(point), generator=noise, dtype=torch.float64)
        total += point
    fraction = float((total / count).var() * (1 - contraction**2))
    assert fraction == pytest.approx(by_lags(contraction, count), rel=0.05)
