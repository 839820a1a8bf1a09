"""Losses that refuse what would train without a word and be wrong: chapter *Losses*."""

import math
import warnings

import torch
from torch import Tensor, nn

from nnopt.checks import (
    require_finite,
    require_fraction,
    require_integer,
    require_non_empty,
    require_same_shape,
)
from nnopt.types import LossFn

from .evaluate import evaluation_mode

__all__ = [
    "cross_entropy",
    "loss_floor",
    "mean_squared_error",
    "require_logits",
    "require_mean_over_rows",
    "require_rows_kept",
]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    r"""Return the mean negative log-probability of the right class.

    .. math:: J = \frac1N \sum_i \Bigl(\log \sum_c e^{z_{ic}} - z_{i y_i}\Bigr)

    Args:
        logits: (N, C) scores before any softmax; gets gradients.
        targets: (N,) int64 in [0, C).

    Returns:
        0-d, >= 0, in nats; log C for equal logits.

    Raises:
        ValueError: the shapes do not fit.
        TypeError: targets are not int64.

    Convention:
        Equal to ``torch.nn.functional.cross_entropy``, which is the one to use: it also has class weights,
        smoothing and an index to ignore. The maximum is subtracted inside ``logsumexp``.

    Example:
        >>> cross_entropy(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
        tensor(0.6931)
    """
    if logits.ndim != 2 or targets.shape != logits.shape[:1]:
        raise ValueError(
            f"logits must be (N, C) for targets (N,), got {tuple(logits.shape)} and {tuple(targets.shape)}"
        )
    if targets.dtype != torch.int64:
        raise TypeError(f"targets must be int64 class numbers, got {targets.dtype}")
    right = logits.gather(1, targets[:, None])[:, 0]
    return (logits.logsumexp(dim=1) - right).mean()


def mean_squared_error(predictions: Tensor, targets: Tensor) -> Tensor:
    r"""Return the mean squared difference of two tensors of one shape.

    .. math:: J = \frac1N \sum_i (f(x_i) - y_i)^2

    Args:
        predictions: any shape; gets gradients.
        targets: the same shape.

    Returns:
        0-d, >= 0.

    Raises:
        ValueError: the shapes differ. torch would stretch (N, 1) against (N,) to (N, N), with a warning.

    Example:
        >>> mean_squared_error(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 1.0]))
        tensor(2.)
    """
    require_same_shape("predictions", predictions, "targets", targets)
    return (predictions - targets).square().mean()


def loss_floor(num_classes: int) -> float:
    r"""Return the lowest cross-entropy of a model that applies softmax *before* the loss.

    .. math:: \log(e + C - 1) - 1 = \log\Bigl(1 + \frac{C-1}{e}\Bigr)

    The loss takes the probabilities for logits, and the best of them are a one and C - 1 zeros.

    Args:
        num_classes: C >= 2.

    Raises:
        ValueError: there are fewer than two classes.
        TypeError: the number is not an integer.

    Example:
        >>> round(loss_floor(10), 4)
        1.4612
    """
    require_integer("num_classes", num_classes, minimum=2)
    return math.log1p((num_classes - 1) / math.e)


def require_logits(predictions: Tensor, *, tolerance: float = 1e-4) -> None:
    """Refuse predictions that look like the output of a softmax: every row in [0, 1] with sum one.

    Call it once, on the first batch, where a loss takes logits.

    Args:
        predictions: (N, C).
        tolerance: how far the row sums may be from one.

    Raises:
        ValueError: the rows are probabilities, there is no row, or a value is not finite.

    Example:
        >>> require_logits(torch.tensor([[2.0, -1.0], [0.5, 0.5]]))
    """
    require_fraction("tolerance", tolerance)
    require_non_empty("predictions", predictions)
    require_finite("predictions", predictions)
    inside = (predictions >= 0).all() and (predictions <= 1).all()
    if inside and bool(((predictions.sum(dim=1) - 1).abs() <= tolerance).all()):
        raise ValueError(
            "predictions must be logits, got rows in [0, 1] that sum to one: is there a softmax before the loss?"
        )


def require_mean_over_rows(loss_fn: LossFn, predictions: Tensor, targets: Tensor) -> None:
    r"""Refuse a loss whose value for a batch is not the mean of its rows' losses.

    .. math:: J(f, y) = \frac1N \sum_i J(f_i, y_i)

    Shapes that broadcast, a sum where a mean is meant, and losses that mix rows all break it. Call it once,
    on a real batch of predictions.

    Args:
        loss_fn: (predictions, targets) -> 0-d tensor.
        predictions: (N, ...), N >= 2, rows not all alike.
        targets: (N, ...).

    Raises:
        ValueError: the two sides differ, there are fewer than two rows, or the loss is not one number.

    Example:
        >>> require_mean_over_rows(mean_squared_error, torch.arange(3.0), torch.ones(3))
    """
    if predictions.ndim == 0 or len(predictions) < 2 or len(predictions) != len(targets):
        raise ValueError(
            f"predictions and targets must have the same N >= 2 rows, got {tuple(predictions.shape)} "
            f"and {tuple(targets.shape)}"
        )
    with torch.no_grad(), warnings.catch_warnings():
        # torch only warns of the broadcasting that is measured here
        warnings.simplefilter("ignore")
        together = loss_fn(predictions, targets)
        alone = [loss_fn(predictions[i : i + 1], targets[i : i + 1]) for i in range(len(predictions))]
    if together.ndim:
        raise ValueError(f"loss_fn must return a 0-d tensor, got shape {tuple(together.shape)}")
    mean = torch.stack(alone).mean()
    if not torch.allclose(together, mean, rtol=1e-4, atol=1e-6):
        raise ValueError(
            f"loss_fn must be the mean over rows, {mean.item():.4g} here, got {together.item():.4g} "
            f"for shapes {tuple(predictions.shape)} and {tuple(targets.shape)}"
        )


def require_rows_kept(model: nn.Module, inputs: Tensor) -> None:
    """Refuse a model that mixes the rows of a batch or changes their number, as ``view(-1, k)`` does.

    Output i must depend on input i alone: the batch is compared with its rows one by one, in evaluation mode.

    Args:
        model: maps (N, ...) to (N, ...).
        inputs: (N, ...), N >= 2 rows to try it with.

    Raises:
        ValueError: a batch gives another number of rows, or other rows than its samples give alone.

    Example:
        >>> require_rows_kept(torch.nn.Flatten(), torch.rand(4, 2, 3))
    """
    if inputs.ndim == 0 or len(inputs) < 2:
        raise ValueError(f"inputs must have at least 2 rows, got shape {tuple(inputs.shape)}")
    with evaluation_mode(model):
        together = model(inputs)
        if len(together) != len(inputs):
            raise ValueError(
                f"model must return one row per input, got {len(together)} for {len(inputs)}: use flatten(1)"
            )
        alone = torch.cat([model(inputs[i : i + 1]) for i in range(len(inputs))])
    if not torch.allclose(together, alone, rtol=1e-4, atol=1e-5):
        raise ValueError("model must treat each row alone, got other outputs for a row in a batch")
