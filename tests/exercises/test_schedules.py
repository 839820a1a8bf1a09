"""The checker accepts the greedy rates and refuses the planted wrong ones."""

from collections.abc import Callable

import pytest

from nnopt import exercises

Rates = Callable[[float, float, float, int], list[float]]


def greedy(curvature: float, noise: float, square: float, num_steps: int) -> list[float]:
    chosen = []
    for _ in range(num_steps):
        rate = curvature * square / (curvature**2 * square + noise)
        square = (1 - rate * curvature) ** 2 * square + rate**2 * noise
        chosen.append(rate)
    return chosen


def closed_form(curvature: float, noise: float, square: float, num_steps: int) -> list[float]:
    """Write the greedy rates without a recursion: E_t = E / (1 + t E λ²/σ²)."""
    return [curvature * square / (curvature**2 * square * (t + 1) + noise) for t in range(num_steps)]


@pytest.mark.parametrize("right", [greedy, closed_form])
def test_right_answers_pass(right: Rates) -> None:
    assert exercises.check_greedy_rates(right)


def best_constant(curvature: float, noise: float, square: float, num_steps: int) -> list[float]:
    return greedy(curvature, noise, square, 1) * num_steps


def without_noise(curvature: float, noise: float, square: float, num_steps: int) -> list[float]:
    return [1 / curvature] * num_steps


def standard_deviation_for_variance(curvature: float, noise: float, square: float, num_steps: int) -> list[float]:
    return greedy(curvature, noise**0.5, square, num_steps)


def one_late(curvature: float, noise: float, square: float, num_steps: int) -> list[float]:
    rates = greedy(curvature, noise, square, num_steps)
    return [rates[0], *rates[:-1]]


def one_short(curvature: float, noise: float, square: float, num_steps: int) -> list[float]:
    return greedy(curvature, noise, square, num_steps)[:-1]


def negative(curvature: float, noise: float, square: float, num_steps: int) -> list[float]:
    return [-rate for rate in greedy(curvature, noise, square, num_steps)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (best_constant, "is possible"),
        (without_noise, "is possible"),
        (standard_deviation_for_variance, "is possible"),
        (one_late, "is possible"),
        (one_short, "you return 4 rates for 5 steps"),
        (negative, "a rate is negative"),
    ],
)
def test_planted_wrong_answers_are_refused_with_a_reason(wrong: Rates, message: str) -> None:
    verdict = exercises.check_greedy_rates(wrong)
    assert not verdict
    assert message in repr(verdict)
