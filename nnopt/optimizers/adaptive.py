"""Adaptive methods: every coordinate gets a step of its own. Chapter: ``optimizers/adaptive``.

Adafactor, NAdam and RAdam are in ``_adaptive_variants``, the class of Lion in ``_lion``.
"""

import torch
from torch import Tensor

from nnopt.checks import require_integer

from ._checks import require_at_least_zero, require_betas, require_coefficient, require_shapes

__all__ = ["adagrad_step", "adam_step", "lion_step", "rmsprop_step"]


def adagrad_step(
    parameter: Tensor,
    gradient: Tensor,
    total: Tensor,
    *,
    lr: float | Tensor,
    eps: float | Tensor = 1e-10,
    weight_decay: float | Tensor = 0.0,
) -> tuple[Tensor, Tensor]:
    r"""Take one step of AdaGrad: divide by the root of the *sum* of all squared gradients.

    .. math:: s_{t} = s_{t-1} + g_t^2, \qquad \theta_{t} = \theta_{t-1} - \eta\, \frac{g_t}{\sqrt{s_t} + \varepsilon}

    Args:
        parameter: any shape, floating point.
        gradient: of the loss at ``parameter``, the same shape.
        total: s, the same shape; zeros before the first step.
        lr: learning rate η, at least 0; a number or a tensor that broadcasts against the parameter.
        eps: ε, at least 0; likewise.
        weight_decay: λ, at least 0; λθ is added to the gradient; likewise.

    Returns:
        The new parameter and the new total, same shape and dtype; the arguments are unchanged.

    Raises:
        ValueError: shapes differ, or a number is negative or NaN.
        TypeError: tensors are not real or of different dtypes.

    Convention:
        As ``torch.optim.Adagrad``: ε outside the root, totals from zero. Others put ε inside, or start at 0.1.

    Source:
        Duchi, Hazan and Singer (2011), the diagonal form.

    Example:
        >>> adagrad_step(torch.tensor([1.0]), torch.tensor([4.0]), torch.tensor([9.0]), lr=0.5)
        (tensor([0.6000]), tensor([25.]))
    """
    require_shapes(parameter, gradient=gradient, total=total)
    require_at_least_zero(parameter, lr=lr, eps=eps, weight_decay=weight_decay)
    gradient = gradient + weight_decay * parameter
    total = total + gradient.square()
    return parameter - lr * (gradient / (total.sqrt() + eps)), total


def rmsprop_step(
    parameter: Tensor,
    gradient: Tensor,
    second: Tensor,
    *,
    lr: float | Tensor,
    beta: float | Tensor = 0.99,
    eps: float | Tensor = 1e-8,
    weight_decay: float | Tensor = 0.0,
) -> tuple[Tensor, Tensor]:
    r"""Take one step of RMSProp: divide by the root of a *running mean* of squared gradients.

    .. math::
        v_{t} = \beta v_{t-1} + (1 - \beta)\, g_t^2, \qquad
        \theta_{t} = \theta_{t-1} - \eta\, \frac{g_t}{\sqrt{v_t} + \varepsilon}

    Args:
        parameter: any shape, floating point.
        gradient: of the loss at ``parameter``, the same shape.
        second: v, the same shape; zeros before the first step.
        lr: learning rate η, at least 0; a number or a tensor that broadcasts against the parameter.
        beta: β, in [0, 1); likewise.
        eps: ε, at least 0; likewise.
        weight_decay: λ, at least 0; λθ is added to the gradient; likewise.

    Returns:
        The new parameter and the new mean, same shape and dtype; the arguments are unchanged.

    Raises:
        ValueError: shapes differ, or a number is out of range or NaN.
        TypeError: tensors are not real or of different dtypes.

    Convention:
        As ``torch.optim.RMSprop`` without momentum: ε outside the root, and no bias correction, so that the
        first step is 1/√(1−β) times the learning rate, ten times at the default.

    Source:
        Tieleman and Hinton (2012), a slide of a lecture.

    Example:
        >>> rmsprop_step(torch.tensor([1.0]), torch.tensor([4.0]), torch.zeros(1), lr=0.5, beta=0.75)
        (tensor([0.]), tensor([4.]))
    """
    require_shapes(parameter, gradient=gradient, second=second)
    require_coefficient("beta", beta, parameter)
    require_at_least_zero(parameter, lr=lr, eps=eps, weight_decay=weight_decay)
    gradient = gradient + weight_decay * parameter
    second = beta * second + (1 - beta) * gradient.square()
    return parameter - lr * (gradient / (second.sqrt() + eps)), second


def adam_step(
    parameter: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    *,
    step: int,
    lr: float | Tensor,
    betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
    eps: float | Tensor = 1e-8,
    weight_decay: float | Tensor = 0.0,
    decoupled: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Take one step of Adam, or with decoupled weight decay of AdamW.

    .. math::
        m_t = \beta_1 m_{t-1} + (1 - \beta_1)\, g_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2)\, g_t^2, \qquad
        \theta_t = (1 - \eta\lambda)\, \theta_{t-1} -
        \eta\, \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \varepsilon}

    Args:
        parameter: any shape, floating point.
        gradient: of the loss at ``parameter``, the same shape.
        first: m, the running mean of gradients, the same shape; zeros before the first step.
        second: v, the running mean of squared gradients, the same shape; zeros before the first step.
        step: t, the number of this update, from 1.
        lr: learning rate η, at least 0; a number or a tensor that broadcasts against the parameter.
        betas: β₁ and β₂, each in [0, 1); numbers or tensors that broadcast.
        eps: ε, at least 0; likewise.
        weight_decay: λ, at least 0; likewise.
        decoupled: shrink the parameter beside the step, as AdamW; otherwise add λθ to the gradient, as Adam.

    Returns:
        The new parameter and the new means, same shape and dtype; the arguments are unchanged.

    Raises:
        ValueError: shapes differ, or a number is out of range or NaN.
        TypeError: ``step`` is not an integer, or tensors are not real or of different dtypes.

    Convention:
        As ``torch.optim.Adam`` and ``AdamW``: ε is added *after* bias correction (Algorithm 1 of the paper). The
        ε̂ of Keras and of the paper's faster form is added before, and is ε·√(1−β₂ᵗ) in these letters.

    Source:
        Kingma and Ba (2015), algorithm 1; Loshchilov and Hutter (2019), algorithm 2, with the schedule in η.

    Example:
        >>> start, zeros = torch.zeros(2), torch.zeros(2)
        >>> adam_step(start, torch.tensor([1e-3, -1e3]), zeros, zeros, step=1, lr=0.5)[0]
        tensor([-0.5000,  0.5000])
    """
    require_adam(parameter, gradient, first, second, step=step, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
    parameter, gradient = decayed(parameter, gradient, lr=lr, weight_decay=weight_decay, decoupled=decoupled)
    beta1, beta2 = betas
    first, second = moments(gradient, first, second, betas)
    scale = (second / (1 - beta2**step)).sqrt() + eps
    return parameter - lr * (first / (1 - beta1**step) / scale), first, second


def lion_step(
    parameter: Tensor,
    gradient: Tensor,
    average: Tensor,
    *,
    lr: float | Tensor,
    betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.99),
    weight_decay: float | Tensor = 0.0,
) -> tuple[Tensor, Tensor]:
    r"""Take one step of Lion: only the sign of an average counts.

    .. math::
        \theta_t = (1 - \eta\lambda)\, \theta_{t-1} - \eta\, \operatorname{sign}(\beta_1 m_{t-1} + (1 - \beta_1)\, g_t),
        \qquad m_t = \beta_2 m_{t-1} + (1 - \beta_2)\, g_t

    Args:
        parameter: any shape, floating point.
        gradient: of the loss at ``parameter``, the same shape.
        average: m, the running mean of gradients, the same shape; zeros before the first step.
        lr: learning rate η, at least 0; a number or a tensor that broadcasts against the parameter.
        betas: β₁ of the step and β₂ of the memory, each in [0, 1); numbers or tensors that broadcast.
        weight_decay: λ, at least 0, decoupled; likewise.

    Returns:
        The new parameter and the new mean, same shape and dtype; the arguments are unchanged.

    Raises:
        ValueError: shapes differ, or a number is out of range or NaN.
        TypeError: tensors are not real or of different dtypes.

    Convention:
        Every coordinate moves by η or not at all (where the average is exactly 0). That is a longer step than
        Adam's: the paper divides Adam's learning rate by 3 to 10 and multiplies its decay by as much.

    Source:
        Chen et al. (2023), algorithm 2.

    Example:
        >>> lion_step(torch.zeros(3), torch.tensor([1e-6, -5.0, 0.0]), torch.zeros(3), lr=0.5)[0]
        tensor([-0.5000,  0.5000,  0.0000])
    """
    require_shapes(parameter, gradient=gradient, average=average)
    require_betas(betas, parameter)
    require_at_least_zero(parameter, lr=lr, weight_decay=weight_decay)
    parameter, gradient = decayed(parameter, gradient, lr=lr, weight_decay=weight_decay, decoupled=True)
    direction = torch.lerp(average, gradient, _weight(betas[0], average)).sign()
    return parameter - lr * direction, torch.lerp(average, gradient, _weight(betas[1], average))


def require_adam(
    parameter: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    *,
    step: int,
    lr: float | Tensor,
    betas: object,
    eps: float | Tensor,
    weight_decay: float | Tensor,
) -> None:
    """Refuse what no relative of Adam takes."""
    require_shapes(parameter, gradient=gradient, first=first, second=second)
    require_integer("step", step, minimum=1)
    require_betas(betas, parameter)
    require_at_least_zero(parameter, lr=lr, eps=eps, weight_decay=weight_decay)


def moments(
    gradient: Tensor, first: Tensor, second: Tensor, betas: tuple[float | Tensor, float | Tensor]
) -> tuple[Tensor, Tensor]:
    """Return Adam's running means of the gradient and of its square, one gradient later."""
    beta1, beta2 = betas
    return beta1 * first + (1 - beta1) * gradient, beta2 * second + (1 - beta2) * gradient.square()


def decayed(
    parameter: Tensor, gradient: Tensor, *, lr: float | Tensor, weight_decay: float | Tensor, decoupled: bool
) -> tuple[Tensor, Tensor]:
    """Return parameter and gradient after weight decay: the one shrunk, or the other lengthened by λθ."""
    if not isinstance(weight_decay, Tensor) and weight_decay == 0:
        return parameter, gradient
    if decoupled:
        return parameter * (1 - lr * weight_decay), gradient
    return parameter, gradient + weight_decay * parameter


def _weight(beta: float | Tensor, like: Tensor) -> float | Tensor:
    """Return 1 − β as ``torch.lerp`` takes it."""
    return (1 - beta).to(like) if isinstance(beta, Tensor) else 1 - beta
