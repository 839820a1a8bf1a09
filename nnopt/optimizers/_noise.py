"""What noise in the gradients does to a loss, on quadratics, where it can be computed.

Chapter: ``optimizers/schedules``.
"""

import torch
from torch import Tensor

from nnopt.checks import require_finite, require_integer, require_non_negative, require_same_shape
from nnopt.types import Schedule

__all__ = ["expected_loss"]


def expected_loss(
    curvatures: Tensor, noise: Tensor, *, start: Tensor, lr: float, schedule: Schedule, total_steps: int
) -> Tensor:
    r"""Return the expected loss of noisy gradient descent on a quadratic, exactly, at every step.

    With gradients λθ + ε, where ε has mean zero and variance σ² in each direction,

    .. math::
        \mathbb E\,\theta_{t+1}^2 = (1 - \eta_t \lambda)^2\, \mathbb E\,\theta_t^2 + \eta_t^2 \sigma^2,
        \qquad \mathbb E\, J_t = \tfrac12 \sum \lambda\, \mathbb E\,\theta_t^2

    Args:
        curvatures: λ (P,), floating point, at least 0.
        noise: σ² (P,), at least 0.
        start: θ at the start (P,).
        lr: η of the multiplier 1, at least 0.
        schedule: step number from 0 -> multiplier.
        total_steps: T, at least 0.

    Returns:
        Expected losses (T + 1,), the first at the start.

    Raises:
        ValueError: shapes differ, a number is out of range or NaN.
        TypeError: ``total_steps`` is not an integer.

    Source:
        Schaul, Zhang and LeCun (2013), for the noisy quadratic.

    Example:
        >>> one = torch.ones(1)
        >>> expected_loss(one, one, start=one, lr=0.5, schedule=lambda t: 1.0, total_steps=2)
        tensor([0.5000, 0.2500, 0.1875])
    """
    require_same_shape("curvatures", curvatures, "noise", noise)
    require_same_shape("curvatures", curvatures, "start", start)
    for name, value in (("curvatures", curvatures), ("noise", noise)):
        if not bool((value >= 0).all()):
            raise ValueError(f"{name} must be >= 0, got {value!r}")
    require_finite("start", start)
    require_non_negative("lr", lr)
    require_integer("total_steps", total_steps, minimum=0)
    squares = start.square()
    losses = [(curvatures * squares).sum() / 2]
    for step in range(total_steps):
        multiplier = schedule(step)
        require_non_negative(f"schedule({step})", multiplier)
        rate = lr * multiplier
        squares = (1 - rate * curvatures).square() * squares + rate**2 * noise
        losses.append((curvatures * squares).sum() / 2)
    return torch.stack(losses)
