"""Averages of weights, kept beside the run or inside the rule. Chapter: ``optimizers/averaging``."""

import torch
from torch import Tensor

from nnopt.checks import require_dtype, require_integer, require_same_shape

from ._checks import require_at_least_zero, require_betas, require_broadcast, require_coefficient, require_shapes

__all__ = [
    "averaged_weights",
    "ema_update",
    "running_mean",
    "schedule_free_adamw_step",
    "schedule_free_step",
]


def ema_update(average: Tensor, value: Tensor, *, decay: float | Tensor, step: int | None = None) -> Tensor:
    r"""Move an exponential moving average (EMA) towards a new value.

    .. math:: a_t = \delta\, a_{t-1} + (1 - \delta)\, \theta_t, \qquad
        \text{with } t \text{ given: } \min\!\left(\delta, \tfrac{1 + t}{10 + t}\right) \text{ in place of } \delta

    Args:
        average: a, any shape, floating point; before the first update a copy of the value.
        value: θ, the same shape.
        decay: δ, in [0, 1]; a number or a tensor that broadcasts. Its horizon is about 1/(1−δ) updates.
        step: t, the number of this update, from 1: a short memory at first, which grows up to the horizon; None
            keeps the memory as it is.

    Returns:
        The new average, same shape and dtype; the arguments are unchanged.

    Raises:
        ValueError: shapes differ, ``decay`` is not in [0, 1], or ``step`` is below 1.
        TypeError: ``step`` is not an integer, or the average not floating point.

    Convention:
        As ``torch.optim.swa_utils.get_ema_avg_fn`` without ``step``, and as TensorFlow's
        ``ExponentialMovingAverage`` with ``num_updates=step``.

    Source:
        Polyak and Juditsky (1992) for averaging; the warm-up is TensorFlow's.

    Example:
        >>> ema_update(torch.tensor([1.0]), torch.tensor([3.0]), decay=0.75)
        tensor([1.5000])
    """
    require_same_shape("average", average, "value", value)
    require_dtype("average", average, None)
    require_coefficient("decay", decay, average, open_end=False)
    if step is not None:
        require_integer("step", step, minimum=1)
        shortest = (1 + step) / (10 + step)
        decay = decay.clamp(max=shortest) if isinstance(decay, Tensor) else min(decay, shortest)
    return decay * average + (1 - decay) * value


def running_mean(mean: Tensor, value: Tensor, *, step: int) -> Tensor:
    r"""Take one more value into a mean of all values so far.

    .. math:: a_t = a_{t-1} + \tfrac1t\, (\theta_t - a_{t-1})

    Args:
        mean: a, any shape, floating point; anything finite before the first value.
        value: θ, the same shape.
        step: t, the number of this value, from 1.

    Returns:
        The new mean, same shape and dtype; the arguments are unchanged.

    Raises:
        ValueError: shapes differ, or ``step`` is below 1.
        TypeError: ``step`` is not an integer, or the average not floating point.

    Source:
        Polyak and Juditsky (1992); Izmailov et al. (2018) for networks, as stochastic weight averaging (SWA).

    Example:
        >>> running_mean(torch.tensor([1.0]), torch.tensor([4.0]), step=3)
        tensor([2.])
    """
    require_same_shape("mean", mean, "value", value)
    require_dtype("mean", mean, None)
    require_integer("step", step, minimum=1)
    return mean + (value - mean) / step


def schedule_free_step(
    parameter: Tensor,
    gradient: Tensor,
    gap: Tensor,
    weight_sum: Tensor,
    *,
    lr: float | Tensor,
    momentum: float | Tensor = 0.9,
    weight_decay: float | Tensor = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Take one step of schedule-free gradient descent: step from one point, answer with the mean, look between.

    .. math::
        z_t = z_{t-1} - \eta_t\, (g_t + \lambda\, y_{t-1}), \qquad
        x_t = (1 - c_t)\, x_{t-1} + c_t\, z_t, \qquad
        y_t = (1 - \beta)\, z_t + \beta\, x_t, \qquad c_t = \eta_t^2 \Big/ \sum_{i \le t} \eta_i^2

    Args:
        parameter: y, where gradients are taken: what a model trains with, not what it answers with; any shape,
            floating point.
        gradient: g, of the loss at ``parameter``, the same shape.
        gap: y − x, the same shape; zeros before the first step. See :func:`averaged_weights`.
        weight_sum: the sum of squared rates, any shape that broadcasts; zeros before the first step.
        lr: learning rate η, at least 0; a number or a tensor that broadcasts against the parameter.
        momentum: β, in [0, 1); likewise. 0 takes gradients at z (Polyak averaging).
        weight_decay: λ, at least 0; likewise.

    Returns:
        The new parameter, gap and sum, same shapes and dtypes; the arguments are unchanged.

    Raises:
        ValueError: shapes differ, or a number is out of range or NaN.
        TypeError: tensors are not real or of different dtypes.

    Convention:
        As ``schedulefree.SGDScheduleFree`` while the rate does not fall: with a falling one the package weights
        by the largest rate so far. The package keeps z in place of y − x, and cannot take β = 0.

    Source:
        Defazio et al. (2024), equations 1 to 3, with weights as in its algorithm 1.

    Example:
        >>> y, gap, total = torch.tensor([1.0]), torch.zeros(1), torch.zeros(())
        >>> for _ in range(2):
        ...     y, gap, total = schedule_free_step(y, torch.tensor([2.0]), gap, total, lr=0.5, momentum=0.5)
        >>> y, averaged_weights(y, gap)  # z is -1
        (tensor([-0.7500]), tensor([-0.5000]))
    """
    require_shapes(parameter, gradient=gradient, gap=gap)
    require_broadcast("weight_sum", weight_sum, parameter)
    require_coefficient("momentum", momentum, parameter)
    require_at_least_zero(parameter, lr=lr, weight_decay=weight_decay)
    return _look_between(parameter, gradient + weight_decay * parameter, gap, weight_sum, lr=lr, beta=momentum)


def schedule_free_adamw_step(
    parameter: Tensor,
    gradient: Tensor,
    gap: Tensor,
    weight_sum: Tensor,
    second: Tensor,
    *,
    step: int,
    lr: float | Tensor,
    betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
    eps: float | Tensor = 1e-8,
    weight_decay: float | Tensor = 0.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""Take one step of schedule-free AdamW: :func:`schedule_free_step` along Adam's scaled gradient.

    .. math::
        v_t = \beta_2 v_{t-1} + (1 - \beta_2)\, g_t^2, \qquad
        z_t = z_{t-1} - \eta_t \left(\frac{g_t}{\sqrt{v_t / (1 - \beta_2^t)} + \varepsilon} + \lambda\, y_{t-1}\right)

    Args:
        parameter: y as in :func:`schedule_free_step`, any shape, floating point.
        gradient: g, of the loss at ``parameter``, the same shape.
        gap: y − x, the same shape; zeros before the first step. See :func:`averaged_weights`.
        weight_sum: the sum of squared rates, any shape that broadcasts; zeros before the first step.
        second: v, the running mean of squared gradients, the shape of the parameter; zeros before the first step.
        step: t, the number of this update, from 1.
        lr: learning rate η, at least 0; a number or a tensor that broadcasts against the parameter.
        betas: β₁ of y, in the place of Adam's momentum, and β₂ of v, each in [0, 1); likewise.
        eps: ε, at least 0; likewise.
        weight_decay: λ, at least 0; likewise.

    Returns:
        The new parameter, gap, sum and mean, same shapes and dtypes; the arguments are unchanged.

    Raises:
        ValueError: shapes differ, or a number is out of range or NaN.
        TypeError: ``step`` is not an integer, or tensors are not real or of different dtypes.

    Convention:
        As ``schedulefree.AdamWScheduleFree`` while the rate does not fall. The paper corrects the bias of v in
        the learning rate, the package, and we, in the denominator.

    Source:
        Defazio et al. (2024), algorithm 1.

    Example:
        >>> zeros = torch.zeros(2)
        >>> schedule_free_adamw_step(zeros, torch.tensor([1e-3, -1e3]), zeros, zeros, zeros, step=1, lr=0.5)[0]
        tensor([-0.5000,  0.5000])
    """
    require_shapes(parameter, gradient=gradient, gap=gap, second=second)
    require_broadcast("weight_sum", weight_sum, parameter)
    require_integer("step", step, minimum=1)
    require_betas(betas, parameter)
    require_at_least_zero(parameter, lr=lr, eps=eps, weight_decay=weight_decay)
    beta1, beta2 = betas
    second = beta2 * second + (1 - beta2) * gradient.square()
    direction = gradient / ((second / (1 - beta2**step)).sqrt() + eps) + weight_decay * parameter
    return *_look_between(parameter, direction, gap, weight_sum, lr=lr, beta=beta1), second


def averaged_weights(parameter: Tensor, gap: Tensor, *others: Tensor) -> Tensor:
    """Return the weights x that a schedule-free model answers with, from those that it trains with.

    Args:
        parameter: y, any shape, floating point.
        gap: y − x, the same shape, as :func:`schedule_free_step` and :func:`schedule_free_adamw_step` keep it.
        others: further states, ignored: so this fits ``nnopt.training.sweep(…, weights_of=averaged_weights)``.

    Returns:
        x, same shape and dtype; the arguments are unchanged.

    Raises:
        ValueError: shapes differ.
        TypeError: tensors are not real or of different dtypes.

    Example:
        >>> averaged_weights(torch.tensor([3.0]), torch.tensor([0.5]))
        tensor([2.5000])
    """
    require_shapes(parameter, gap=gap)
    return parameter - gap


def _look_between(
    parameter: Tensor, direction: Tensor, gap: Tensor, weight_sum: Tensor, *, lr: float | Tensor, beta: float | Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, y − x and the sum of weights after z has moved along ``direction``."""
    weight_sum = weight_sum + lr * lr
    # before the first rate above zero nothing has moved, and any share would do
    share = lr * lr / torch.where(weight_sum > 0, weight_sum, 1.0)
    # (1−β) (z − x) with the new z and the old x: z, x and y are all some part of it apart
    reach = gap - (1 - beta) * lr * direction
    new_gap = (1 - share) * reach
    average = parameter - gap + share / (1 - beta) * reach
    return (average + new_gap).to(parameter), new_gap.to(gap), weight_sum
