"""Losses: definition, library, hand-worked cases, and the guards against planted mistakes."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nnopt.training import (
    cross_entropy,
    loss_floor,
    mean_squared_error,
    require_logits,
    require_mean_over_rows,
    require_rows_kept,
)
from nnopt.types import LossFn


def case(num_rows: int = 7, num_classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(num_rows, num_classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(num_classes, (num_rows,), generator=generator)


def test_cross_entropy_is_the_mean_negative_log_probability() -> None:
    logits, targets = case()
    total = 0.0
    for row, target in zip(logits.tolist(), targets.tolist()):
        total -= math.log(math.exp(row[target]) / sum(math.exp(z) for z in row))
    assert cross_entropy(logits, targets).item() == pytest.approx(total / len(logits), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_cross_entropy_and_its_gradient_equal_torch(dtype: torch.dtype) -> None:
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    for seed in range(5):
        logits, targets = case(seed=seed)
        ours, theirs = (logits.detach().to(dtype).requires_grad_() for _ in range(2))
        first, second = cross_entropy(ours, targets), F.cross_entropy(theirs, targets)
        torch.testing.assert_close(first, second, rtol=tolerance, atol=tolerance)
        (gradient,), (expected,) = torch.autograd.grad(first, ours), torch.autograd.grad(second, theirs)
        torch.testing.assert_close(gradient, expected, rtol=tolerance, atol=tolerance)


def test_the_gradient_is_probability_minus_one_at_the_target() -> None:
    logits, targets = case()
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(logits, targets), logits)
    expected = (logits.detach().softmax(1) - F.one_hot(targets, 4)) / len(targets)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-14)


def test_cross_entropy_passes_gradcheck() -> None:
    logits, targets = case()
    assert torch.autograd.gradcheck(lambda z: cross_entropy(z, targets), (logits.requires_grad_(),))


def test_cross_entropy_of_hand_worked_cases() -> None:
    assert cross_entropy(torch.zeros(3, 10), torch.tensor([0, 4, 9])).item() == pytest.approx(math.log(10))
    # e^z = (3, 1): probability 3/4 of class 0
    logits = torch.tensor([[math.log(3.0), 0.0]])
    assert cross_entropy(logits, torch.tensor([0])).item() == pytest.approx(math.log(4 / 3))
    assert cross_entropy(logits, torch.tensor([1])).item() == pytest.approx(math.log(4))


def test_logits_too_large_to_exponentiate_are_no_trouble() -> None:
    logits = torch.tensor([[1e4, 0.0], [0.0, -1e4]])
    assert cross_entropy(logits, torch.tensor([0, 0])).item() == 0.0
    assert cross_entropy(logits, torch.tensor([1, 1])).item() == pytest.approx(1e4)
    naive = -(logits.exp() / logits.exp().sum(1, keepdim=True)).log()[0, 0]
    assert naive.isnan()


@settings(derandomize=True, deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), shift=st.floats(-50, 50))
def test_a_constant_added_to_all_logits_changes_nothing(seed: int, shift: float) -> None:
    logits, targets = case(seed=seed)
    torch.testing.assert_close(cross_entropy(logits + shift, targets), cross_entropy(logits, targets))


def test_mean_squared_error_is_the_mean_of_squares_and_equals_torch() -> None:
    predictions, targets = torch.tensor([[1.0, 2.0], [4.0, -1.0]]), torch.tensor([[0.0, 2.0], [1.0, 1.0]])
    assert mean_squared_error(predictions, targets).item() == (1 + 0 + 9 + 4) / 4
    wide, other = case()[0], case(seed=1)[0]
    torch.testing.assert_close(mean_squared_error(wide, other), F.mse_loss(wide, other), rtol=1e-12, atol=0)


def test_mean_squared_error_refuses_what_torch_broadcasts() -> None:
    predictions, targets = torch.rand(5, 1), torch.rand(5)
    with pytest.warns(UserWarning, match="broadcasting"):
        F.mse_loss(predictions, targets)
    with pytest.raises(ValueError, match=r"must have the same shape, got \(5, 1\) and \(5,\)"):
        mean_squared_error(predictions, targets)


def test_the_loss_floor_is_what_perfect_probabilities_get() -> None:
    for num_classes in (2, 3, 10):
        perfect = torch.eye(num_classes, dtype=torch.float64)
        floor = F.cross_entropy(perfect, torch.arange(num_classes)).item()
        assert loss_floor(num_classes) == pytest.approx(floor, rel=1e-12)
    assert loss_floor(10) == pytest.approx(1.4612, abs=5e-5)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 100))
def test_no_softmax_gets_below_the_floor(seed: int, scale: float) -> None:
    logits, targets = case(seed=seed)
    assert cross_entropy((scale * logits).softmax(1), targets).item() >= loss_floor(4) - 1e-12


def test_probabilities_are_not_taken_for_logits() -> None:
    logits, _ = case()
    require_logits(logits)
    require_logits(logits.sigmoid())
    with pytest.raises(ValueError, match="is there a softmax before the loss"):
        require_logits(logits.softmax(1))
    with pytest.raises(ValueError, match="is there a softmax before the loss"):
        require_logits(logits.float().softmax(1).half().float(), tolerance=1e-2)


def test_logits_that_are_not_finite_or_missing_are_refused() -> None:
    with pytest.raises(ValueError, match="predictions must be finite"):
        require_logits(torch.tensor([[math.nan, 0.0]]))
    with pytest.raises(ValueError, match="predictions must not be empty"):
        require_logits(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="tolerance must be in"):
        require_logits(torch.zeros(1, 3), tolerance=-1.0)


def test_means_over_rows_pass_and_nothing_is_changed() -> None:
    logits, targets = case()
    require_mean_over_rows(F.cross_entropy, logits, targets)
    require_mean_over_rows(mean_squared_error, logits, logits.sin())
    require_mean_over_rows(F.mse_loss, logits[:, 0], logits[:, 1])
    assert torch.equal(logits, case()[0])


def planted(name: str) -> tuple[LossFn, Tensor, Tensor]:
    logits, targets = case()
    if name == "broadcast":
        return F.mse_loss, logits[:, :1], logits[:, 1]
    if name == "sum":
        return partial(F.cross_entropy, reduction="sum"), logits, targets
    return lambda z, y: F.mse_loss(z - z.mean(0), y), logits, logits.sin()


@pytest.mark.parametrize("name", ["broadcast", "sum", "mixed rows"])
def test_losses_that_are_no_mean_over_rows_are_refused(name: str) -> None:
    loss_fn, predictions, targets = planted(name)
    with pytest.raises(ValueError, match="loss_fn must be the mean over rows"):
        require_mean_over_rows(loss_fn, predictions, targets)


def test_require_mean_over_rows_refuses_bad_input() -> None:
    with pytest.raises(ValueError, match="must have the same N >= 2 rows"):
        require_mean_over_rows(F.mse_loss, torch.rand(1), torch.rand(1))
    with pytest.raises(ValueError, match="must have the same N >= 2 rows"):
        require_mean_over_rows(F.mse_loss, torch.rand(3), torch.rand(2))
    with pytest.raises(ValueError, match="must return a 0-d tensor"):
        require_mean_over_rows(lambda p, t: (p - t) ** 2, torch.rand(3), torch.rand(3))


class Viewed(nn.Module):
    """Planted mistake: another size than a multiple of the batch mixes rows."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.linear = nn.Linear(width, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.linear(inputs.view(-1, self.width))
        return outputs


class Centered(nn.Module):
    """Planted mistake: every row depends on the others."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs - inputs.mean(0)


def test_models_that_treat_rows_alone_pass_and_are_left_as_they_were() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    require_rows_kept(model, torch.rand(6, 1, 4, 4))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_models_that_mix_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="must return one row per input, got 3 for 6"):
        require_rows_kept(Viewed(32), torch.rand(6, 1, 4, 4))
    with pytest.raises(ValueError, match="must return one row per input, got 12 for 6"):
        require_rows_kept(Viewed(8), torch.rand(6, 1, 4, 4))
    with pytest.raises(ValueError, match="must treat each row alone"):
        require_rows_kept(Centered(), torch.rand(6, 4))
    with pytest.raises(ValueError, match="inputs must have at least 2 rows"):
        require_rows_kept(nn.Flatten(), torch.rand(1, 4))


def test_cross_entropy_refuses_bad_input() -> None:
    logits, targets = case()
    with pytest.raises(ValueError, match=r"logits must be \(N, C\)"):
        cross_entropy(logits, targets[:-1])
    with pytest.raises(ValueError, match=r"logits must be \(N, C\)"):
        cross_entropy(logits[0], targets[:1])
    with pytest.raises(TypeError, match="targets must be int64"):
        cross_entropy(logits, targets.double())
    with pytest.raises(ValueError, match="num_classes must be >= 2, got 1"):
        loss_floor(1)
