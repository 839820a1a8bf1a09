"""Exercises of the chapter ``quantization/affine``."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from nnopt.quantization import quantize

from ._verdict import Verdict, judge_test

__all__ = ["Quantizer", "check_quantizer_test"]

Quantizer: TypeAlias = Callable[[Tensor, int], Tensor]
"""(values, number of bits) -> the values that come back from their codes."""


def check_quantizer_test(candidate: Callable[[Quantizer], object]) -> Verdict:
    """Check a test of quantizers: it must accept a right one and refuse seven wrong ones.

    Args:
        candidate: takes a function of values (any shape, float64) and number of bits that returns the restored
            values, and raises AssertionError or returns False if that function is wrong. Right means: affine,
            one scale, fitted to the values with zero among the levels.

    Returns:
        A verdict that names the first wrong quantizer which the test accepts.
    """
    return judge_test(candidate, _right, _WRONG)


def _right(values: Tensor, num_bits: int) -> Tensor:
    return quantize(values, num_bits).dequantize()


def _range(values: Tensor) -> tuple[Tensor, Tensor]:
    return values.amin().clamp(max=0), values.amax().clamp(min=0)


def _adds_a_half(values: Tensor, num_bits: int) -> Tensor:
    low, high = _range(values)
    step = (high - low) / (2**num_bits - 1)
    restored: Tensor = low + step * torch.round((values - low) / step + 0.5)
    return restored


def _cuts_off(values: Tensor, num_bits: int) -> Tensor:
    low, high = _range(values)
    step = (high - low) / (2**num_bits - 1)
    restored: Tensor = step * torch.floor(values / step)
    return restored


def _divides_by_the_levels(values: Tensor, num_bits: int) -> Tensor:
    restored: Tensor = torch.round(values / 2**num_bits) * 2**num_bits
    return restored


def _takes_a_bit_more(values: Tensor, num_bits: int) -> Tensor:
    return _right(values, num_bits + 1) if num_bits < 8 else values


def _moves_zero(values: Tensor, num_bits: int) -> Tensor:
    low, high = _range(values)
    step = (high - low) / (2**num_bits - 1)
    restored: Tensor = low + step * torch.round((values - low) / step)
    return restored


def _divides_by_zero(values: Tensor, num_bits: int) -> Tensor:
    step = (values.amax() - values.amin()) / (2**num_bits - 1)
    zero_point = -torch.round(values.amin() / step)
    restored: Tensor = step * ((torch.round(values / step) + zero_point).clamp(0, 2**num_bits - 1) - zero_point)
    return restored


def _wastes_a_level(values: Tensor, num_bits: int) -> Tensor:
    return quantize(values, num_bits, symmetric=True).dequantize()


_WRONG: dict[str, Quantizer] = {
    "adds one half before it rounds": _adds_a_half,
    "cuts the fraction off": _cuts_off,
    "divides by the number of levels": _divides_by_the_levels,
    "uses more levels than the bits allow": _takes_a_bit_more,
    "moves zero off its level": _moves_zero,
    "divides by zero when all values are equal": _divides_by_zero,
    "leaves a level unused": _wastes_a_level,
}
