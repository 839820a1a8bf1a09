"""Two rules of Adam's family: one with a second, slow average, and one that finds its own step length."""

import torch
from torch import Tensor

from nnopt.checks import require_positive

from ._checks import require_at_least_zero, require_coefficient, require_dtypes, require_shapes
from .adaptive import decayed, moments, require_adam

__all__ = ["ademamix_step", "prodigy_step"]


def ademamix_step(
    parameter: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    slow: Tensor,
    *,
    step: int,
    lr: float | Tensor,
    betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
    slow_beta: float | Tensor = 0.9999,
    slow_weight: float | Tensor = 5.0,
    eps: float | Tensor = 1e-8,
    weight_decay: float | Tensor = 0.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""Take one step of AdEMAMix: AdamW with a second average of gradients that remembers thousands of steps.

    .. math:: n_t = \beta_3 n_{t-1} + (1 - \beta_3) g_t, \qquad
        \theta_t = (1 - \eta\lambda)\,\theta_{t-1}
        - \eta\, \frac{\hat m_t + \alpha\, n_t}{\sqrt{\hat v_t} + \varepsilon}

    Args:
        parameter: θ, any shape, floating point.
        gradient: g of the loss at ``parameter``, the same shape.
        first: m as in :func:`adam_step`, the same shape; zeros before the first step.
        second: v likewise.
        slow: n likewise.
        step: t, the number of this update, from 1.
        lr: learning rate η, at least 0; a number or a tensor that broadcasts against the parameter.
        betas: β₁ and β₂, each in [0, 1); likewise.
        slow_beta: β₃, in [0, 1); likewise.
        slow_weight: α, at least 0; likewise. The authors let α and β₃ grow from 0 and β₁ during a run.
        eps: ε, at least 0; likewise.
        weight_decay: λ, at least 0, decoupled; likewise.

    Returns:
        The new parameter, both moments and the slow average, same shape and dtype; the arguments are unchanged.

    Raises:
        ValueError: shapes differ, or a number is out of range or NaN.
        TypeError: ``step`` is not an integer, or tensors are not real or of different dtypes.

    Source:
        Pagliardini, Ablin and Grangier (2025), algorithm 1.

    Example:
        >>> zeros = torch.zeros(1)
        >>> ademamix_step(torch.ones(1), torch.ones(1), zeros, zeros, zeros, step=1, lr=0.5, slow_beta=0.9)[0]
        tensor([0.2500])
    """
    require_adam(parameter, gradient, first, second, step=step, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
    require_shapes(parameter, slow=slow)
    require_coefficient("slow_beta", slow_beta, parameter)
    require_at_least_zero(parameter, slow_weight=slow_weight)
    beta1, beta2 = betas
    parameter, gradient = decayed(parameter, gradient, lr=lr, weight_decay=weight_decay, decoupled=True)
    first, second = moments(gradient, first, second, betas)
    slow = slow_beta * slow + (1 - slow_beta) * gradient
    direction = first / (1 - beta1**step) + slow_weight * slow
    scale = (second / (1 - beta2**step)).sqrt() + eps
    return parameter - lr * (direction / scale), first, second, slow


def prodigy_step(
    parameter: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    way: Tensor,
    sums: Tensor,
    estimate: Tensor,
    *,
    step: int,
    lr: float | Tensor,
    betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
    eps: float | Tensor = 1e-8,
    weight_decay: float | Tensor = 0.0,
    initial: float = 1e-6,
    copies: bool = False,
) -> tuple[Tensor, ...]:
    r"""Take one step of Prodigy: Adam whose step length is its estimate d of the distance to the solution.

    .. math::
        r_t = \sqrt{\beta_2}\, r_{t-1} + \tfrac{d_t}{d_0}\gamma_t \langle g_t, \theta_0 - \theta_{t-1}\rangle, \quad
        s_t = \sqrt{\beta_2}\, s_{t-1} + \tfrac{d_t}{d_0}\gamma_t\, g_t, \quad
        d_{t+1} = \max\!\left(d_t, \frac{r_t}{\lVert s_t\rVert_1}\right)

    with :math:`\gamma_t = \eta\, d_t \sqrt{1-\beta_2^t}/(1-\beta_1^t)`, Adam's moments of :math:`d_t g_t`, and
    :math:`\theta_t = (1-\gamma_t\lambda)\,\theta_{t-1} - \gamma_t\, m_t/(\sqrt{v_t} + d_{t+1}\varepsilon)`.

    Args:
        parameter: θ, any shape, floating point. d belongs to the tensor: for one d of a whole network give its
            weights as one vector.
        gradient: g of the loss at ``parameter``, the same shape.
        first: m, the same shape; zeros before the first step.
        second: v likewise.
        way: θ₀ − θ, likewise.
        sums: s likewise.
        estimate: (2,), d and r, or (copies, 2); of any shape before the first step, which does not read it.
        step: t, the number of this update, from 1.
        lr: η, at least 0, a multiplier of d that is meant to stay 1; a number or a tensor that broadcasts.
        betas: β₁ and β₂, each in [0, 1); likewise.
        eps: ε, at least 0; likewise.
        weight_decay: λ, at least 0, decoupled; likewise.
        initial: d₀, above 0 and far below the distance.
        copies: the first dimension counts copies of a model, each with a d of its own.

    Returns:
        The new parameter and the five states; the arguments are unchanged.

    Raises:
        ValueError: shapes differ, or a number is out of range or NaN.
        TypeError: ``step`` is not an integer, or tensors are not real or of different dtypes.

    Convention:
        As ``pytorch_optimizer.Prodigy`` with ``bias_correction=True``, but for one tensor. Where all gradients so far
        were zero nothing moves.

    Source:
        Mishchenko and Defazio (2024), algorithm 4.

    Example:
        >>> x, states = torch.tensor([3.0]), [torch.zeros(1)] * 5
        >>> for t in range(1, 200):
        ...     x, *states = prodigy_step(x, 2 * x, *states, step=t, lr=1.0)
        >>> bool(x.abs() < 0.1), states[-1][0] > 0.1  # without a learning rate
        (True, tensor(True))
    """
    require_adam(parameter, gradient, first, second, step=step, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
    require_shapes(parameter, way=way, sums=sums)
    require_positive("initial", initial)
    wanted = (len(parameter), 2) if copies else (2,)
    if step > 1 and estimate.shape != wanted:
        raise ValueError(f"estimate must have shape {wanted} after the first step, got {tuple(estimate.shape)}")
    if step > 1:
        require_dtypes(parameter, estimate=estimate)
    else:
        estimate = parameter.new_tensor([initial, 0.0]).expand(wanted)
    beta1, beta2 = betas
    own = range(int(copies), parameter.ndim)
    shape = (*wanted[:-1], *[1] * len(own))
    d, numerator = (part.reshape(shape) for part in estimate.unbind(-1))
    rate = d * lr * (1 - beta2**step) ** 0.5 / (1 - beta1**step)
    memory, weight = beta2**0.5, d / initial * rate
    numerator = memory * numerator + _total(weight * gradient * way, own)
    first = beta1 * first + d * (1 - beta1) * gradient
    second = beta2 * second + d.square() * (1 - beta2) * gradient.square()
    sums = memory * sums + weight * gradient
    size = _total(sums.abs(), own)
    longer = torch.where(size > 0, torch.maximum(d, numerator / size), d)
    shrunk, _ = decayed(parameter, gradient, lr=rate, weight_decay=weight_decay, decoupled=True)
    new = shrunk - rate * (first / (second.sqrt() + longer * eps))
    new = torch.where(size > 0, new, parameter)
    estimate = torch.stack([longer.expand(shape).reshape(wanted[:-1]), numerator.reshape(wanted[:-1])], dim=-1)
    return new, first, second, way + parameter - new, sums, estimate


def _total(values: Tensor, dims: range) -> Tensor:
    """Return the sum over ``dims``, which are kept."""
    return values.sum(dim=tuple(dims), keepdim=True) if len(dims) else values
