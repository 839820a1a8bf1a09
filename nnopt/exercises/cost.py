"""Exercises of the chapter ``measurement/cost``."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import nn

from nnopt.measurement import cost

from ._verdict import Verdict

__all__ = ["check_mac_counter"]

Shape: TypeAlias = tuple[int, int, int, int]


def check_mac_counter(candidate: Callable[[nn.Conv2d, Shape], int]) -> Verdict:
    """Check a function that counts the multiply-accumulates of a convolution.

    Args:
        candidate: takes a layer and the shape (B, C, H, W) of its input, and returns their number; taps on the
            padding count.

    Returns:
        A verdict; the hidden layers have unequal strides, kernels and dilations, several groups, several
        images, and sizes that the stride does not divide.
    """
    for layer, shape in _cases():
        answer = candidate(layer, shape)
        expected = cost.macs(layer, torch.zeros(shape))
        if answer != expected:
            return Verdict(False, f"On {layer} and an input of {shape} you count {answer!r} instead of {expected:,}.")
    return Verdict(True, f"Your count is right on all {len(_cases())} hidden layers.")


def _cases() -> list[tuple[nn.Conv2d, Shape]]:
    return [
        (nn.Conv2d(1, 4, 3), (1, 1, 8, 8)),
        (nn.Conv2d(3, 5, 3, padding=1), (2, 3, 7, 9)),
        (nn.Conv2d(2, 6, 3, stride=2), (1, 2, 8, 11)),
        (nn.Conv2d(4, 6, (1, 5), stride=(1, 3), padding=(0, 2)), (1, 4, 6, 10)),
        (nn.Conv2d(6, 4, 3, groups=2), (1, 6, 6, 6)),
        (nn.Conv2d(8, 8, 5, padding=2, groups=8), (3, 8, 9, 7)),
        (nn.Conv2d(2, 3, 3, dilation=2), (1, 2, 9, 9)),
        (nn.Conv2d(6, 9, (3, 2), stride=(2, 3), padding=1, dilation=(1, 2), groups=3), (2, 6, 10, 12)),
    ]
