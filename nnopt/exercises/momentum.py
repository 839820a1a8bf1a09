"""Exercises of the chapter ``optimizers/momentum``."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from nnopt.optimizers import momentum_rate, optimal_momentum

from ._verdict import Verdict

__all__ = ["check_momentum_choice"]

Gradient = Callable[[Tensor], Tensor]


def check_momentum_choice(candidate: Callable[[Gradient, int], tuple[float, float]]) -> Verdict:
    """Check a function that chooses learning rate and momentum of the heavy ball for a hidden quadratic.

    Args:
        candidate: takes a function that returns the gradient (size,), float64, at a point (size,), and the
            size; returns (lr, momentum).

    Returns:
        A verdict. For its choice on every hidden valley the steps that shrink the distance by a factor,
        in the long run, must be at most 1.1 times those of the closed form. The valleys are rotated, and
        some have their minimum elsewhere than at zero.
    """
    for name, (eigenvalues, minimum) in _valleys().items():
        size = len(eigenvalues)
        generator = torch.Generator().manual_seed(size)
        basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
        hessian = basis @ torch.diag(eigenvalues) @ basis.T

        def gradient(point: Tensor, hessian: Tensor = hessian, minimum: float = minimum) -> Tensor:
            return hessian @ (point - minimum)

        lr, momentum = (float(value) for value in candidate(gradient, size))
        if not lr > 0 or not 0 <= momentum < 1:
            return Verdict(False, f"On {name} you choose η = {lr:.4g} and β = {momentum:.4g}: out of their ranges.")
        rate = float(momentum_rate(eigenvalues, lr=lr, momentum=momentum).max())
        if rate >= 1:
            return Verdict(False, f"On {name} your η = {lr:.4g} with β = {momentum:.4g} never arrives.")
        best = math.sqrt(optimal_momentum(float(eigenvalues.min()), float(eigenvalues.max()))[1])
        times = math.log(best) / math.log(rate)
        if times > 1.1:
            return Verdict(False, f"On {name} your choice needs {times:.3g} times the steps of the best one.")
    return Verdict(True, "On every hidden valley you are within a tenth of the fastest heavy ball.")


def _valleys() -> dict[str, tuple[Tensor, float]]:
    """Return eigenvalues, and every coordinate of the minimum."""

    def spread(*values: float) -> Tensor:
        return torch.tensor(values, dtype=torch.float64)

    return {
        "a mild valley": (spread(3.0, 2.0, 12.0), 0.0),
        "a valley with its minimum elsewhere": (spread(0.5, 40.0, 0.7, 20.0), 2.0),
        "a valley with one steep wall": (spread(0.02, 0.05, 0.06, 0.09, 8.0), -1.0),
        "a valley with one flat direction": (spread(0.01, 50.0, 60.0, 70.0, 80.0, 100.0), 0.0),
    }
