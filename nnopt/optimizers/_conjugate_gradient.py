"""Linear systems whose matrix is known only by its products."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nnopt.checks import require_finite, require_integer, require_positive, require_same_shape, require_shape

__all__ = ["LinearSolution", "conjugate_gradient"]


@dataclass(frozen=True)
class LinearSolution:
    """What the method of conjugate gradients found.

    Args:
        solution: (n,), the best of its Krylov space; only a part of the way where it stopped early.
        num_products: how often the operator was called.
        residual: relative norm of what is left, ‖b − Ax‖/‖b‖.
        converged: whether ``residual`` is within the tolerance.
        negative_curvature: a direction p, (n,), with pᵀAp ≤ 0, if one was met; then A is not positive definite
            and the iteration has stopped. None otherwise.
    """

    solution: Tensor
    num_products: int
    residual: float
    converged: bool
    negative_curvature: Tensor | None


def conjugate_gradient(
    operator: Callable[[Tensor], Tensor], right: Tensor, *, tolerance: float = 1e-8, max_steps: int | None = None
) -> LinearSolution:
    r"""Solve Ax = b for a symmetric matrix that is known only by its products.

    For a positive definite A the k-th iterate minimizes ½xᵀAx − bᵀx over k dimensions, so that n products suffice
    in exact arithmetic, and as many as there are different eigenvalues.

    Args:
        operator: v (n,) -> Av (n,).
        right: b, (n,).
        tolerance: relative residual at which to stop, above 0.
        max_steps: at most so many products, at least 1; None is n.

    Returns:
        The solution, its residual, and a direction of negative curvature if one was met.

    Raises:
        ValueError: ``right`` is no vector or not finite, ``operator`` answers in another shape or with what is not
            finite, or a number is out of range.
        TypeError: ``max_steps`` is no integer.

    Source:
        Hestenes and Stiefel (1952); the early stop at negative curvature as in Steihaug (1983).

    Example:
        >>> matrix = torch.tensor([[2.0, 0.0], [0.0, 4.0]])
        >>> solved = conjugate_gradient(lambda v: matrix @ v, torch.tensor([4.0, 4.0]))
        >>> solved.num_products, [round(value, 6) for value in solved.solution.tolist()]
        (2, [2.0, 1.0])
    """
    require_shape("right", right, (right.numel(),))
    require_finite("right", right)
    require_positive("tolerance", tolerance)
    max_steps = max(1, right.numel()) if max_steps is None else max_steps
    require_integer("max_steps", max_steps, minimum=1)
    # squares of very small or large numbers leave their range; a power of two changes no digit of the others
    largest = float(right.abs().max()) if right.numel() else 0.0
    unit = 2.0 ** (math.frexp(largest)[1] - 1)
    solution, residual = torch.zeros_like(right), right / unit
    direction, size = residual, float(residual @ residual)
    scale, count, stuck = size**0.5, 0, None
    while size**0.5 > tolerance * scale and count < max_steps:
        image = operator(direction)
        count += 1
        require_same_shape("operator(v)", image, "v", direction)
        curvature = float(direction @ image)
        if not math.isfinite(curvature):
            raise ValueError(f"operator(v) must be finite, got {curvature} for its product with v")
        if curvature <= 0:
            stuck = direction * unit
            break
        step = size / curvature
        solution = solution + step * direction
        residual = residual - step * image
        before, size = size, float(residual @ residual)
        direction = residual + (size / before) * direction
    left = size**0.5 / scale if scale > 0 else 0.0
    return LinearSolution(solution * unit, count, left, left <= tolerance, stuck)
