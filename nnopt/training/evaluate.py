"""Evaluation that changes nothing and fools nobody: chapter *Evaluation*."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from statistics import NormalDist
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn

from nnopt.checks import (
    require_integer,
    require_non_empty,
    require_positive,
    require_same_shape,
    require_type,
)
from nnopt.types import Batch

from ._feed import require_pair

__all__ = [
    "Metric",
    "accuracy",
    "evaluate",
    "evaluation_mode",
    "permute_labels",
    "selection_optimism",
    "wilson_interval",
]

Metric: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(predictions, targets) -> 0-d tensor, the mean over the batch; every :data:`nnopt.types.LossFn` is one."""


def accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    r"""Return the fraction of rows whose largest logit is that of the target.

    .. math:: \frac1N \sum_i [\arg\max_c z_{ic} = y_i]

    Args:
        logits: (N, C, ...), or any scores that are ordered alike; classes in dimension 1.
        targets: (N, ...), int64 class numbers.

    Returns:
        0-d float32 in [0, 1]; NaN logits count as wrong.

    Raises:
        ValueError: the shapes do not fit, or there is no row.

    Example:
        >>> accuracy(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]))
        tensor(0.5000)
    """
    if logits.ndim != targets.ndim + 1 or (*logits.shape[:1], *logits.shape[2:]) != tuple(targets.shape):
        raise ValueError(
            f"logits must be (N, C, ...) for targets (N, ...), got {tuple(logits.shape)} and {tuple(targets.shape)}"
        )
    largest, best = logits.max(dim=1)
    # max returns a NaN where there is one: its index would be a guess
    return ((best == targets) & ~largest.isnan()).float().mean()


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode without gradients, and leave every flag as it was found.

    Layers that were frozen in evaluation mode by hand stay so, which ``model.train()`` afterwards would undo.

    Args:
        model: any module.

    Example:
        >>> model = torch.nn.Dropout()
        >>> with evaluation_mode(model):
        ...     print(model.training)
        False
    """
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in flags:
            module.training = training


def evaluate(
    model: nn.Module,
    data: Batch | Iterable[Batch],
    metrics: Mapping[str, Metric],
) -> dict[str, float]:
    r"""Average metrics over data: in evaluation mode, without gradients, every row counted once.

    .. math:: \sum_b \frac{n_b}{N} m(f(x_b), y_b)

    Args:
        model: maps inputs to predictions; moved nowhere, its mode is as before afterwards.
        data: one pair (inputs, targets), or an iterable of pairs; taken to the model's device.
        metrics: name -> function that returns the mean over a batch.

    Returns:
        name -> mean over all rows.

    Raises:
        ValueError: there is no row, no metric, or a metric returns more than one number.
        TypeError: a batch is not a pair of tensors.

    Convention:
        Batches are weighted by their rows. The mean of the batch means, which many loops report, is another
        number as soon as the last batch is smaller.

    Example:
        >>> data = torch.eye(2), torch.tensor([0, 0])
        >>> evaluate(torch.nn.Identity(), data, {"accuracy": accuracy})
        {'accuracy': 0.5}
    """
    require_non_empty("metrics", metrics)
    is_pair = isinstance(data, tuple) and len(data) == 2 and isinstance(data[0], Tensor)
    batches = cast(Iterable[Batch], [data] if is_pair else data)
    tensor = next(chain(model.parameters(), model.buffers()), None)
    sums = dict.fromkeys(metrics, 0.0)
    num_rows = 0
    with evaluation_mode(model):
        for batch in batches:
            inputs, targets = require_pair(batch)
            if tensor is not None:
                inputs, targets = inputs.to(tensor.device), targets.to(tensor.device)
            predictions = model(inputs)
            for name, metric in metrics.items():
                sums[name] += _number(name, metric(predictions, targets)) * len(inputs)
            num_rows += len(inputs)
    if num_rows == 0:
        raise ValueError("data must have at least one row, got none")
    return {name: total / num_rows for name, total in sums.items()}


def wilson_interval(num_correct: int, num_rows: int, *, confidence: float = 0.95) -> tuple[float, float]:
    r"""Return the interval of a fraction that was counted on ``num_rows`` independent rows.

    .. math:: \frac{\hat p + \frac{z^2}{2n} \pm z\sqrt{\frac{\hat p(1-\hat p)}{n} + \frac{z^2}{4n^2}}}
              {1 + \frac{z^2}{n}}

    Args:
        num_correct: k in [0, n].
        num_rows: n >= 1.
        confidence: in (0, 1); .95 gives z = 1.96.

    Returns:
        (low, high), inside [0, 1] also at k = 0 and k = n.

    Raises:
        ValueError: an argument is out of range.
        TypeError: a count is not an integer.

    Convention:
        Only the error of the test rows is in it, not that of other seeds or other training sets.

    Source:
        Wilson (1927), Probable inference, the law of succession, and statistical inference.

    Example:
        >>> [round(bound, 3) for bound in wilson_interval(432, 450)]
        [0.938, 0.975]
    """
    require_integer("num_rows", num_rows, minimum=1)
    require_integer("num_correct", num_correct, minimum=0)
    require_positive("confidence", confidence)
    if num_correct > num_rows:
        raise ValueError(f"num_correct must be <= num_rows = {num_rows}, got {num_correct}")
    if confidence >= 1:
        raise ValueError(f"confidence must be < 1, got {confidence!r}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    fraction, shrink = num_correct / num_rows, z * z / num_rows
    half = math.sqrt(shrink * fraction * (1 - fraction) + shrink * shrink / 4)
    center = fraction + shrink / 2
    # the ends at k = 0 and k = n are exact in theory, and rounding must not leave [0, 1]
    low = 0.0 if num_correct == 0 else (center - half) / (1 + shrink)
    high = 1.0 if num_correct == num_rows else (center + half) / (1 + shrink)
    return low, high


def permute_labels(targets: Tensor, *, generator: torch.Generator) -> Tensor:
    """Return the same labels in random order: nothing is left to be learned from the inputs.

    Args:
        targets: (N, ...), not changed.
        generator: on the CPU.

    Returns:
        (N, ...), the same label counts.

    Raises:
        ValueError: there is no row.

    Example:
        >>> permute_labels(torch.tensor([0, 0, 1]), generator=torch.Generator().manual_seed(0)).sum()
        tensor(1)
    """
    require_type("targets", targets, Tensor)
    require_non_empty("targets", targets)
    return targets[torch.randperm(len(targets), generator=generator).to(targets.device)]


def selection_optimism(first: Tensor, second: Tensor, *, num_candidates: int) -> float:
    r"""Return by how much the best of k candidates looks better than it is.

    Two halves of a test set score the same n models. The best of k on one half is judged by the other, and
    the roles are swapped, so that halves of unequal difficulty cancel; averaged over all subsets of k:

    .. math:: \frac12 \sum_{r} \frac{\binom{r-1}{k-1}}{\binom{n}{k}} (a_{(r)} - b_{(r)}) + \text{swapped}

    with r the rank of a model by the half that chooses, a its score there and b its score on the other.

    Args:
        first: (n,) scores on one half, higher is better.
        second: (n,) scores of the same models on the other half.
        num_candidates: k in [1, n], how many models were looked at before one was chosen.

    Returns:
        reported minus true score of the chosen one; 0 for k = 1 apart from unequal halves, which cancel.

    Raises:
        ValueError: the shapes differ, a score is not finite, or k is out of range.

    Example:
        >>> scores = torch.tensor([0.75, 0.5]), torch.tensor([0.5, 0.75])
        >>> selection_optimism(*scores, num_candidates=2)
        0.25
    """
    require_same_shape("first", first, "second", second)
    require_integer("num_candidates", num_candidates, minimum=1)
    if first.ndim != 1 or num_candidates > len(first):
        raise ValueError(
            f"first must be (n,) with n >= num_candidates = {num_candidates}, got shape {tuple(first.shape)}"
        )
    for name, scores in (("first", first), ("second", second)):
        if not torch.isfinite(scores).all():
            raise ValueError(f"{name} must be finite")
    chosen, judged = first.double().cpu(), second.double().cpu()
    both = (_expected_gap(chosen, judged, num_candidates), _expected_gap(judged, chosen, num_candidates))
    return sum(both) / 2


def _expected_gap(chosen: Tensor, judged: Tensor, num_candidates: int) -> float:
    """Average of chosen minus judged score of the winner over all subsets of ``num_candidates`` models."""
    order = chosen.argsort(stable=True)
    chosen, judged = chosen[order], judged[order].clone()
    # models that tie share their judge's scores, or the order of the list would choose among them
    _, groups = chosen.unique_consecutive(return_inverse=True)
    counts = groups.bincount().double()
    judged = (torch.zeros_like(counts).index_add(0, groups, judged) / counts)[groups]
    total = math.comb(len(chosen), num_candidates)
    weights = [math.comb(rank, num_candidates - 1) / total for rank in range(len(chosen))]
    return float(((chosen - judged) * torch.tensor(weights, dtype=torch.float64)).sum())


def _number(name: str, value: object) -> float:
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(f"metric {name!r} must return one number, got shape {tuple(value.shape)}")
    return float(cast(Tensor, value))
