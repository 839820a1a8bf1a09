"""The checker accepts a thorough test of the soft-target loss and names what a lazy one overlooks."""

from collections.abc import Callable

import pytest
import torch

from nnopt import exercises
from nnopt.distillation import soft_target_loss
from nnopt.exercises import SoftLoss


def thorough(loss: SoftLoss) -> None:
    v = torch.tensor([[2.0, 0.5, -1.0], [0.0, 1.0, 3.0]])
    z = torch.tensor([[0.1, 0.7, -0.4], [1.0, 0.2, 0.3]])
    torch.testing.assert_close(loss(z, v, 3.0), soft_target_loss(z, v, temperature=3.0))


def by_slope(loss: SoftLoss) -> bool:
    v, z = torch.tensor([[2.0, 0.5, -1.0], [0.0, 1.0, 3.0]]), torch.zeros(2, 3, requires_grad=True)
    slope = torch.autograd.grad(loss(z, v, 2.0), z)[0]
    return torch.allclose(slope, (z.softmax(1) - (v / 2).softmax(1)).detach())


def zero_where_equal(loss: SoftLoss) -> bool:
    v = torch.tensor([[2.0, 0.5, -1.0]])
    return abs(loss(v.clone(), v, 3.0).item()) < 1e-6


def one_row(loss: SoftLoss) -> bool:
    z, v = torch.tensor([[0.1, 0.7, -0.4]]), torch.tensor([[2.0, 0.5, -1.0]])
    return torch.allclose(loss(z, v, 3.0), soft_target_loss(z, v, temperature=3.0))


def without_temperature(loss: SoftLoss) -> bool:
    z, v = torch.tensor([[0.1, 0.7, -0.4], [1.0, 0.2, 0.3]]), torch.tensor([[2.0, 0.5, -1.0], [0.0, 1.0, 3.0]])
    return torch.allclose(loss(z, v, 1.0), soft_target_loss(z, v, temperature=1.0))


def too_strict(loss: SoftLoss) -> bool:
    return loss(torch.zeros(2, 3), torch.eye(3)[:2], 2.0).item() == 0.0


@pytest.mark.parametrize("candidate", [thorough, by_slope])
def test_thorough_tests_are_accepted(candidate: Callable[[SoftLoss], object]) -> None:
    verdict = exercises.check_soft_target_test(candidate)
    assert repr(verdict) == "✓ Your test accepts the correct implementation and refuses all 8 wrong ones."


@pytest.mark.parametrize(
    ("candidate", "overlooked"),
    [
        (lambda loss: None, "averages over the classes"),
        (zero_where_equal, "averages over the classes"),
        (one_row, "sums over the batch"),
        (without_temperature, "it lacks T²"),
        (too_strict, "refuses a correct implementation"),
    ],
)
def test_a_lazy_test_is_told_what_it_overlooks(candidate: Callable[[SoftLoss], object], overlooked: str) -> None:
    verdict = exercises.check_soft_target_test(candidate)
    assert not verdict
    assert overlooked in verdict.sentence
