"""Exercises of the chapter ``optimizers/descent``."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from nnopt.optimizers import stability_limit

from ._verdict import Verdict

__all__ = ["check_stability_edge"]


def check_stability_edge(candidate: Callable[[Tensor], float]) -> Verdict:
    """Check a function that finds the largest stable learning rate of a quadratic from its Hessian.

    Args:
        candidate: takes a symmetric matrix (n, n), float64, with a positive eigenvalue, and returns the
            learning rate beyond which gradient descent on ½xᵀHx diverges along its steepest direction.

    Returns:
        A verdict; the hidden Hessians are rotated, correlated, or have a negative eigenvalue larger in
        size than the positive ones, so that the diagonal, the trace and the norm do not give the answer.
    """
    for name, hessian in _hessians().items():
        kept = hessian.clone()
        answer = float(candidate(hessian))
        edge = stability_limit(float(torch.linalg.eigvalsh(kept)[-1]))
        if not torch.equal(hessian, kept):
            return Verdict(False, "Your function changes the matrix that it is given.")
        if not math.isclose(answer, edge, rel_tol=1e-6):
            side = "beyond" if answer > edge else "below"
            return Verdict(False, f"On {name} you answer {answer:.4g}: {side} the edge, which is {edge:.4g}.")
    return Verdict(True, "Your edge is right on every hidden Hessian.")


def _hessians() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(11)

    def rotated(*eigenvalues: float) -> Tensor:
        size = len(eigenvalues)
        basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
        matrix: Tensor = basis @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ basis.T
        return (matrix + matrix.T) / 2

    return {
        "a diagonal valley": torch.diag(torch.tensor([1.0, 10.0, 0.1], dtype=torch.float64)),
        "a rotated valley": rotated(0.5, 3.0, 7.0, 0.01),
        "two inputs that nearly agree": torch.tensor([[1.0, 0.99], [0.99, 1.0]], dtype=torch.float64),
        "a saddle": rotated(-9.0, 2.0, 4.0),
    }
