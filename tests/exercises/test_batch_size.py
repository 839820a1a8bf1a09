"""The checker accepts the fastest batch and refuses the planted wrong ones."""

import math
from collections.abc import Callable

import pytest

from nnopt import exercises

Choice = Callable[[float, float, float], float]


def closed_form(noise_scale: float, fixed: float, per_row: float) -> float:
    return max(1, round(math.sqrt(noise_scale * fixed / per_row)))


def by_search(noise_scale: float, fixed: float, per_row: float) -> float:
    return min(range(1, 10_000), key=lambda size: (1 + noise_scale / size) * (fixed + per_row * size))


@pytest.mark.parametrize("right", [closed_form, by_search])
def test_right_answers_pass(right: Choice) -> None:
    assert exercises.check_fastest_batch(right)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda noise, fixed, row: round(noise), "times as long"),
        (lambda noise, fixed, row: 2**20, "times as long"),
        (lambda noise, fixed, row: max(1, round(noise * fixed / row)), "times as long"),
        (lambda noise, fixed, row: max(1, round(fixed / row)), "times as long"),
        (lambda noise, fixed, row: 1, "times as long"),
        (lambda noise, fixed, row: math.sqrt(noise * fixed / row), "no batch"),
        (lambda noise, fixed, row: 0, "no batch"),
        (lambda noise, fixed, row: math.nan, "no batch"),
    ],
)
def test_planted_wrong_answers_are_refused_with_a_reason(wrong: Choice, message: str) -> None:
    verdict = exercises.check_fastest_batch(wrong)
    assert not verdict
    assert message in repr(verdict)
