"""The checker accepts the count of a loop and of a formula, and refuses the planted wrong ones."""

import math
from collections.abc import Callable
from itertools import product

import pytest
from torch import nn

from nnopt import exercises

Shape = tuple[int, int, int, int]


def places(
    layer: nn.Conv2d, shape: Shape, *, up: bool = False, padding: bool = True, dilation: bool = True
) -> list[int]:
    sizes = []
    for i in range(2):
        assert isinstance(layer.padding, tuple)
        reach = (layer.dilation[i] if dilation else 1) * (layer.kernel_size[i] - 1) + 1
        span = (shape[2 + i] + 2 * (layer.padding[i] if padding else 0) - reach) / layer.stride[i]
        sizes.append((math.ceil if up else math.floor)(span) + 1)
    return sizes


def formula(
    layer: nn.Conv2d, shape: Shape, *, groups: bool = True, square: bool = False, batch: bool = True,
    up: bool = False, padding: bool = True, dilation: bool = True,
) -> int:  # fmt: skip
    rows, columns = places(layer, shape, up=up, padding=padding, dilation=dilation)
    taps = layer.kernel_size[0] ** 2 if square else layer.kernel_size[0] * layer.kernel_size[1]
    channels = layer.in_channels // (layer.groups if groups else 1)
    return (shape[0] if batch else 1) * layer.out_channels * rows * columns * channels * taps


def loop(layer: nn.Conv2d, shape: Shape) -> int:
    rows, columns = places(layer, shape)
    group = layer.in_channels // layer.groups
    spots = product(range(shape[0]), range(layer.out_channels), range(rows), range(columns))
    return sum(group * layer.kernel_size[0] * layer.kernel_size[1] for _ in spots)


@pytest.mark.parametrize("right", [formula, loop])
def test_right_counts_pass(right: Callable[[nn.Conv2d, Shape], int]) -> None:
    verdict = exercises.check_mac_counter(right)
    assert verdict
    assert "all 8 hidden layers" in verdict.sentence


WRONG = {
    "groups forgotten": lambda layer, shape: formula(layer, shape, groups=False),
    "square kernels only": lambda layer, shape: formula(layer, shape, square=True),
    "one image": lambda layer, shape: formula(layer, shape, batch=False),
    "places rounded up": lambda layer, shape: formula(layer, shape, up=True),
    "padding forgotten": lambda layer, shape: formula(layer, shape, padding=False),
    "dilation forgotten": lambda layer, shape: formula(layer, shape, dilation=False),
    "operations instead of multiply-accumulates": lambda layer, shape: 2 * formula(layer, shape),
    "parameters": lambda layer, shape: layer.weight.numel(),
    "with the bias": lambda layer, shape: formula(layer, shape) + layer.out_channels,
    "nothing": lambda layer, shape: None,
}


@pytest.mark.parametrize("name", WRONG)
def test_planted_wrong_counts_are_refused_with_the_layer_that_shows_it(name: str) -> None:
    verdict = exercises.check_mac_counter(WRONG[name])
    assert not verdict
    assert "Conv2d" in verdict.sentence
