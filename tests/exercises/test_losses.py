"""The checker accepts a thorough test of cross-entropy and names the mistake that a lazy one overlooks."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from nnopt import exercises
from nnopt.types import LossFn


def thorough(loss_fn: LossFn) -> None:
    logits = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]])
    targets = torch.tensor([2, 1])
    torch.testing.assert_close(loss_fn(logits, targets), F.cross_entropy(logits, targets))
    assert loss_fn(1e4 * logits, torch.tensor([0, 1])).item() == 0.0


def equal_logits_only(loss_fn: LossFn) -> bool:
    return math.isclose(loss_fn(torch.zeros(4, 5), torch.zeros(4).long()).item(), math.log(5), rel_tol=1e-5)


def one_row_only(loss_fn: LossFn) -> bool:
    logits = torch.tensor([[1.0, -2.0, 0.5]])
    return torch.allclose(loss_fn(logits, torch.tensor([2])), F.cross_entropy(logits, torch.tensor([2])))


def one_class_dominates(loss_fn: LossFn) -> bool:
    return loss_fn(1e4 * torch.eye(3), torch.arange(3)).item() == 0.0


def too_strict(loss_fn: LossFn) -> bool:
    return loss_fn(torch.zeros(2, 2), torch.zeros(2).long()).item() == 0.0


def test_a_thorough_test_is_accepted() -> None:
    verdict = exercises.check_loss_test(thorough)
    assert repr(verdict) == "✓ Your test accepts the correct implementation and refuses all 6 wrong ones."


@pytest.mark.parametrize(
    ("candidate", "overlooked"),
    [
        (lambda loss_fn: None, "softmax to the logits first"),
        (equal_logits_only, "softmax to the logits first"),
        (one_row_only, "sums over the batch"),
        (one_class_dominates, "sums over the batch"),
        (too_strict, "refuses a correct implementation"),
    ],
)
def test_a_lazy_test_is_told_what_it_overlooks(candidate: Callable[[LossFn], object], overlooked: str) -> None:
    verdict = exercises.check_loss_test(candidate)
    assert not verdict
    assert overlooked in verdict.sentence
