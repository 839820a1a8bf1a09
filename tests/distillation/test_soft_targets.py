"""Soft targets: definition, library, limits, who gets gradients; and guards against planted mistakes."""

import copy
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nnopt.devices import available_devices
from nnopt.distillation import (
    ask_teacher,
    distillation_loss,
    require_soft_target_loss,
    require_soft_teacher,
    soft_target_loss,
)
from nnopt.types import LossFn


def case(num_rows: int = 6, num_classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Student's logits, teacher's logits and labels."""
    draw = torch.Generator().manual_seed(seed)
    z, v = (3 * torch.randn(2, num_rows, num_classes, generator=draw, dtype=torch.float64)).unbind()
    return z, v, torch.randint(num_classes, (num_rows,), generator=draw)


def slope(loss_fn: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    logits = z.detach().clone().requires_grad_()
    return torch.autograd.grad(loss_fn(logits), logits)[0]


# the soft-target loss


def test_the_loss_is_the_mean_divergence_times_the_squared_temperature() -> None:
    z, v, _ = case()
    total, t = 0.0, 2.5
    for student, teacher in zip(z.tolist(), v.tolist()):
        p = [math.exp(x / t) / sum(math.exp(y / t) for y in teacher) for x in teacher]
        q = [math.exp(x / t) / sum(math.exp(y / t) for y in student) for x in student]
        total += sum(a * math.log(a / b) for a, b in zip(p, q))
    assert soft_target_loss(z, v, temperature=t).item() == pytest.approx(t * t * total / len(z), rel=1e-12)


@pytest.mark.parametrize("device", available_devices(), ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
@pytest.mark.parametrize("temperature", [0.7, 1.0, 4.0, 20.0])
def test_loss_and_gradient_equal_torchs_kl_div(
    device: torch.device, dtype: torch.dtype, tolerance: float, temperature: float
) -> None:
    z, v, _ = (part.to(device) for part in case(30, 5))
    z, v = z.to(dtype), v.to(dtype)

    def theirs(logits: Tensor) -> Tensor:
        log_student, p = (logits / temperature).log_softmax(1), (v / temperature).softmax(1)
        return temperature**2 * F.kl_div(log_student, p, reduction="batchmean")

    def ours(logits: Tensor) -> Tensor:
        return soft_target_loss(logits, v, temperature=temperature)

    torch.testing.assert_close(ours(z), theirs(z), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(slope(ours, z), slope(theirs, z), rtol=tolerance, atol=tolerance)


def test_by_hand_two_classes() -> None:
    # T = 2, v = (2 ln 3, 0): p = (3/4, 1/4), q = (1/2, 1/2)
    loss = soft_target_loss(torch.zeros(1, 2), torch.tensor([[2 * math.log(3.0), 0.0]]), temperature=2.0)
    assert loss.item() == pytest.approx(4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5)), rel=1e-6)
    # the slope is T (q - p) / N
    (row,) = slope(
        lambda z: soft_target_loss(z, torch.tensor([[2 * math.log(3.0), 0.0]]), temperature=2.0), torch.zeros(1, 2)
    )
    assert row.tolist() == pytest.approx([-0.5, 0.5])


def test_the_gradient_passes_gradcheck() -> None:
    z, v, y = case()
    assert torch.autograd.gradcheck(lambda x: soft_target_loss(x, v, temperature=3.0), (z.requires_grad_(),))
    assert torch.autograd.gradcheck(lambda x: distillation_loss(x, v, y, temperature=3.0, soft_weight=0.3), (z,))


def test_at_infinite_temperature_the_gradient_is_that_of_matching_centered_logits() -> None:
    z, v, _ = case()
    centered = (z - z.mean(1, keepdim=True)) - (v - v.mean(1, keepdim=True))
    found = slope(lambda x: soft_target_loss(x, v, temperature=1e5), z)
    torch.testing.assert_close(found, centered / z.numel(), rtol=1e-3, atol=1e-6)
    by_distance = slope(lambda x: 0.5 * (x - x.mean(1, keepdim=True) - v + v.mean(1, keepdim=True)).square().mean(), z)
    torch.testing.assert_close(found, by_distance, rtol=1e-3, atol=1e-6)


def test_the_size_of_the_gradient_hardly_changes_with_the_temperature_and_falls_with_its_square_without() -> None:
    z, v, _ = case(50, 10)
    temperatures = (8.0, 16.0, 32.0, 64.0, 128.0)
    sizes = [float(slope(partial(soft_target_loss, teacher_logits=v, temperature=t), z).norm()) for t in temperatures]
    assert max(sizes) / min(sizes) < 1.2

    def bare_size(t: float) -> float:
        """Twin: the planted fault, T² left out."""
        p = (v / t).softmax(1)
        return float(slope(lambda x: F.kl_div((x / t).log_softmax(1), p, reduction="batchmean"), z).norm())

    assert bare_size(8.0) / bare_size(128.0) > 200  # 16² = 256


@settings(derandomize=True, deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), temperature=st.floats(0.2, 50), shift=st.floats(-30, 30))
def test_it_is_never_negative_and_blind_to_a_constant_in_a_row(seed: int, temperature: float, shift: float) -> None:
    z, v, _ = case(seed=seed)
    loss = soft_target_loss(z, v, temperature=temperature)
    assert loss.item() >= -1e-9
    shifted = soft_target_loss(z + shift, v - shift, temperature=temperature)
    torch.testing.assert_close(shifted, loss, rtol=1e-9, atol=1e-9 * temperature**2)
    equal = soft_target_loss(v + shift, v, temperature=temperature)
    assert equal.item() == pytest.approx(0.0, abs=1e-10 * temperature**2)


def test_log_probabilities_are_logits_but_softened_ones_are_softened_twice() -> None:
    z, v, _ = case()
    plain = soft_target_loss(z, v, temperature=4.0)
    torch.testing.assert_close(soft_target_loss(z, v.log_softmax(1), temperature=4.0), plain, rtol=1e-12, atol=0)
    torch.testing.assert_close(soft_target_loss(z.log_softmax(1), v, temperature=4.0), plain, rtol=1e-12, atol=0)
    twice = soft_target_loss(z, (v / 4).log_softmax(1), temperature=4.0)
    torch.testing.assert_close(twice, soft_target_loss(z, v / 4, temperature=4.0), rtol=1e-12, atol=0)
    assert abs(float(twice - plain)) > 0.1


def test_a_certain_teacher_at_temperature_one_is_a_label() -> None:
    z, _, y = case()
    sure = 200.0 * F.one_hot(y, 4).double()
    torch.testing.assert_close(soft_target_loss(z, sure, temperature=1.0), F.cross_entropy(z, y), rtol=1e-12, atol=0)


def test_large_logits_are_no_trouble() -> None:
    z, v = torch.tensor([[1e4, 0.0], [0.0, 1e4]]), torch.tensor([[1e4, 0.0], [1e4, 0.0]])
    assert soft_target_loss(z, v, temperature=2.0).item() == pytest.approx(4 * 0.5 * 5e3)


def test_it_is_the_same_for_every_copy_under_vmap() -> None:
    pairs = [case(seed=seed) for seed in range(3)]
    z, v, y = (torch.stack(parts) for parts in zip(*pairs))

    def both(z: Tensor, v: Tensor, y: Tensor) -> Tensor:
        return distillation_loss(z, v, y, temperature=2.0, soft_weight=0.4)

    together = torch.func.vmap(both)(z, v, y)
    torch.testing.assert_close(together, torch.stack([both(*pair) for pair in pairs]))


def test_nothing_is_changed_and_the_teacher_gets_no_gradient() -> None:
    z, v, y = case()
    kept = z.clone(), v.clone(), y.clone()
    distillation_loss(z.requires_grad_(), v, y, temperature=2.0, soft_weight=0.5).backward()
    assert v.grad is None
    assert all(torch.equal(now, before) for now, before in zip((z.detach(), v, y), kept))


def test_refusals_of_the_soft_target_loss() -> None:
    z, v, _ = case()
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="temperature must be > 0"):
            soft_target_loss(z, v, temperature=temperature)
    with pytest.raises(ValueError, match="student_logits and teacher_logits must have the same shape"):
        soft_target_loss(z, v[:, :3], temperature=2.0)
    with pytest.raises(ValueError, match=r"student_logits must be \(N, C\), got shape \(4,\)"):
        soft_target_loss(z[0], v[0], temperature=2.0)
    with pytest.raises(ValueError, match="student_logits must not be empty"):
        soft_target_loss(z[:0], v[:0], temperature=2.0)
    with pytest.raises(ValueError, match="must be two tensors, got one compared with itself"):
        soft_target_loss(z, z, temperature=2.0)
    with pytest.raises(ValueError, match="teacher_logits must not require gradients"):
        soft_target_loss(z, v.requires_grad_(), temperature=2.0)
    with pytest.raises(TypeError, match=r"teacher_logits must be floating point, got torch\.int64"):
        soft_target_loss(z, torch.zeros(6, 4, dtype=torch.int64), temperature=2.0)
    with pytest.raises(TypeError, match="student_logits must be Tensor, got list"):
        soft_target_loss([[0.0]], v, temperature=2.0)  # type: ignore[arg-type]


# with labels


@pytest.mark.parametrize("soft_weight", [0.0, 0.3, 1.0])
def test_the_sum_equals_torchs_two_losses(soft_weight: float) -> None:
    z, v, y = case(11, 5)

    def theirs(logits: Tensor) -> Tensor:
        soft = 9 * F.kl_div((logits / 3).log_softmax(1), (v / 3).softmax(1), reduction="batchmean")
        return soft_weight * soft + (1 - soft_weight) * F.cross_entropy(logits, y)

    def ours(logits: Tensor) -> Tensor:
        return distillation_loss(logits, v, y, temperature=3.0, soft_weight=soft_weight)

    torch.testing.assert_close(ours(z), theirs(z), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(slope(ours, z), slope(theirs, z), rtol=1e-12, atol=1e-12)


def test_rows_without_a_label_count_in_the_soft_part_only() -> None:
    z, v, y = case(8, 5)
    y[[1, 4, 5]] = -100
    found = distillation_loss(z, v, y, temperature=3.0, soft_weight=0.25)
    hard = F.cross_entropy(z, y, ignore_index=-100)
    expected = 0.25 * soft_target_loss(z, v, temperature=3.0) + 0.75 * hard
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_a_batch_without_any_label_has_no_hard_part() -> None:
    z, v, _ = case()
    nobody = torch.full((6,), -100)
    found = distillation_loss(z, v, nobody, temperature=2.0, soft_weight=0.5)
    torch.testing.assert_close(found, 0.5 * soft_target_loss(z, v, temperature=2.0), rtol=1e-12, atol=0)
    moved = slope(lambda x: distillation_loss(x, v, nobody, temperature=2.0, soft_weight=0.0), z)
    assert torch.equal(moved, torch.zeros_like(z))


def test_refusals_of_the_sum() -> None:
    z, v, y = case()
    for soft_weight in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"soft_weight must be in \[0, 1\]"):
            distillation_loss(z, v, y, temperature=2.0, soft_weight=soft_weight)
    with pytest.raises(ValueError, match=r"targets must be \(N,\) for logits \(N, C\), got \(5,\) and \(6, 4\)"):
        distillation_loss(z, v, y[:5], temperature=2.0, soft_weight=0.5)
    with pytest.raises(TypeError, match=r"targets must be int64 class numbers, got torch\.float64"):
        distillation_loss(z, v, y.double(), temperature=2.0, soft_weight=0.5)
    with pytest.raises(ValueError, match="temperature must be > 0"):
        distillation_loss(z, v, y, temperature=0.0, soft_weight=0.5)
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        distillation_loss(z, v, y.index_fill(0, torch.tensor(2), 4), temperature=2.0, soft_weight=0.5)
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        distillation_loss(z, v, y.index_fill(0, torch.tensor(2), -1), temperature=2.0, soft_weight=0.5)


# the teacher


def moody() -> nn.Sequential:
    """A teacher that answers otherwise in training mode, with one module frozen in evaluation mode."""
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3))
    with torch.no_grad():
        for number, parameter in enumerate(teacher.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    teacher.train()
    teacher[3].eval()
    return teacher


@pytest.mark.parametrize("device", available_devices(), ids=str)
def test_a_teacher_is_asked_in_evaluation_mode_without_gradients_and_left_as_it_was(device: torch.device) -> None:
    teacher = moody().to(device)
    before = copy.deepcopy(teacher.state_dict())
    inputs = torch.rand(10, 2, 2, generator=torch.Generator().manual_seed(9))
    answers = ask_teacher(teacher, inputs, batch_size=4)
    with torch.no_grad():
        expected = copy.deepcopy(teacher).eval()(inputs.to(device))
    torch.testing.assert_close(answers, expected)
    assert not answers.requires_grad
    assert answers.device.type == device.type
    assert [module.training for module in teacher] == [True, True, True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert torch.is_grad_enabled()


def test_asking_a_teacher_in_training_mode_would_be_seen() -> None:
    """Twin: the planted fault, a plain call, changes its batch statistics and answers something else."""
    teacher, inputs = moody(), torch.rand(10, 2, 2, generator=torch.Generator().manual_seed(9))
    right = ask_teacher(teacher, inputs)
    plain = teacher(inputs)
    assert plain.requires_grad
    assert not torch.allclose(plain, right, atol=1e-2)
    with pytest.raises(ValueError, match="teacher_logits must not require gradients"):
        soft_target_loss(torch.zeros(10, 3), plain, temperature=2.0)


def test_refusals_of_asking() -> None:
    inputs = torch.rand(5, 3)
    with pytest.raises(ValueError, match="the teacher's logits must be those before the softmax"):
        ask_teacher(nn.Softmax(1), inputs)
    with pytest.raises(ValueError, match="the teacher's logits must be finite, got 1 of 15 values"):
        ask_teacher(nn.Identity(), inputs.index_put((torch.tensor(1), torch.tensor(2)), torch.tensor(math.nan)))
    with pytest.raises(ValueError, match=r"teacher must return \(N, C\) for N = 5 inputs, got \(15, 1\)"):
        ask_teacher(Column(), inputs)
    with pytest.raises(ValueError, match="inputs must not be empty"):
        ask_teacher(nn.Identity(), inputs[:0])
    with pytest.raises(ValueError, match="batch_size must be >= 1, got 0"):
        ask_teacher(nn.Identity(), inputs, batch_size=0)
    with pytest.raises(TypeError, match="teacher must be Module, got int"):
        ask_teacher(3, inputs)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="inputs must be Tensor, got list"):
        ask_teacher(nn.Identity(), [1.0])  # type: ignore[arg-type]


class Column(nn.Module):
    """Planted mistake: rows are mixed into one column."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.view(-1, 1)


def test_a_teacher_that_says_no_more_than_a_class_is_refused() -> None:
    _, v, _ = case(40, 10)
    require_soft_teacher(v, temperature=1.0)
    labels = 100.0 * F.one_hot(v.argmax(1), 10)
    with pytest.raises(ValueError, match=r"at least 0.01 of the probability .* got 1.2e-10: these targets are labels"):
        require_soft_teacher(labels, temperature=4.0)
    sure = labels / 2 + v
    with pytest.raises(ValueError, match="these targets are labels"):
        require_soft_teacher(sure, temperature=1.0)
    require_soft_teacher(sure, temperature=20.0)  # it only has to be softened
    require_soft_teacher(labels, temperature=4.0, minimum=0.0)


def test_the_guard_measures_the_mean_probability_outside_the_largest() -> None:
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])  # 1/4 and 1/2 outside
    require_soft_teacher(logits, temperature=1.0, minimum=0.374)
    with pytest.raises(ValueError, match=r"at least 0.376 .* got 0.37"):
        require_soft_teacher(logits, temperature=1.0, minimum=0.376)


def test_refusals_of_the_teachers_guard() -> None:
    _, v, y = case()
    with pytest.raises(ValueError, match="teacher_logits must be those before the softmax, got rows in"):
        require_soft_teacher(v.softmax(1), temperature=2.0)
    with pytest.raises(ValueError, match="teacher_logits must be those before the softmax, got rows in"):
        require_soft_teacher(F.one_hot(y, 4).double(), temperature=2.0)  # predictions as targets
    with pytest.raises(ValueError, match="teacher_logits must be finite"):
        require_soft_teacher(v / 0, temperature=2.0)
    with pytest.raises(ValueError, match="teacher_logits must not be empty"):
        require_soft_teacher(v[:0], temperature=2.0)
    with pytest.raises(ValueError, match="temperature must be > 0"):
        require_soft_teacher(v, temperature=-1.0)
    with pytest.raises(ValueError, match=r"minimum must be in \[0, 1\]"):
        require_soft_teacher(v, temperature=1.0, minimum=2.0)


# the guard against wrong losses

T = 4.0


def log_q(z: Tensor) -> Tensor:
    return (z / T).log_softmax(1)


def p_of(v: Tensor) -> Tensor:
    return (v / T).softmax(1)


def divergence(log_student: Tensor, teacher: Tensor) -> Tensor:
    return F.kl_div(log_student, teacher, reduction="batchmean")


RIGHT: dict[str, LossFn] = {
    "ours": lambda z, v: soft_target_loss(z, v, temperature=T),
    "kl_div": lambda z, v: T**2 * divergence(log_q(z), p_of(v)),
    "log targets": lambda z, v: T**2 * F.kl_div(log_q(z), log_q(v), reduction="batchmean", log_target=True),
    "cross-entropy with soft targets": lambda z, v: T**2 * F.cross_entropy(z / T, p_of(v)),
    "float32": lambda z, v: soft_target_loss(z.float(), v.float(), temperature=T),
}

WRONG: dict[str, LossFn] = {
    "KLDivLoss's default)$": lambda z, v: T**2 * F.kl_div(log_q(z), p_of(v), reduction="none").mean(),
    "KLDivLoss's default), and T² is missing": lambda z, v: F.kl_div(log_q(z), p_of(v), reduction="none").mean(),
    "another: T² is missing": lambda z, v: divergence(log_q(z), p_of(v)),
    "the factor is T instead of T²": lambda z, v: T * divergence(log_q(z), p_of(v)),
    "summed over the rows$": lambda z, v: T**2 * F.kl_div(log_q(z), p_of(v), reduction="sum"),
    "summed over the rows, and T² is missing": lambda z, v: F.kl_div(log_q(z), p_of(v), reduction="sum"),
    "the sign is wrong": lambda z, v: -(T**2) * divergence(log_q(z), p_of(v)),
    "it is 3 times as large": lambda z, v: 3 * T**2 * divergence(log_q(z), p_of(v)),
    "is the teacher compared with itself": lambda z, v: divergence(log_q(v), p_of(v)),
    "got no gradient for it": lambda z, v: soft_target_loss(z.detach(), v, temperature=T),
    "student and teacher are exchanged": lambda z, v: divergence(log_q(v), p_of(z)),
    "divides the teacher's logits only": lambda z, v: divergence(z.log_softmax(1), p_of(v)),
    "divides the student's logits only": lambda z, v: T**2 * divergence(log_q(z), v.softmax(1)),
    "no temperature is used": lambda z, v: divergence(z.log_softmax(1), v.softmax(1)),
    "softmax is applied to the teacher before": lambda z, v: soft_target_loss(z, v.softmax(1), temperature=T),
    "softmax is applied to the student before": lambda z, v: soft_target_loss(z.softmax(1), v, temperature=T),
    "softmax is applied to both": lambda z, v: soft_target_loss(z.softmax(1), v.softmax(1), temperature=T),
    "the student's logits, not log-prob": lambda z, v: divergence(z, p_of(v)),
    "the student's probabilities, not their log": lambda z, v: divergence(p_of(z), p_of(v)),
    "log-probabilities without log_target": lambda z, v: divergence(log_q(z), log_q(v)),
    "the softmax runs over the rows": lambda z, v: soft_target_loss(z.T, v.T, temperature=T),
    "made labels": lambda z, v: F.cross_entropy(z, v.argmax(1)),
    "points in another direction": lambda z, v: F.mse_loss(z, v),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_losses_pass_the_guard(name: str) -> None:
    with torch.no_grad():
        require_soft_target_loss(RIGHT[name], temperature=T)
    require_soft_target_loss(lambda z, v: soft_target_loss(z, v, temperature=0.5), temperature=0.5)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("name", WRONG)
def test_each_planted_mistake_is_named(name: str) -> None:
    pattern = name.replace("default)", r"default\)")
    with torch.no_grad(), pytest.raises(ValueError, match=pattern):  # the guard needs no gradients around it
        require_soft_target_loss(WRONG[name], temperature=T)


def test_refusals_of_the_losses_guard() -> None:
    with pytest.raises(ValueError, match="temperature must not be 1"):
        require_soft_target_loss(RIGHT["ours"], temperature=1.0)
    with pytest.raises(ValueError, match="temperature must be > 0"):
        require_soft_target_loss(RIGHT["ours"], temperature=0.0)
    with pytest.raises(ValueError, match=r"loss_fn must return a 0-d tensor, got shape \(6, 11\)"):
        require_soft_target_loss(lambda z, v: F.kl_div(log_q(z), p_of(v), reduction="none"), temperature=T)
