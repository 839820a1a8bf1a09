"""Gradient descent and the edge of its stability. Chapter: ``optimizers/descent``."""

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor

from nnopt.checks import require_fraction, require_integer, require_positive

from ._checks import require_at_least_zero, require_shapes
from ._vector import curvature_product, leaves, loss_gradient

__all__ = ["gradient_step", "largest_curvature", "stability_limit"]


def gradient_step(parameter: Tensor, gradient: Tensor, *, lr: float | Tensor) -> Tensor:
    r"""Take one step of gradient descent.

    .. math:: \theta_{t+1} = \theta_t - \eta\, \nabla J(\theta_t)

    Args:
        parameter: any shape, floating point.
        gradient: of the loss at ``parameter``, the same shape.
        lr: learning rate η, at least 0; a tensor broadcasts against the parameter, so that one call
            can serve many copies of a model.

    Returns:
        The new parameter, same shape and dtype; the arguments are unchanged.

    Raises:
        ValueError: the shapes differ, or ``lr`` is negative, NaN or infinite, or does not broadcast.
        TypeError: tensors are not real or of different dtypes.

    Source:
        Cauchy (1847). Equal to ``torch.optim.SGD`` without momentum.

    Example:
        >>> gradient_step(torch.tensor([1.0, 2.0]), torch.tensor([10.0, 0.0]), lr=0.1)
        tensor([0., 2.])
    """
    require_shapes(parameter, gradient=gradient)
    require_at_least_zero(parameter, lr=lr)
    return parameter - lr * gradient


def stability_limit(curvature: float, *, momentum: float = 0.0, nesterov: bool = False) -> float:
    r"""Return the learning rate beyond which gradient descent diverges on a quadratic.

    .. math::
        \eta_{\max} = \frac{2\,(1 + \beta)}{\lambda_{\max}}
        \quad\text{or, Nesterov,}\quad \frac{2\,(1 + \beta)}{(1 + 2\beta)\,\lambda_{\max}}

    Args:
        curvature: largest eigenvalue of the Hessian, above 0.
        momentum: β, in [0, 1); 0 is plain descent, with the limit 2/λmax.
        nesterov: of Nesterov's variant.

    Returns:
        The limit itself; at it, the steepest coordinate jumps from side to side for ever.

    Raises:
        ValueError: ``curvature`` is not above 0, or ``momentum`` is not in [0, 1).

    Example:
        >>> stability_limit(4.0), stability_limit(4.0, momentum=0.5)
        (0.5, 0.75)
    """
    require_positive("curvature", curvature)
    require_fraction("momentum", momentum, open_end=True)
    looking_ahead = 1 + 2 * float(momentum) if nesterov else 1.0
    return 2.0 * (1 + float(momentum)) / (looking_ahead * float(curvature))


def largest_curvature(
    loss_fn: Callable[[], Tensor],
    parameters: Iterable[Tensor],
    *,
    generator: torch.Generator,
    num_steps: int = 30,
) -> float:
    r"""Return the largest eigenvalue of the Hessian of a loss, without forming the Hessian.

    Lanczos iteration on Hessian-vector products: each step costs one gradient and one product, about
    as much as three more gradients, and memory for one more vector.

    Args:
        loss_fn: computes the 0-d loss from ``parameters`` as they are now.
        parameters: leaves that require gradients, on one device.
        generator: draws the first direction; on the CPU, so that every device starts alike.
        num_steps: iterations, at least 1; 30 give a few digits on small networks, and a space of n
            dimensions is exhausted after n.

    Returns:
        The algebraically largest eigenvalue λmax, estimated from below.

    Raises:
        ValueError: there are no parameters, one is no leaf that requires gradients or comes twice, ``num_steps`` is
            below 1, or the loss is no finite number.
        TypeError: a parameter is complex, or ``num_steps`` no integer.

    Source:
        Lanczos (1950), with full reorthogonalization; Pearlmutter (1994) for the products.
    """
    parameters = leaves(parameters)
    require_integer("num_steps", num_steps, minimum=1)
    gradient = loss_gradient(loss_fn, parameters)
    size = gradient.numel()
    start = torch.randn(size, generator=generator, dtype=torch.float64)
    product = partial(curvature_product, gradient, parameters)
    return _lanczos(product, start.to(gradient), min(num_steps, size))


def _lanczos(product: Callable[[Tensor], Tensor], start: Tensor, num_steps: int) -> float:
    """Return the largest eigenvalue of the matrix restricted to its Krylov space."""
    basis = [start / start.norm()]
    diagonal: list[float] = []
    beside: list[float] = []
    for _ in range(num_steps):
        image = product(basis[-1])
        diagonal.append(float(image @ basis[-1]))
        known = torch.stack(basis)
        # twice: once leaves rounding errors that grow into copies of the same eigenvalue
        for _ in range(2):
            image = image - known.T @ (known @ image)
        size = float(image.norm())
        if size <= 1e-10 * max(1.0, abs(diagonal[0])):
            break
        beside.append(size)
        basis.append(image / size)
    steps = len(diagonal)
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    for row, value in enumerate(beside[: steps - 1]):
        matrix[row, row + 1] = matrix[row + 1, row] = value
    return float(torch.linalg.eigvalsh(matrix)[-1])
