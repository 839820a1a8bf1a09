"""How large a batch is worth its price: noise scale, learning rate rules, accumulation.

Chapter: ``optimizers/batch_size``.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from nnopt.checks import (
    require_finite,
    require_integer,
    require_non_empty,
    require_one_of,
    require_positive,
    require_same_shape,
    require_shape,
    require_type,
)
from nnopt.types import Batch, LossFn

__all__ = ["accumulate", "gradient_noise_scale", "per_example_noise_scale", "scale_lr"]


def gradient_noise_scale(
    small_norms: Tensor, big_norms: Tensor, *, small: int, big: int, confidence: float = 0.95
) -> tuple[float, float, float]:
    r"""Estimate the gradient noise scale from the lengths of gradients of two batch sizes.

    The gradient of B independent rows has the mean square ‖G‖² + tr Σ / B; two sizes b < B give two equations,
    and their solution is

    .. math::
        \mathcal B = \frac{\operatorname{tr}\Sigma}{\lVert G\rVert^2}
        = \frac{\left(\overline{\lVert g_b\rVert^2} - \overline{\lVert g_B\rVert^2}\right) / (1/b - 1/B)}
               {\left(B\,\overline{\lVert g_B\rVert^2} - b\,\overline{\lVert g_b\rVert^2}\right) / (B - b)}

    Args:
        small_norms: lengths ‖g_b‖, not squared, of n >= 2 gradients (n,), each the mean over its batch.
        big_norms: ‖g_B‖, (n,); entry i may belong to the same step as the i-th small one: the interval
            uses what the two have in common.
        small: rows of the small batches, b, at least 1.
        big: rows of the big ones, B, above ``small``.
        confidence: of the interval, in (0, 1).

    Returns:
        Estimate, low and high, in rows. The estimate is infinite where no gradient can be told from noise,
        ``high`` where the interval has no upper end.

    Raises:
        ValueError: shapes differ, a length is negative, NaN or infinite, or a number is out of range.
        TypeError: the lengths are no tensors, or a batch size is not an integer.

    Convention:
        The ratio of two means, never the mean of ratios, which is biased. Big batches that are a large part of
        the data, drawn without replacement, make the estimate too large.

    Source:
        McCandlish, Kaplan, Amodei et al. (2018), appendix A.1; Fieller (1954) for the interval.

    Example:
        >>> lengths = torch.tensor([3.0, 3.0])  # 9 = |G|² + trΣ / 2 and 5 = |G|² + trΣ / 4
        >>> estimate, low, high = gradient_noise_scale(lengths, torch.tensor([5.0, 5.0]).sqrt(), small=2, big=4)
        >>> round(estimate, 3)
        16.0
    """
    require_type("small_norms", small_norms, Tensor)
    require_type("big_norms", big_norms, Tensor)
    require_same_shape("small_norms", small_norms, "big_norms", big_norms)
    require_shape("small_norms", small_norms, (small_norms.numel(),))
    if len(small_norms) < 2:
        raise ValueError(f"small_norms must have at least 2 lengths, got {len(small_norms)}")
    for name, norms in (("small_norms", small_norms), ("big_norms", big_norms)):
        require_finite(name, norms)
        if not bool((norms >= 0).all()):
            raise ValueError(f"{name} must be >= 0, got {float(norms.min())!r}")
    require_integer("small", small, minimum=1)
    require_integer("big", big, minimum=small + 1)
    require_positive("confidence", confidence)
    if confidence >= 1:
        raise ValueError(f"confidence must be < 1, got {confidence!r}")
    small_squares, big_squares = small_norms.double().square(), big_norms.double().square()
    noise = (small_squares - big_squares) / (1 / small - 1 / big)
    signal = (big * big_squares - small * small_squares) / (big - small)
    top, bottom = float(noise.mean()), float(signal.mean())
    estimate = max(top, 0.0) / bottom if bottom > 0 else math.inf
    return estimate, *_ratio_interval(noise, signal, confidence)


def _ratio_interval(top: Tensor, bottom: Tensor, confidence: float) -> tuple[float, float]:
    """Return the part at or above zero of Fieller's interval of mean(top) / mean(bottom)."""
    from scipy import special  # importing scipy.stats instead would take seconds

    count = len(top)
    quantile = float(special.stdtrit(count - 1, (1 + confidence) / 2))
    # the ratios ρ with (mean of top - ρ bottom)² <= t² var / n: aρ² - 2bρ + c <= 0
    spread = torch.cov(torch.stack([top, bottom])) * quantile**2 / count
    mean_top, mean_bottom = float(top.mean()), float(bottom.mean())
    a = mean_bottom**2 - float(spread[1, 1])
    b = mean_top * mean_bottom - float(spread[0, 1])
    c = mean_top**2 - float(spread[0, 0])
    noisy = mean_top > 0 and c > 0  # else zero cannot be excluded
    root = math.sqrt(max(b * b - a * c, 0.0))
    if mean_bottom <= 0 or a <= 0:
        # no upper end; the lower one is the positive root, in the form that does not cancel
        return (c / (b + root) if noisy and b + root > 0 else 0.0), math.inf
    return (max((b - root) / a, 0.0) if noisy else 0.0), max((b + root) / a, 0.0)


def per_example_noise_scale(loss_fn: LossFn, model: nn.Module, batch: Batch, *, chunk_size: int = 256) -> float:
    r"""Return the gradient noise scale of a set of rows, exactly, from the gradient of every row.

    .. math::
        \mathcal B = \frac{\operatorname{tr}\Sigma}{\lVert G\rVert^2},\qquad
        G = \frac1N\sum_i g_i,\quad \operatorname{tr}\Sigma = \frac1N\sum_i\lVert g_i - G\rVert^2

    Args:
        loss_fn: (predictions, targets) -> mean over the rows.
        model: in a mode in which no row's output depends on another row or on chance; gradients with respect
            to the parameters that require them. ``p.grad`` is left alone.
        batch: inputs (N, ...) and targets (N, ...): the population, on the model's device.
        chunk_size: rows at a time; memory grows with ``chunk_size`` times the number of parameters.

    Returns:
        The noise scale in rows; infinite where the gradient is exactly zero and its rows' are not.

    Raises:
        ValueError: no rows, different numbers of them, no parameter to differentiate, a gradient that is not
            finite, or batch normalization in training mode, where no row has a gradient of its own.
        RuntimeError: the model draws random numbers, as dropout in training mode.

    Source:
        McCandlish, Kaplan, Amodei et al. (2018), section 2.2, where it is the "simple" noise scale.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)  # gradients of the rows are -1 and -3 at weight 0
        >>> _ = nn.init.zeros_(model.weight)
        >>> rows = torch.ones(2, 1), torch.tensor([[1.0], [3.0]])
        >>> per_example_noise_scale(lambda p, y: ((p - y) ** 2 / 2).mean(), model, rows)
        0.25
    """
    inputs, targets = batch
    _require_rows("batch", inputs, targets)
    require_integer("chunk_size", chunk_size, minimum=1)
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_mean is None):
            raise ValueError(f"model must not mix rows, got {type(module).__name__} {name!r} in training mode")
    # every place of a tied parameter gets the same tensor: torch does not look for them under vmap
    places = dict(model.named_parameters(remove_duplicate=False))
    learned = {id(p): p.detach() for p in places.values() if p.requires_grad}
    require_non_empty("parameters that require gradients", learned)
    total: list[Tensor] = [torch.zeros_like(p, dtype=torch.float64) for p in learned.values()]
    squares = torch.zeros((), dtype=torch.float64, device=inputs.device)

    def loss_of_row(parameters: dict[str, Tensor], row: Tensor, target: Tensor) -> Tensor:
        return loss_fn(functional_call(model, parameters, (row[None],), tie_weights=False), target[None])

    for rows, wanted in zip(inputs.split(chunk_size), targets.split(chunk_size)):
        copies = {key: p.expand(len(rows), *p.shape).clone().requires_grad_() for key, p in learned.items()}
        stacked = {name: copies[id(p)] for name, p in places.items() if p.requires_grad}
        losses = vmap(loss_of_row)(stacked, rows, wanted)
        gradients = torch.autograd.grad(losses.sum(), list(copies.values()), materialize_grads=True)
        for place, gradient in enumerate(gradients):
            total[place] += gradient.sum(dim=0, dtype=torch.float64)
            squares += gradient.square().sum(dtype=torch.float64)
    signal = sum((each / len(inputs)).square().sum() for each in total)
    mean_square = squares / len(inputs)
    assert isinstance(signal, Tensor)
    require_finite("gradients", torch.stack([signal, mean_square]))
    noise = float((mean_square - signal).clamp(min=0))
    if noise == 0:
        return 0.0
    return noise / float(signal) if float(signal) > 0 else math.inf


def scale_lr(
    lr: float, *, batch_size: int, reference: int, rule: str = "linear", noise_scale: float | None = None
) -> float:
    r"""Carry a learning rate from one batch size to another.

    .. math::
        \frac{\eta(B)}{\eta(B_0)} = \frac{B}{B_0},\qquad \sqrt{\frac{B}{B_0}},\qquad
        \frac{1 + \mathcal B/B_0}{1 + \mathcal B/B}

    Args:
        lr: η(B₀), tuned at ``reference``, at least 0.
        batch_size: B, rows of the new batch, at least 1.
        reference: B₀, at least 1.
        rule: ``linear``, ``square_root`` or ``noise_scale``: linear far below the noise scale, constant above.
        noise_scale: 𝓑 in rows, above 0; for the last rule only.

    Returns:
        η(B). No rule knows the edge of stability: see :func:`stability_limit`.

    Raises:
        ValueError: a number is out of range, the rule is unknown, or ``noise_scale`` is given or missing
            against the rule.
        TypeError: a batch size is not an integer.

    Source:
        Goyal et al. (2017), linear, for SGD; Krizhevsky (2014), square root;
        McCandlish, Kaplan, Amodei et al. (2018), section 2.2.

    Example:
        >>> scale_lr(0.1, batch_size=64, reference=16), scale_lr(0.1, batch_size=64, reference=16, rule="square_root")
        (0.4, 0.2)
    """
    if not 0 <= lr < math.inf:
        raise ValueError(f"lr must be >= 0, got {lr!r}")
    require_integer("batch_size", batch_size, minimum=1)
    require_integer("reference", reference, minimum=1)
    require_one_of("rule", rule, ("linear", "square_root", "noise_scale"))
    if (noise_scale is None) == (rule == "noise_scale"):
        raise ValueError(f"noise_scale must be given for the rule 'noise_scale' only, got {noise_scale!r} for {rule!r}")
    if noise_scale is not None:
        require_positive("noise_scale", noise_scale)
        return lr * (1 + noise_scale / reference) / (1 + noise_scale / batch_size)
    ratio = batch_size / reference
    return lr * (ratio if rule == "linear" else math.sqrt(ratio))


def accumulate(model: nn.Module, loss_fn: LossFn, batches: Iterable[Batch]) -> Tensor:
    r"""Add the gradient of one large batch to ``p.grad``, in the memory of its largest part.

    .. math:: \nabla J = \sum_k \frac{n_k}{\sum_j n_j}\, \nabla J_k

    Args:
        model: its parameters' gradients are added to, as by ``backward``: call ``zero_grad`` before.
        loss_fn: (predictions, targets) -> mean over the rows.
        batches: the parts, inputs (n_k, ...) and targets (n_k, ...); they may differ in size.

    Returns:
        The mean loss over all rows, 0-d, detached.

    Raises:
        ValueError: there is no part, or one is empty or has inputs and targets of different lengths.

    Convention:
        Equal to the large batch up to rounding where each row's loss depends on that row alone: not with batch
        normalization in training mode, which sees the parts. After an error in a later part the gradients of the
        earlier ones are in ``p.grad``, as after several calls of ``backward``.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> parts = torch.ones(3, 1).split([2, 1]), torch.tensor([[0.0], [0.0], [3.0]]).split([2, 1])
        >>> _ = nn.init.zeros_(model.weight)
        >>> float(accumulate(model, nn.functional.mse_loss, zip(*parts))), float(model.weight.grad)
        (3.0, -2.0)
    """
    parts = list(batches)
    require_non_empty("batches", parts)
    for number, (inputs, targets) in enumerate(parts):
        _require_rows(f"batches[{number}]", inputs, targets)
    num_rows = sum(len(targets) for _, targets in parts)
    mean: Tensor | None = None
    for inputs, targets in parts:
        share = loss_fn(model(inputs), targets) * (len(targets) / num_rows)
        share.backward()
        mean = share.detach() if mean is None else mean + share.detach()
    assert mean is not None
    return mean


def _require_rows(name: str, inputs: Tensor, targets: Tensor) -> None:
    if len(inputs) != len(targets) or len(inputs) == 0:
        raise ValueError(f"{name} must have as many targets as inputs, at least 1, got {len(inputs)}, {len(targets)}")
