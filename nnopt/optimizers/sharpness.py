"""Steps from the gradient of the worst point nearby, and how much worse it is. Chapter: ``optimizers/sharpness``."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from nnopt.checks import require_non_empty, require_non_negative, require_same_shape

from ._vector import finite_loss, leaves

__all__ = ["measure_sharpness", "sharpness_perturbation"]

_HALVES = {torch.float16, torch.bfloat16}


def sharpness_perturbation(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    *,
    radius: float,
    adaptive: bool = False,
    copies: bool = False,
) -> list[Tensor]:
    r"""Return the way to the worst point of a ball around the parameters, to first order.

    .. math:: e = \rho\, \frac{g}{\lVert g\rVert}, \qquad
        \text{adaptive: } e = \rho\, \frac{\theta^2 \odot g}{\lVert \theta \odot g\rVert}

    The norm runs over all parameters together. The adaptive ball is a ball of *relative* changes: it does not
    see a rescaling of weights that leaves the network the same function.

    Args:
        parameters: θ, any shapes, on one device.
        gradients: g, the same shapes.
        radius: ρ, at least 0.
        adaptive: measure changes in units of the weights.
        copies: the first dimension counts copies of a model, each of which has a norm of its own.

    Returns:
        e, one tensor for each parameter; the arguments are unchanged.

    Raises:
        ValueError: there are no parameters, another number of gradients, other shapes, or ``radius`` is negative or
            NaN.

    Source:
        Foret et al. (2021), equation 2; Kwon et al. (2021) for the adaptive ball.

    Example:
        >>> sharpness_perturbation([torch.zeros(2)], [torch.tensor([3.0, 4.0])], radius=0.5)
        [tensor([0.3000, 0.4000])]
    """
    require_non_empty("parameters", parameters)
    require_non_negative("radius", radius)
    if len(parameters) != len(gradients):
        raise ValueError(f"gradients must be {len(parameters)}, one for each parameter, got {len(gradients)}")
    for parameter, gradient in zip(parameters, gradients, strict=True):
        require_same_shape("parameter", parameter, "gradient", gradient)
    theta, g = list(parameters), list(gradients)
    is_half = not _HALVES.isdisjoint({tensor.dtype for tensor in (*theta, *g)})
    if is_half:  # whose squares soon leave their range
        theta, g = ([t.to(torch.promote_types(t.dtype, torch.float32)) for t in each] for each in (theta, g))
    measured = list(torch._foreach_mul(theta, g)) if adaptive else g
    if copies:
        rows = [tensor.reshape(len(tensor), tensor[0].numel()) for tensor in measured]
        norms = torch.stack([row.norm(dim=1) for row in rows]).norm(dim=0)
    else:
        norms = torch.stack(list(torch._foreach_norm(measured))).norm()
    scale = torch.where(norms > 0, radius / norms, torch.zeros_like(norms))  # from a flat place nowhere is worse
    if adaptive:
        g = list(torch._foreach_mul(theta, measured))
    if copies:
        ways = [tensor * scale.view(-1, *[1] * (tensor.ndim - 1)) for tensor in g]
    else:
        ways = list(torch._foreach_mul(g, scale))
    return [way.to(parameter) for way, parameter in zip(ways, parameters, strict=True)] if is_half else ways


def measure_sharpness(
    loss_fn: Callable[[], Tensor], parameters: Iterable[Tensor], *, radius: float, adaptive: bool = False
) -> float:
    r"""Return how much the loss rises on the way to the worst point nearby, to first order.

    .. math:: J(\theta + e) - J(\theta)

    with e from :func:`sharpness_perturbation`. The parameters are put back bit for bit, also after an error.

    Args:
        loss_fn: computes the 0-d loss from ``parameters`` as they are now, the same every time it is called.
        parameters: leaves that require gradients, on one device.
        radius: ρ, at least 0.
        adaptive: measure changes in units of the weights.

    Returns:
        The rise; it can be negative where the loss bends down.

    Raises:
        ValueError: there are no parameters, one is no leaf that requires gradients or comes twice, ``radius`` is
            negative or NaN, or the loss is no finite number.
        TypeError: a parameter is complex.

    Source:
        Foret et al. (2021), equation 1.

    Example:
        >>> weight = torch.ones(1, requires_grad=True)
        >>> measure_sharpness(lambda: 2 * weight.square().sum(), [weight], radius=0.5)
        2.5
    """
    parameters = leaves(parameters)
    require_non_negative("radius", radius)
    loss = finite_loss(loss_fn)
    gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
    with torch.no_grad():
        ways = sharpness_perturbation(parameters, gradients, radius=radius, adaptive=adaptive)
        origins = [parameter.clone() for parameter in parameters]
        try:
            torch._foreach_add_(parameters, ways)
            return loss_fn().item() - loss.item()
        finally:
            torch._foreach_copy_(parameters, origins)
