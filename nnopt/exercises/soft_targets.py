"""Exercises of the chapter ``distillation/soft_targets``."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from nnopt.distillation import soft_target_loss

from ._verdict import Verdict, judge_test

__all__ = ["SoftLoss", "check_soft_target_test"]

SoftLoss: TypeAlias = Callable[[Tensor, Tensor, float], Tensor]
"""(student_logits, teacher_logits, temperature) -> 0-d loss."""


def check_soft_target_test(candidate: Callable[[SoftLoss], object]) -> Verdict:
    """Check a test that the reader wrote for a soft-target loss.

    Args:
        candidate: takes a loss (student_logits (N, C), teacher_logits (N, C), temperature) and raises
            AssertionError, or returns False, if it is not T² times the mean divergence from the teacher.

    Returns:
        A verdict; the test must accept a right loss and refuse eight wrong ones, each of which trains or fails
        without a word.
    """
    return judge_test(candidate, _right, _wrong_losses())


def _right(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return soft_target_loss(student, teacher, temperature=temperature)


def _wrong_losses() -> dict[str, SoftLoss]:
    def mean_over_classes(z: Tensor, v: Tensor, t: float) -> Tensor:
        return _right(z, v, t) / z.shape[1]

    def no_square(z: Tensor, v: Tensor, t: float) -> Tensor:
        return _right(z, v, t) / t**2

    def summed(z: Tensor, v: Tensor, t: float) -> Tensor:
        return _right(z, v, t) * len(z)

    def teacher_alone(z: Tensor, v: Tensor, t: float) -> Tensor:
        return _right(v.clone(), v, t) + 0 * z.sum()

    def exchanged(z: Tensor, v: Tensor, t: float) -> Tensor:
        p, q = (z / t).log_softmax(1), (v / t).log_softmax(1)
        return t**2 * (p.exp() * (p - q)).sum(1).mean()

    def probabilities(z: Tensor, v: Tensor, t: float) -> Tensor:
        return _right(z, v.softmax(1), t)

    def teacher_softened_only(z: Tensor, v: Tensor, t: float) -> Tensor:
        return t**2 * _right(z, v / t, 1.0)

    def labels(z: Tensor, v: Tensor, t: float) -> Tensor:
        return torch.nn.functional.cross_entropy(z, v.argmax(1))

    return {
        "it averages over the classes too, C times too small": mean_over_classes,
        "it lacks T²": no_square,
        "it sums over the batch instead of averaging": summed,
        "it compares the teacher with itself": teacher_alone,
        "it exchanges student and teacher": exchanged,
        "it takes the teacher's probabilities for logits": probabilities,
        "it divides only the teacher's logits by the temperature": teacher_softened_only,
        "it makes labels of the teacher's answers": labels,
    }
