"""Three relatives of Adam: factored second moments, look-ahead, and a first phase without them."""

import math

import torch
from torch import Tensor

from nnopt.checks import require_integer, require_positive

from ._checks import require_at_least_zero, require_broadcast, require_dtypes, require_shapes
from .adaptive import decayed, moments, require_adam

__all__ = ["adafactor_step", "nadam_step", "radam_step"]


def adafactor_step(
    parameter: Tensor,
    gradient: Tensor,
    row: Tensor,
    column: Tensor,
    *,
    step: int,
    lr: float | Tensor,
    decay_power: float = 0.8,
    eps: float | None = None,
    min_scale: float = 1e-3,
    max_update: float = 1.0,
    weight_decay: float | Tensor = 0.0,
    copies: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Take one step of Adafactor: of a matrix of second moments, keep only the means of rows and columns.

    .. math::
        V_t = \frac{r_t\, c_t}{\operatorname{mean}(r_t)}, \qquad
        U_t = \frac{g_t}{\sqrt{V_t}}, \qquad
        \theta_t = (1 - \eta\lambda)\,\theta_{t-1} -
        \min\!\left(\eta, \tfrac{1}{\sqrt t}\right) \max(\varepsilon_2, \operatorname{RMS}(\theta_{t-1}))\,
        \frac{U_t}{\max(1, \operatorname{RMS}(U_t) / d)}

    where r and c are running means of g², averaged over columns and over rows, of decay 1 − t^(−power).

    Args:
        parameter: any shape, floating point. The last two dimensions are factored; a vector is not.
        gradient: of the loss at ``parameter``, the same shape.
        row: r, (..., m, 1); of a vector v itself, in its shape. Zeros before the first step; zeros of the
            parameter's shape serve too, and then hold each mean n times.
        column: c, (..., 1, n); of a vector ignored. Zeros before the first step, likewise.
        step: t, the number of this update, from 1.
        lr: η, at least 0: a *cap* on the relative step; a number or a tensor that broadcasts.
        decay_power: how fast the memory of r and c grows, above 0.
        eps: smallest root of a second moment, above 0; None for the machine epsilon of the dtype.
        min_scale: ε₂, at least 0: how far a parameter of zeros may move.
        max_update: d, above 0: updates of a larger root mean square are scaled down to it.
        weight_decay: λ, at least 0, decoupled.
        copies: the first dimension counts copies of a model, each with a scale of its own.

    Returns:
        The new parameter, rows and columns, shapes and dtypes as they were; the arguments are unchanged.

    Raises:
        ValueError: shapes do not fit, or a number is out of range or NaN.
        TypeError: ``step`` is not an integer, or tensors are not real or of different dtypes.

    Convention:
        As ``torch.optim.Adafactor``, whose learning rate caps the paper's 1/√t, whose decay is decoupled and
        whose ε bounds from below what the paper adds; torch writes the power with a minus.

    Source:
        Shazeer and Stern (2018), algorithms 4 and 5.

    Example:
        >>> row, column = torch.zeros(2, 1), torch.zeros(1, 3)
        >>> adafactor_step(torch.ones(2, 3), torch.full((2, 3), 7.0), row, column, step=1, lr=0.25)[0][0]
        tensor([0.7500, 0.7500, 0.7500])
    """
    require_shapes(parameter, gradient=gradient)
    require_integer("step", step, minimum=1)
    require_at_least_zero(parameter, lr=lr, min_scale=min_scale, weight_decay=weight_decay)
    for name, value in (("decay_power", decay_power), ("max_update", max_update), ("eps", eps)):
        if value is not None:
            require_positive(name, value)
    own = tuple(range(int(copies), parameter.ndim))
    factored = len(own) > 1
    for name, state in (("row", row), ("column", column)) if factored else (("row", row),):
        wanted = (*parameter.shape[:-1], 1) if name == "row" else (*parameter.shape[:-2], 1, parameter.shape[-1])
        if state.shape != parameter.shape and not (factored and state.shape == wanted):
            raise ValueError(f"{name} must have shape {wanted}, got {tuple(state.shape)}")
        require_dtypes(parameter, **{name: state})
    if parameter.numel() == 0:
        return parameter.clone(), row.clone(), column.clone()
    smallest = torch.finfo(parameter.dtype).eps if eps is None else eps
    new, squares = step**-decay_power, gradient.square()
    if factored:
        row = torch.lerp(row, squares.mean(dim=-1, keepdim=True).expand_as(row), new)
        column = torch.lerp(column, squares.mean(dim=-2, keepdim=True).expand_as(column), new)
        moments = row * column / row.mean(dim=-2, keepdim=True).clamp(min=smallest)
    else:
        row = moments = torch.lerp(row, squares, new)
    update = gradient * moments.clamp(min=smallest * smallest).rsqrt()
    scale = _root_mean_square(parameter, own).clamp(min=min_scale)
    cap = lr.clamp(max=1 / math.sqrt(step)) if isinstance(lr, Tensor) else min(lr, 1 / math.sqrt(step))
    update = scale * update / (_root_mean_square(update, own) / max_update).clamp(min=1.0)
    parameter, _ = decayed(parameter, gradient, lr=lr, weight_decay=weight_decay, decoupled=True)
    return parameter - cap * update, row, column


def nadam_step(
    parameter: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    weight: Tensor,
    *,
    step: int,
    lr: float | Tensor,
    betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
    eps: float | Tensor = 1e-8,
    weight_decay: float | Tensor = 0.0,
    decoupled: bool = True,
    momentum_decay: float | Tensor = 4e-3,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""Take one step of NAdam: Adam whose first moment looks ahead, as Nesterov's momentum does.

    .. math::
        \mu_t = \beta_1 \left(1 - \tfrac12\, 0.96^{t\psi}\right), \qquad
        \theta_t = \theta_{t-1} - \frac{\eta}{\sqrt{v_t / (1 - \beta_2^t)} + \varepsilon}
        \left(\frac{1 - \mu_t}{1 - \prod_{i \le t} \mu_i}\, g_t
        + \frac{\mu_{t+1}}{1 - \prod_{i \le t+1} \mu_i}\, m_t\right)

    Args:
        parameter: any shape, floating point.
        gradient: of the loss at ``parameter``, the same shape.
        first: m as in :func:`adam_step`, the same shape; zeros before the first step.
        second: v likewise.
        weight: 1 − ∏μ, any shape that broadcasts, such as that of the parameter or none; zeros before the first step.
        step: t, the number of this update, from 1.
        lr: learning rate η, at least 0; a number or a tensor that broadcasts against the parameter.
        betas: β₁ and β₂, each in [0, 1); likewise.
        eps: ε, at least 0; likewise.
        weight_decay: λ, at least 0; likewise.
        decoupled: shrink the parameter beside the step; otherwise add λθ to the gradient.
        momentum_decay: ψ, at least 0; likewise.

    Returns:
        The new parameter, moments and weight, same shapes and dtypes; the arguments are unchanged.

    Raises:
        ValueError: shapes differ, or a number is out of range or NaN.
        TypeError: ``step`` is not an integer, or tensors are not real or of different dtypes.

    Convention:
        As ``torch.optim.NAdam``, which keeps the product ∏μ in the default dtype, float32, also for float64
        parameters; other libraries leave out the schedule of μ, and walk elsewhere.

    Source:
        Dozat (2016), algorithm 2.

    Example:
        >>> zeros = torch.zeros(1)
        >>> nadam_step(torch.ones(1), torch.ones(1), zeros, zeros, zeros, step=1, lr=0.5)[0]
        tensor([0.4718])
    """
    require_adam(parameter, gradient, first, second, step=step, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
    require_at_least_zero(parameter, momentum_decay=momentum_decay)
    require_broadcast("weight", weight, parameter)
    beta1, beta2 = betas
    parameter, gradient = decayed(parameter, gradient, lr=lr, weight_decay=weight_decay, decoupled=decoupled)
    now = beta1 * (1 - 0.5 * 0.96 ** (step * momentum_decay))
    ahead = beta1 * (1 - 0.5 * 0.96 ** ((step + 1) * momentum_decay))
    first, second = moments(gradient, first, second, betas)
    weight = 1 - (1 - weight) * now
    look = (1 - now) / weight * gradient + ahead / (1 - (1 - weight) * ahead) * first
    scale = (second / (1 - beta2**step)).sqrt() + eps
    return parameter - lr * (look / scale), first, second, weight


def radam_step(
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
    r"""Take one step of RAdam: Adam that trusts the second moment only once it has seen a few gradients.

    .. math::
        \rho_\infty = \frac{2}{1 - \beta_2} - 1, \qquad
        \rho_t = \rho_\infty - \frac{2 t \beta_2^t}{1 - \beta_2^t}, \qquad
        \theta_t = \theta_{t-1} - \eta\, \frac{m_t}{1 - \beta_1^t}
        \begin{cases} 1 & \rho_t \le 5 \\
        \sqrt{\frac{(\rho_t - 4)(\rho_t - 2)\rho_\infty}{(\rho_\infty - 4)(\rho_\infty - 2)\rho_t}}\;
        \frac{\sqrt{1 - \beta_2^t}}{\sqrt{v_t} + \varepsilon} & \text{otherwise} \end{cases}

    Args:
        parameter: any shape, floating point.
        gradient: of the loss at ``parameter``, the same shape.
        first: m as in :func:`adam_step`, the same shape; zeros before the first step.
        second: v likewise.
        step: t, the number of this update, from 1.
        lr: learning rate η, at least 0; a number or a tensor that broadcasts against the parameter.
        betas: β₁ and β₂, each in [0, 1); likewise.
        eps: ε, at least 0; likewise.
        weight_decay: λ, at least 0; likewise.
        decoupled: shrink the parameter beside the step; otherwise add λθ to the gradient.

    Returns:
        The new parameter and moments, same shape and dtype; the arguments are unchanged.

    Raises:
        ValueError: shapes differ, or a number is out of range or NaN.
        TypeError: ``step`` is not an integer, or tensors are not real or of different dtypes.

    Convention:
        As ``torch.optim.RAdam``: ε before bias correction, unlike Adam's; the first phase (five steps at the
        default β₂) is momentum at the full learning rate, where the paper's authors later skipped it.

    Source:
        Liu et al. (2020), algorithm 2.

    Example:
        >>> zeros = torch.zeros(1)
        >>> radam_step(torch.ones(1), torch.tensor([0.5]), zeros, zeros, step=1, lr=0.5)[0]
        tensor([0.7500])
    """
    require_adam(parameter, gradient, first, second, step=step, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
    parameter, gradient = decayed(parameter, gradient, lr=lr, weight_decay=weight_decay, decoupled=decoupled)
    beta1, beta2 = betas
    first, second = moments(gradient, first, second, betas)
    factor = _rectification(beta2, step, parameter.device)
    # the factor is a float64, whose dtype a parameter of no dimensions would take over
    adapted = (factor / (second.sqrt() + eps)).to(second)
    direction = first / (1 - beta1**step) * torch.where(factor.isnan(), torch.ones_like(adapted), adapted)
    return parameter - lr * direction, first, second


def _rectification(beta2: float | Tensor, step: int, device: torch.device) -> Tensor:
    """Return the factor of RAdam's denominator, or NaN while it is not to be used."""
    beta = beta2 if isinstance(beta2, Tensor) else torch.tensor(beta2, dtype=torch.float64, device=device)
    seen = 1 - beta**step
    limit = 2 / (1 - beta) - 1
    length = limit - 2 * step * beta**step / seen
    square = (length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length)
    return torch.where(length > 5, (square * seen).clamp(min=0).sqrt(), torch.nan)


def _root_mean_square(values: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Return the root of the mean square over ``dims``, which are kept."""
    return values.square().mean(dim=dims, keepdim=True).sqrt() if dims else values.abs()
