"""Exercises of the chapter ``training/losses``."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from nnopt.training import cross_entropy
from nnopt.types import LossFn

from ._verdict import Verdict, judge_test

__all__ = ["check_loss_test"]


def check_loss_test(candidate: Callable[[LossFn], object]) -> Verdict:
    """Check a test that the reader wrote for cross-entropy.

    Args:
        candidate: takes a loss function (logits (N, C), targets (N,)) and raises AssertionError, or returns
            False, if it is not the mean cross-entropy.

    Returns:
        A verdict; the test must accept a right loss and refuse six wrong ones, each of which trains.
    """
    return judge_test(candidate, cross_entropy, _wrong_losses())


def _wrong_losses() -> dict[str, LossFn]:
    def twice(logits: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(logits.softmax(dim=1), targets)

    def summed(logits: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(logits, targets) * len(targets)

    def over_classes(logits: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(logits, targets) / logits.shape[1]

    def in_bits(logits: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(logits, targets) / math.log(2)

    def unstable(logits: Tensor, targets: Tensor) -> Tensor:
        probabilities = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
        return -probabilities.gather(1, targets[:, None]).log().mean()

    def across_the_batch(logits: Tensor, targets: Tensor) -> Tensor:
        return -torch.log_softmax(logits, dim=0).gather(1, targets[:, None]).mean()

    return {
        "it applies softmax to the logits first, so that it cannot get below its floor": twice,
        "it sums over the batch instead of averaging": summed,
        "it averages over the classes too, C times too small": over_classes,
        "it counts in bits instead of nats": in_bits,
        "it overflows for large logits": unstable,
        "its softmax runs over the batch instead of the classes": across_the_batch,
    }
