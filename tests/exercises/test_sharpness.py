"""The checker accepts right ways to the worst point and refuses the planted wrong ones."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nnopt import exercises

Way = Callable[[list[Tensor], list[Tensor], float], list[Tensor]]


def right(parameters: list[Tensor], gradients: list[Tensor], radius: float) -> list[Tensor]:
    norm = sum(float(gradient.double().square().sum()) for gradient in gradients) ** 0.5
    return [radius * gradient / max(norm, 1e-12) for gradient in gradients]


def test_the_right_answer_passes() -> None:
    verdict = exercises.check_sharpness_way(right)
    assert verdict
    assert repr(verdict) == "✓ One step up the slope, as long as the radius, for all weights together."


def a_norm_for_each(parameters: list[Tensor], gradients: list[Tensor], radius: float) -> list[Tensor]:
    return [radius * gradient / gradient.norm().clamp(min=1e-12) for gradient in gradients]


def downhill(parameters: list[Tensor], gradients: list[Tensor], radius: float) -> list[Tensor]:
    return [-way for way in right(parameters, gradients, radius)]


def unscaled(parameters: list[Tensor], gradients: list[Tensor], radius: float) -> list[Tensor]:
    return [radius * gradient for gradient in gradients]


def divides_by_zero(parameters: list[Tensor], gradients: list[Tensor], radius: float) -> list[Tensor]:
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    return [radius * gradient / norm for gradient in gradients]


def large_epsilon(parameters: list[Tensor], gradients: list[Tensor], radius: float) -> list[Tensor]:
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    return [radius * gradient / (norm + 1e-3) for gradient in gradients]


def in_place(parameters: list[Tensor], gradients: list[Tensor], radius: float) -> list[Tensor]:
    ways = right(parameters, gradients, radius)
    for parameter, way in zip(parameters, ways, strict=True):
        parameter.add_(way)
    return ways


def one_vector(parameters: list[Tensor], gradients: list[Tensor], radius: float) -> list[Tensor]:
    return [torch.cat([way.flatten() for way in right(parameters, gradients, radius)])]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (a_norm_for_each, "For two layers the way has length"),
        (downhill, "or another direction than up"),
        (unscaled, "For a single vector the way has length"),
        (divides_by_zero, "For a gradient of zero the way is not finite"),
        (large_epsilon, "For tiny gradients|For a single vector"),
        (in_place, "you change the parameters"),
        (one_vector, "the shapes are not those"),
    ],
)
def test_planted_wrong_answers_are_refused(wrong: Way, reason: str) -> None:
    verdict = exercises.check_sharpness_way(wrong)
    assert not verdict
    assert re.search(reason, repr(verdict))
