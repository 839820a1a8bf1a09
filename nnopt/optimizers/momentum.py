"""Momentum: the heavy ball, Nesterov's variant, and the closed form of their best settings.

Chapter: ``optimizers/momentum``.
"""

import math

import torch
from torch import Tensor

from nnopt.checks import require_fraction, require_integer, require_non_negative, require_positive

from ._checks import require_at_least_zero, require_coefficient, require_shapes

__all__ = ["critical_momentum", "momentum_rate", "momentum_step", "optimal_momentum"]


def momentum_step(
    parameter: Tensor,
    gradient: Tensor,
    buffer: Tensor,
    *,
    lr: float | Tensor,
    momentum: float | Tensor,
    dampening: float | Tensor = 0.0,
    nesterov: bool = False,
    step: int | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Take one step of gradient descent with momentum.

    .. math::
        b_{t+1} = \beta\, b_t + (1 - d)\, g_t, \qquad
        \theta_{t+1} = \theta_t - \eta\, b_{t+1}
        \quad\text{or, Nesterov,}\quad \theta_t - \eta\,(g_t + \beta\, b_{t+1})

    Args:
        parameter: any shape, floating point.
        gradient: of the loss at ``parameter``, the same shape.
        buffer: b, the sum of past gradients, the same shape; zeros before the first step.
        lr: learning rate η, at least 0; a number or a tensor that broadcasts against the parameter.
        momentum: β, in [0, 1); a number or a tensor that broadcasts.
        dampening: d, in [0, 1]; what is left out of each gradient but the first.
        nesterov: look ahead by one more step of the buffer; without dampening only.
        step: number of this update, from 1; needed with dampening, otherwise without effect.

    Returns:
        The new parameter and the new buffer, same shape and dtype; the arguments are unchanged.

    Raises:
        ValueError: shapes differ, a number is out of range or NaN, dampening comes without ``step`` or
            together with ``nesterov``.
        TypeError: ``step`` is not an integer, or tensors are not real or of different dtypes.

    Convention:
        As ``torch.optim.SGD``: the learning rate stands outside the buffer, and the first gradient enters it
        undamped. The buffer is a *sum*, and under a constant gradient grows to g/(1−β). Texts that write an
        *average* b ← βb + (1−β)g, from zeros, take the same path with the learning rate η/(1−β).
        Nesterov's parameter is the point at which the gradient is taken, not the one before it.
        Other than torch, ``momentum=0`` is allowed with ``nesterov``: both are then plain descent.

    Source:
        Polyak (1964); Nesterov (1983), in the form of Sutskever et al. (2013), section 2.

    Example:
        >>> start, slope, zeros = torch.tensor([1.0]), torch.tensor([2.0]), torch.zeros(1)
        >>> momentum_step(start, slope, zeros, lr=0.25, momentum=0.5)
        (tensor([0.5000]), tensor([2.]))
    """
    require_shapes(parameter, gradient=gradient, buffer=buffer)
    require_at_least_zero(parameter, lr=lr)
    require_coefficient("momentum", momentum, parameter)
    require_coefficient("dampening", dampening, parameter, open_end=False)
    if step is not None:
        require_integer("step", step, minimum=1)
    if isinstance(dampening, Tensor) or dampening != 0:
        if nesterov:
            raise ValueError(f"dampening must be 0 with nesterov, got {dampening!r}")
        if step is None:
            raise ValueError("step must be given with dampening, got None")
    fresh = gradient if step == 1 else (1 - dampening) * gradient
    new_buffer = momentum * buffer + fresh
    direction = gradient + momentum * new_buffer if nesterov else new_buffer
    return parameter - lr * direction, new_buffer


def momentum_rate(curvature: Tensor, *, lr: float, momentum: float, nesterov: bool = False) -> Tensor:
    r"""Return the factor by which momentum shrinks the distance to the minimum of a parabola per step.

    The larger modulus of the two roots of the iteration, with q = ηλ,

    .. math::
        r^2 - (1 + \beta - q)\, r + \beta = 0
        \quad\text{or, Nesterov,}\quad r^2 - (1 + \beta)(1 - q)\, r + \beta (1 - q) = 0 .

    Args:
        curvature: λ of one or many parabolas ½λθ², any shape, floating point, at least 0.
        lr: η, at least 0.
        momentum: β, in [0, 1).
        nesterov: of Nesterov's variant.

    Returns:
        The rate at each curvature, same shape and dtype: below 1 it converges, above it diverges. On a
        quadratic with many curvatures the largest rate decides in the long run.

    Raises:
        ValueError: a number is out of range or NaN.

    Source:
        Polyak (1964); Lessard, Recht and Packard (2016), section 4, for the roots of both methods.

    Example:
        >>> momentum_rate(torch.tensor([1.0, 1.5]), lr=1.0, momentum=0.25)
        tensor([0.5000, 0.5000])
    """
    require_non_negative("lr", lr)
    require_fraction("momentum", momentum, open_end=True)
    if not bool((curvature >= 0).all()):
        raise ValueError(f"curvature must be >= 0, got {curvature!r}")
    scaled = lr * curvature
    if nesterov:
        total, product = (1 + momentum) * (1 - scaled), momentum * (1 - scaled)
    else:
        total, product = 1 + momentum - scaled, torch.full_like(scaled, momentum)
    discriminant = total.square() - 4 * product
    real = (total.abs() + discriminant.clamp(min=0).sqrt()) / 2
    return torch.where(discriminant < 0, product.clamp(min=0).sqrt(), real)


def optimal_momentum(smallest: float, largest: float, *, nesterov: bool = False) -> tuple[float, float]:
    r"""Return the learning rate and momentum that are fastest on a quadratic with known curvatures.

    .. math::
        \eta = \frac{4}{(\sqrt{\lambda_{\max}} + \sqrt{\lambda_{\min}})^2}, \qquad
        \beta = \left(\frac{\sqrt\kappa - 1}{\sqrt\kappa + 1}\right)^{\!2},
        \qquad \kappa = \frac{\lambda_{\max}}{\lambda_{\min}}

    for the heavy ball, with the rate √β at every curvature in between; for Nesterov's variant

    .. math::
        \eta = \frac{4}{3\lambda_{\max} + \lambda_{\min}}, \qquad
        \beta = \frac{\sqrt{3\kappa + 1} - 2}{\sqrt{3\kappa + 1} + 2} .

    Args:
        smallest: λmin, above 0.
        largest: λmax, at least ``smallest``.
        nesterov: for Nesterov's variant.

    Returns:
        (lr, momentum). Optimal for the worst start and many steps; from one start a smaller momentum may
        be ahead for a while.

    Raises:
        ValueError: a curvature is not above 0, or they are in the wrong order.

    Source:
        Polyak (1964) for the heavy ball; Lessard, Recht and Packard (2016), proposition 1, for both.

    Example:
        >>> optimal_momentum(1.0, 9.0)
        (0.25, 0.25)
    """
    require_positive("smallest", smallest)
    require_positive("largest", largest)
    if smallest > largest:
        raise ValueError(f"largest must be >= smallest, got {largest!r} and {smallest!r}")
    low, high = float(smallest), float(largest)
    if nesterov:
        root = math.sqrt(3 * high / low + 1)
        return 4 / (3 * high + low), (root - 2) / (root + 2)
    root = math.sqrt(high / low)
    return 4 / (math.sqrt(high) + math.sqrt(low)) ** 2, ((root - 1) / (root + 1)) ** 2


def critical_momentum(curvature: float, *, lr: float) -> float:
    r"""Return the momentum at which the heavy ball is fastest on one parabola: critical damping.

    .. math:: \beta = \left(1 - \sqrt{\eta\lambda}\right)^2

    Args:
        curvature: λ, above 0.
        lr: η, above 0, with ηλ < 4: beyond that the heavy ball diverges with any momentum.

    Returns:
        β in [0, 1). With less the motion is overdamped and creeps, with more it rings; both are slower.

    Raises:
        ValueError: a number is out of range or NaN.

    Source:
        The double root of the iteration in Polyak (1964); the name is the oscillator's.

    Example:
        >>> critical_momentum(1.0, lr=0.25)
        0.25
    """
    require_positive("curvature", curvature)
    require_positive("lr", lr)
    scaled = float(lr) * float(curvature)
    if scaled >= 4:
        raise ValueError(f"lr * curvature must be < 4, got {scaled!r}")
    return float((1 - math.sqrt(scaled)) ** 2)
