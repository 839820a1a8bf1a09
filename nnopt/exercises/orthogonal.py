"""Exercises of the chapter ``optimizers/orthogonal``."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from nnopt.optimizers import newton_schulz, orthogonal_factor

from ._verdict import Verdict, judge_test

__all__ = ["FactorFunction", "check_factor_test"]

FactorFunction: TypeAlias = Callable[[Tensor], Tensor]
"""``factor(matrix)`` -> UVᵀ of a matrix UΣVᵀ, (m, n)."""


def check_factor_test(candidate: Callable[[FactorFunction], bool]) -> Verdict:
    """Check a test of the orthogonal factor: it must accept a right function and refuse six wrong ones.

    Args:
        candidate: takes an implementation and returns whether it passes, or asserts.

    Returns:
        A verdict that names the first implementation that was judged wrongly.
    """

    def from_qr(matrix: Tensor) -> Tensor:
        if matrix.shape[0] < matrix.shape[1]:
            return from_qr(matrix.mT).mT
        found: Tensor = torch.linalg.qr(matrix).Q
        return found

    def turned(matrix: Tensor) -> Tensor:
        return -orthogonal_factor(matrix)

    def only_wide(matrix: Tensor) -> Tensor:
        return orthogonal_factor(matrix) if matrix.shape[0] <= matrix.shape[1] else matrix / matrix.norm()

    def in_place(matrix: Tensor) -> Tensor:
        return matrix.copy_(orthogonal_factor(matrix))

    wrong: dict[str, FactorFunction] = {
        "one that only divides by the norm": lambda matrix: matrix / torch.linalg.matrix_norm(matrix, 2),
        "the orthogonal matrix of a QR decomposition": from_qr,
        "the factor with the wrong sign": turned,
        "five steps of Newton–Schulz, which are not exact": newton_schulz,
        "one that is right for wide matrices only": only_wide,
        "one that changes its argument": in_place,
    }
    return judge_test(candidate, orthogonal_factor, wrong)
