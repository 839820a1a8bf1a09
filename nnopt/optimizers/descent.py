"""Gradient descent and the edge of its stability. Chapter: ``optimizers/descent``."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nnopt.checks import require_fraction, require_integer, require_non_empty, require_positive, require_same_shape

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
        ValueError: the shapes differ, or ``lr`` is negative or NaN.

    Source:
        Cauchy (1847). Equal to ``torch.optim.SGD`` without momentum.

    Example:
        >>> gradient_step(torch.tensor([1.0, 2.0]), torch.tensor([10.0, 0.0]), lr=0.1)
        tensor([0., 2.])
    """
    require_same_shape("parameter", parameter, "gradient", gradient)
    # one comparison serves numbers and tensors, and NaN fails it
    if not (bool((lr >= 0).all()) if isinstance(lr, Tensor) else lr >= 0):
        raise ValueError(f"lr must be >= 0, got {lr!r}")
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
    parameters: Sequence[Tensor],
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
        ValueError: ``parameters`` is empty, ``num_steps`` is below 1, or the loss is not finite.

    Source:
        Lanczos (1950), with full reorthogonalization; Pearlmutter (1994) for the products.
    """
    require_non_empty("parameters", parameters)
    require_integer("num_steps", num_steps, minimum=1)
    loss = loss_fn()
    if not torch.isfinite(loss):
        raise ValueError(f"loss must be finite, got {loss.item()}")
    gradients = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)

    def product(vector: Tensor) -> Tensor:
        pieces = [
            piece.view_as(gradient)
            for piece, gradient in zip(vector.split([g.numel() for g in gradients]), gradients, strict=True)
        ]
        if not any(gradient.requires_grad for gradient in gradients):  # a linear loss has no curvature
            return torch.zeros_like(vector)
        products = torch.autograd.grad(gradients, parameters, pieces, retain_graph=True, materialize_grads=True)
        return torch.cat([piece.reshape(-1) for piece in products])

    size = sum(parameter.numel() for parameter in parameters)
    start = torch.randn(size, generator=generator, dtype=torch.float64)
    return _lanczos(product, start.to(gradients[0]), min(num_steps, size))


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
