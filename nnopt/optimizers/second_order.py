"""Steps that divide by the curvature: Newton, Gauss-Newton, L-BFGS. Chapter: ``optimizers/second_order``."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from nnopt.checks import require_non_negative, require_same_shape, require_shape

from ._conjugate_gradient import LinearSolution, conjugate_gradient
from ._vector import curvature_product, cut, flat, leaves, loss_gradient, moved, rows_of

__all__ = [
    "dense_hessian",
    "hessian_vector_product",
    "lbfgs_direction",
    "newton_cg_step",
    "newton_step",
]


def hessian_vector_product(
    loss_fn: Callable[[], Tensor], parameters: Iterable[Tensor], vector: Sequence[Tensor]
) -> list[Tensor]:
    r"""Multiply the Hessian of a loss with a vector, without forming the Hessian.

    .. math:: H v = \nabla_\theta\bigl(\nabla_\theta J(\theta)^\top v\bigr)

    The gradient is differentiated once more along ``vector``: time of about two further gradients, memory of
    a few vectors.

    Args:
        loss_fn: computes the 0-d loss from ``parameters`` as they are now.
        parameters: leaves that require gradients, n numbers together.
        vector: v in the shapes of the parameters.

    Returns:
        Hv in the shapes of the parameters, without a graph; parameters and their ``grad`` are unchanged.

    Raises:
        ValueError: there are no parameters, one is no leaf that requires gradients or comes twice, the loss is no
            finite number, or the shapes differ.
        TypeError: a parameter is complex.

    Source:
        Pearlmutter (1994).

    Example:
        >>> point = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> hessian_vector_product(lambda: point.prod() ** 2 / 2, [point], [torch.tensor([1.0, 0.0])])
        [tensor([4., 4.])]
    """
    parameters = leaves(parameters)
    if len(vector) != len(parameters):
        raise ValueError(f"vector must have {len(parameters)} pieces, as the parameters, got {len(vector)}")
    for place, (piece, parameter) in enumerate(zip(vector, parameters, strict=True)):
        require_same_shape(f"vector[{place}]", piece, f"parameters[{place}]", parameter)
    gradient = loss_gradient(loss_fn, parameters)
    return [piece.clone() for piece in cut(curvature_product(gradient, parameters, flat(vector)), parameters)]


def dense_hessian(loss_fn: Callable[[], Tensor], parameters: Iterable[Tensor]) -> Tensor:
    r"""Return the whole matrix of second derivatives of a loss.

    .. math:: H_{ij} = \frac{\partial^2 J}{\partial\theta_i\,\partial\theta_j}

    Args:
        loss_fn: computes the 0-d loss from ``parameters`` as they are now.
        parameters: leaves that require gradients, n numbers together.

    Returns:
        H, (n, n) and symmetric, in the order of the parameters laid behind each other. It holds n² numbers and
        costs about as much as 2n gradients, though in one call.

    Raises:
        ValueError: there are no parameters, one is no leaf that requires gradients or comes twice, or the loss is no
            finite number.
        TypeError: a parameter is complex.

    Example:
        >>> point = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> dense_hessian(lambda: point.prod() ** 2 / 2, [point])
        tensor([[4., 4.],
                [4., 1.]])
    """
    parameters = leaves(parameters)
    rows = rows_of(loss_gradient(loss_fn, parameters), parameters)
    return (rows + rows.T) / 2  # rounding leaves it a little unsymmetrical


def newton_step(
    loss_fn: Callable[[], Tensor], parameters: Iterable[Tensor], *, damping: float = 0.0, lr: float = 1.0
) -> list[Tensor]:
    r"""Take one step of Newton's method with the whole Hessian.

    .. math:: \theta_{t+1} = \theta_t - \eta\,(H + \lambda I)^{-1} \nabla J(\theta_t)

    Args:
        loss_fn: computes the 0-d loss from ``parameters`` as they are now.
        parameters: leaves that require gradients, n numbers together.
        damping: λ, at least 0; times the step, it tends to plain descent as λ grows.
        lr: learning rate η, at least 0.

    Returns:
        The new parameters, without a graph; the arguments are unchanged. The step goes to the stationary point of
        the local parabola, *whatever kind it is*: a minimum only if H + λI is positive definite.

    Raises:
        ValueError: H + λI is singular, there are no parameters, one is no leaf that requires gradients or comes twice,
            the loss is no finite number, or ``damping`` or ``lr`` is negative or NaN.
        TypeError: a parameter is complex.

    Source:
        Nocedal and Wright (2006), section 3.3.

    Example:
        >>> point = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> newton_step(lambda: 3 * point[0] ** 2 + 0.25 * point[1] ** 2, [point])
        [tensor([0., 0.])]
    """
    require_non_negative("damping", damping)
    require_non_negative("lr", lr)
    parameters = leaves(parameters)
    gradient = loss_gradient(loss_fn, parameters)
    rows = rows_of(gradient, parameters)
    matrix = (rows + rows.T) / 2
    matrix.diagonal().add_(damping)
    solution, info = torch.linalg.solve_ex(matrix, gradient.detach())
    if int(info) != 0 or not bool(torch.isfinite(solution).all()):
        raise ValueError(f"damping must make the Hessian invertible, got {damping!r}: it is singular")
    return moved(parameters, -lr * solution)


def newton_cg_step(
    loss_fn: Callable[[], Tensor],
    parameters: Iterable[Tensor],
    *,
    damping: float = 0.0,
    lr: float = 1.0,
    tolerance: float = 0.1,
    max_products: int | None = None,
) -> tuple[list[Tensor], LinearSolution]:
    r"""Take one step of Newton's method with products instead of the matrix.

    Solves (H + λI) d = −∇J by :func:`conjugate_gradient` until the residual is small, or until it meets a
    direction of negative curvature; then it keeps what it has, which is always a way down.

    Args:
        loss_fn: computes the 0-d loss from ``parameters`` as they are now.
        parameters: leaves that require gradients, n numbers together.
        damping: λ, at least 0.
        lr: learning rate η, at least 0.
        tolerance: relative residual at which to stop, above 0.
        max_products: at most so many products, at least 1; None is n.

    Returns:
        The new parameters, without a graph, and how the system was solved.

    Raises:
        ValueError: a number is out of range, there are no parameters, one is no leaf that requires gradients or comes
            twice, or the loss, or a product with its Hessian, is no finite number.
        TypeError: a parameter is complex.

    Source:
        Nocedal and Wright (2006), algorithm 7.1.

    Example:
        >>> point = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> newton_cg_step(lambda: point[0] ** 2 + 2 * point[1] ** 2, [point])[1].num_products
        2
    """
    require_non_negative("damping", damping)
    require_non_negative("lr", lr)
    parameters = leaves(parameters)
    gradient = loss_gradient(loss_fn, parameters)
    downhill = -gradient.detach()
    solved = conjugate_gradient(
        lambda vector: curvature_product(gradient, parameters, vector) + damping * vector,
        downhill,
        tolerance=tolerance,
        max_steps=max_products,
    )
    # negative curvature in the very first direction: nothing was solved, so go down the gradient
    first = solved.negative_curvature is not None and solved.num_products == 1
    return moved(parameters, lr * (downhill if first else solved.solution)), solved


def lbfgs_direction(gradient: Tensor, steps: Sequence[Tensor], differences: Sequence[Tensor]) -> Tensor:
    r"""Return the direction of L-BFGS, −Bg, from the last few steps and what they did to the gradient.

    B is built from γI, with γ = sᵀy/yᵀy of the newest pair, by one BFGS update for each pair:

    .. math:: B \leftarrow (I - \rho s y^\top)\, B\, (I - \rho y s^\top) + \rho s s^\top,\quad \rho = 1/(s^\top y)

    and is never formed: two passes over the pairs give the product.

    Args:
        gradient: g, (n,).
        steps: s, each (n,), the oldest first: differences of parameters.
        differences: y, each (n,): the differences of the gradients over the same steps.

    Returns:
        (n,), a direction of descent; −g where there are no pairs yet.

    Raises:
        ValueError: the numbers of pairs differ, a shape differs from the gradient's, or sᵀy is not above 0: then no
            positive curvature was seen along s, and B would not be positive definite.

    Source:
        Nocedal and Wright (2006), algorithm 7.4. Equal to ``torch.optim.LBFGS``, which drops a pair with
        sᵀy ≤ 1e-10 silently.

    Example:
        >>> g, s, y = torch.tensor([3.0, 1.0]), torch.tensor([1.0, 0.0]), torch.tensor([3.0, 0.0])
        >>> lbfgs_direction(g, [s], [y])
        tensor([-1.0000, -0.3333])
    """
    if len(steps) != len(differences):
        raise ValueError(f"steps and differences must be pairs, got {len(steps)} and {len(differences)}")
    require_shape("gradient", gradient, (gradient.numel(),))
    agreements = []
    for place, (step, change) in enumerate(zip(steps, differences, strict=True)):
        require_same_shape(f"steps[{place}]", step, "gradient", gradient)
        require_same_shape(f"differences[{place}]", change, "gradient", gradient)
        agreement = change @ step
        if not float(agreement) > 0:
            raise ValueError(f"steps[{place}] and differences[{place}] must agree, got sᵀy = {float(agreement):.3g}")
        agreements.append(agreement)
    direction = -gradient
    shares: list[Tensor] = []
    for step, change, agreement in zip(steps[::-1], differences[::-1], agreements[::-1], strict=True):
        shares.append((step @ direction) / agreement)
        direction = direction - shares[-1] * change
    if agreements:
        direction = direction * (agreements[-1] / (differences[-1] @ differences[-1]))
    for step, change, agreement, share in zip(steps, differences, agreements, shares[::-1], strict=True):
        direction = direction + (share - (change @ direction) / agreement) * step
    return direction
