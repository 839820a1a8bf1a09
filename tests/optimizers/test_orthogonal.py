"""Newton–Schulz, Muon, Shampoo, SOAP: by singular values, as the libraries, in their limits, and what they refuse."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import pytorch_optimizer
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nnopt.devices import available_devices
from nnopt.models import mlp, transformer
from nnopt.optimizers import (
    SOAP,
    Muon,
    Shampoo,
    adam_step,
    muon_groups,
    muon_step,
    newton_schulz,
    orthogonal_factor,
    shampoo_step,
    soap_step,
)
from nnopt.seeding import seeds
from nnopt.training import grid, sweep

Rule = Callable[..., tuple[Tensor, ...]]

CONVERGING = (1.875, -1.25, 0.375)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rotation(size: int, seed: int = 0) -> Tensor:
    found: Tensor = torch.linalg.qr(random(size, size, seed=seed)).Q
    return found


def by_singular_values(matrix: Tensor, num_steps: int, coefficients: tuple[float, float, float]) -> Tensor:
    """Newton–Schulz as it acts on each singular value."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    a, b, c = coefficients
    values = values / values.square().sum(-1, keepdim=True).sqrt()
    for _ in range(num_steps):
        values = a * values + b * values**3 + c * values**5
    found: Tensor = (left * values[..., None, :]) @ right
    return found


# Newton–Schulz and the exact factor


@pytest.mark.parametrize("gram", [None, False, True])
@pytest.mark.parametrize("shape", [(4, 4), (7, 3), (3, 7), (5, 1), (2, 3, 4, 9)])
def test_newton_schulz_is_a_polynomial_of_the_singular_values(shape: tuple[int, ...], gram: bool | None) -> None:
    matrix = random(*shape)
    for num_steps, coefficients in ((5, (3.4445, -4.7750, 2.0315)), (2, (1.5, -0.5, 0.0)), (1, (0.3, 0.2, -0.7))):
        found = newton_schulz(matrix, num_steps=num_steps, coefficients=coefficients, gram=gram)
        expected = by_singular_values(matrix, num_steps, coefficients)
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def test_a_planted_exchange_of_coefficients_would_be_seen() -> None:
    matrix = random(4, 6)
    found = newton_schulz(matrix, coefficients=(3.4445, 2.0315, -4.7750), num_steps=1)
    assert not torch.allclose(found, by_singular_values(matrix, 1, (3.4445, -4.7750, 2.0315)), rtol=1e-2)


def test_one_step_by_hand() -> None:
    matrix = torch.diag(torch.tensor([3.0, 4.0], dtype=torch.float64))  # normalized: 0.6 and 0.8
    found = newton_schulz(matrix, num_steps=1, coefficients=(1.5, -0.5, 0.0))
    expected = torch.tensor([0.9 - 0.108, 1.2 - 0.256], dtype=torch.float64)
    torch.testing.assert_close(found.diag(), expected)


@pytest.mark.parametrize("device", available_devices(), ids=str)
@pytest.mark.parametrize("shape", [(6, 6), (9, 4), (3, 2, 5)])
def test_with_converging_coefficients_it_arrives_at_the_exact_factor(
    shape: tuple[int, ...], device: torch.device
) -> None:
    matrix = random(*shape).to(device)
    exact = orthogonal_factor(matrix, method="svd")
    torch.testing.assert_close(orthogonal_factor(matrix), exact, rtol=1e-10, atol=1e-10)
    for coefficients, num_steps in ((CONVERGING, 30), ((1.5, -0.5, 0.0), 60)):
        found = newton_schulz(matrix, num_steps=num_steps, coefficients=coefficients)
        torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-9)
    # more of Muon's own steps do not: that is their design
    assert float((newton_schulz(matrix, num_steps=40) - exact).abs().max()) > 0.02


def test_muons_coefficients_lift_all_but_tiny_singular_values_into_a_band() -> None:
    values = torch.logspace(-2.3, 0, 200, dtype=torch.float64)
    matrix = rotation(200) @ torch.diag(values) @ rotation(200, seed=1)
    large = (values / values.norm()) > 1e-3
    found = torch.linalg.svdvals(newton_schulz(matrix))
    assert 0.3 < float(found[: int(large.sum())].min()) < float(found.max()) < 1.25


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_returns_the_dtype_it_was_given(dtype: torch.dtype) -> None:
    matrix = random(32, 24).to(dtype)
    low = newton_schulz(matrix, dtype=torch.bfloat16)
    assert low.dtype == dtype
    error = (low.double() - newton_schulz(matrix.double())).norm() / 24**0.5
    assert 1e-4 < float(error) < 0.1


def test_bfloat16_loses_directions_that_float32_keeps() -> None:
    matrix = random(64, 3) @ random(3, 64, seed=1)
    exact = newton_schulz(matrix)
    errors = [
        float((newton_schulz(matrix, dtype=dtype, gram=False) - exact).norm() / exact.norm())
        for dtype in (torch.bfloat16, torch.float32)
    ]
    assert errors[0] > 0.05
    assert errors[1] < 1e-3


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 10**6), st.floats(-6, 6))
def test_rotations_scales_and_transposition_pass_through(rows: int, columns: int, seed: int, power: float) -> None:
    matrix = random(rows, columns, seed=seed)
    left, right = rotation(rows, seed + 1), rotation(columns, seed + 2)
    for function in (newton_schulz, partial(orthogonal_factor, method="svd")):
        found = function(matrix)
        torch.testing.assert_close(function(left @ matrix @ right), left @ found @ right, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(function(10**power * matrix), found, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(function(matrix.mT), found.mT, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", ["eigh", "svd"])
def test_the_exact_factor_of_float32_and_of_matrices_without_full_rank(method: str) -> None:
    full = random(128, 128)
    exact = orthogonal_factor(full, method="svd")
    assert exact.dtype == torch.float64
    found = orthogonal_factor(full.float(), method=method)
    assert float((found - exact).norm() / exact.norm()) < 1e-5
    left, right = rotation(8)[:, :3], rotation(6, seed=1)[:, :3]
    low = left @ torch.diag(torch.tensor([5.0, 1.0, 1e-3], dtype=torch.float64)) @ right.T
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-3)):
        factor = orthogonal_factor(low.to(dtype), method=method)
        torch.testing.assert_close(factor, (left @ right.T).to(dtype), rtol=tolerance, atol=tolerance)
    for shape in ((3, 4), (0, 4), (2, 0, 0)):
        zeros = torch.zeros(shape)
        assert torch.equal(orthogonal_factor(zeros, method=method), zeros)
        assert torch.equal(newton_schulz(zeros), zeros)


# the steps


def gradients_of(shape: tuple[int, ...], dtype: torch.dtype, count: int = 50) -> list[Tensor]:
    return [random(*shape, seed=100 + step, dtype=dtype) for step in range(count)]


MUON: list[dict[str, Any]] = [
    {},
    {"nesterov": False, "momentum": 0.7},
    {"adjust_lr": "match_rms_adamw", "weight_decay": 0.0},
    {"adjust_lr": "spectral_unclamped", "num_steps": 3, "coefficients": (2.0, -1.5, 0.5)},
]


def torchs_muon(params: list[Tensor], *, adjust_lr: str = "original", **options: Any) -> torch.optim.Optimizer:
    names = {"num_steps": "ns_steps", "coefficients": "ns_coefficients"}
    renamed = {names.get(name, name): value for name, value in options.items()}
    return torch.optim.Muon(params, adjust_lr_fn=adjust_lr, **renamed)


@pytest.mark.parametrize("options", MUON)
@pytest.mark.parametrize("shape", [(8, 6), (6, 8), (5, 20), (20, 5)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("foreach", [None, False])
def test_fifty_steps_of_muon_equal_torch(
    options: dict[str, Any], shape: tuple[int, int], dtype: torch.dtype, tolerance: float, foreach: bool | None
) -> None:
    ours = start = random(*shape, dtype=dtype)
    theirs, of_class = start.clone().requires_grad_(), start.clone().requires_grad_()
    of_ours = Muon([of_class], lr=0.03, gram=False, foreach=foreach, **options)
    optimizers = torchs_muon([theirs], lr=0.03, **options), of_ours
    buffer = torch.zeros_like(start)
    for gradient in gradients_of(shape, dtype):
        theirs.grad, of_class.grad = gradient.clone(), gradient.clone()
        for optimizer in optimizers:
            optimizer.step()
        ours, buffer = muon_step(ours, gradient, buffer, lr=0.03, gram=False, **options)
    torch.testing.assert_close(ours, theirs.detach(), rtol=tolerance, atol=tolerance)
    # also by default: one matrix is not made a batch of one, whose products round bfloat16 otherwise
    torch.testing.assert_close(of_class, theirs, rtol=tolerance, atol=tolerance)
    assert float((theirs.detach() - start).abs().max()) > 0.05


def test_steps_in_float32_stay_near_those_in_bfloat16_and_off_them_by_its_rounding() -> None:
    ends = []
    for dtype in (torch.bfloat16, torch.float32, torch.float64, None):
        moved, buffer = random(12, 9), torch.zeros(12, 9, dtype=torch.float64)
        for gradient in gradients_of((12, 9), torch.float64):
            moved, buffer = muon_step(moved, gradient, buffer, lr=0.03, dtype=dtype)
        ends.append(moved)
    assert torch.equal(ends[2], ends[3])
    assert float((ends[1] - ends[2]).abs().max()) < 1e-5
    assert 1e-4 < float((ends[0] - ends[2]).abs().max()) < 0.1


def test_muons_buffer_and_scale_by_hand() -> None:
    # one by one, Newton–Schulz knows the sign and its own gain
    gain = float(newton_schulz(torch.ones(1, 1, dtype=torch.float64)))
    start, gradient = torch.full((1, 1), 2.0, dtype=torch.float64), torch.full((1, 1), -3.0, dtype=torch.float64)
    options: dict[str, Any] = {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.5, "dtype": None}
    new, buffer = muon_step(start, gradient, torch.ones_like(start), **options)
    torch.testing.assert_close(buffer, torch.full_like(buffer, -1.0))
    torch.testing.assert_close(new, torch.full_like(new, 2.0 * 0.95 + 0.1 * gain))
    tall = random(8, 2)
    plain: dict[str, Any] = {"lr": 1.0, "momentum": 0.0, "weight_decay": 0.0, "dtype": None}
    for name, scale in (("original", 2.0), ("match_rms_adamw", 0.2 * 8**0.5), ("spectral_unclamped", 2.0)):
        new, _ = muon_step(torch.zeros_like(tall), tall, torch.zeros_like(tall), adjust_lr=name, **plain)
        torch.testing.assert_close(-new, scale * newton_schulz(tall))


@pytest.mark.parametrize("shape", [(5, 5), (6, 4), (3, 8)])
def test_shampoo_equals_the_package(shape: tuple[int, int]) -> None:
    ours = start = random(*shape)
    theirs = start.clone().requires_grad_()
    package = pytorch_optimizer.Shampoo([theirs], lr=0.1, matrix_eps=1e-3, preconditioning_compute_steps=1)
    states = [torch.zeros(0)] * 4
    for step, gradient in enumerate(gradients_of(shape, torch.float64), start=1):
        theirs.grad = gradient.clone()
        package.step()
        ours, *states = shampoo_step(ours, gradient, *states, step=step, lr=0.1, eps=1e-3)
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-12, atol=1e-12)
    assert float((ours - start).abs().max()) > 0.2


@pytest.mark.parametrize("shape", [(5, 5), (6, 4)])
def test_soap_equals_the_package(shape: tuple[int, int]) -> None:
    ours = start = random(*shape)
    theirs = start.clone().requires_grad_()
    form: dict[str, Any] = {"lr": 0.05, "betas": (0.8, 0.9), "eps": 1e-4, "weight_decay": 0.0}
    package = pytorch_optimizer.SOAP([theirs], shampoo_beta=0.7, precondition_frequency=6, **form)
    states = [torch.zeros_like(start)] * 6
    for step, gradient in enumerate(gradients_of(shape, torch.float64), start=1):
        theirs.grad = gradient.clone()
        package.step()
        ours, *states = soap_step(ours, gradient, *states, step=step, memory=0.7, precondition_every=6, **form)
        # the package turns its coordinates in float32
        tolerance = 1e-12 if step <= 7 else 1e-5
        torch.testing.assert_close(ours, theirs.detach(), rtol=tolerance, atol=tolerance)
    assert float((ours - start).abs().max()) > 0.2


def slow_soap(start: Tensor, gradients: list[Tensor], *, memory: float, every: int, **form: Any) -> Tensor:
    """SOAP as its paper has it: the momentum stays in the coordinates of the matrix, and each step rotates it anew."""
    moved, (beta1, beta2) = start.clone(), form["betas"]
    momentum, second = torch.zeros_like(start), torch.zeros_like(start)
    # in the very order of ours: where the first gradient has no direction, rounding chooses the coordinates
    left, right = ((1 - memory) * square for square in (gradients[0] @ gradients[0].T, gradients[0].T @ gradients[0]))
    bases = [torch.linalg.eigh(side).eigenvectors.flip(1) for side in (left, right)]
    for t, gradient in enumerate(gradients[1:], start=1):
        momentum = beta1 * momentum + (1 - beta1) * gradient
        rotated = bases[0].T @ gradient @ bases[1]
        second = beta2 * second + (1 - beta2) * rotated**2
        scaled = (bases[0].T @ momentum @ bases[1]) / (second.sqrt() + form["eps"])
        rate = form["lr"] * math.sqrt(1 - beta2**t) / (1 - beta1**t)
        moved = (1 - form["lr"] * form["weight_decay"]) * moved - rate * bases[0] @ scaled @ bases[1].T
        left = memory * left + (1 - memory) * gradient @ gradient.T
        right = memory * right + (1 - memory) * gradient.T @ gradient
        if t % every == 0:
            for axis, side in enumerate((left, right)):
                old = bases[axis]
                sizes = [float(old[:, i] @ side @ old[:, i]) for i in range(len(side))]
                order = sorted(range(len(side)), key=lambda i: -sizes[i])
                second = second.index_select(axis, torch.tensor(order))
                bases[axis] = torch.linalg.qr(side @ old[:, order]).Q
    return moved


@pytest.mark.parametrize("shape", [(5, 5), (6, 4)])
def test_soap_equals_its_slow_twin_past_many_turns_of_its_coordinates(shape: tuple[int, int]) -> None:
    form: dict[str, Any] = {"lr": 0.05, "betas": (0.8, 0.9), "eps": 1e-4, "weight_decay": 0.1}
    start, gradients = random(*shape), gradients_of(shape, torch.float64)
    ours, of_class = start, start.clone().requires_grad_()
    optimizer = SOAP([of_class], memory=0.7, precondition_every=6, **form)
    states = [torch.zeros_like(start)] * 6
    for step, gradient in enumerate(gradients, start=1):
        ours, *states = soap_step(ours, gradient, *states, step=step, memory=0.7, precondition_every=6, **form)
        of_class.grad = gradient
        optimizer.step()
    slow = slow_soap(start, gradients, memory=0.7, every=6, **form)
    torch.testing.assert_close(ours, slow, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(of_class.detach(), slow, rtol=1e-12, atol=1e-12)
    often = slow_soap(start, gradients, memory=0.7, every=5, **form)
    assert float((often - slow).abs().max()) > 1e-3


def test_shampoo_without_memory_is_the_exact_factor() -> None:
    gradient = random(5, 3)
    new, *_ = shampoo_step(torch.zeros(5, 3).double(), gradient, *[torch.zeros(0)] * 4, step=1, lr=1.0, eps=0.0)
    torch.testing.assert_close(-new, orthogonal_factor(gradient), rtol=1e-7, atol=1e-7)


def test_rotating_the_gradients_rotates_the_steps_of_all_three_but_not_of_adam() -> None:
    left, right = rotation(4, seed=3), rotation(6, seed=4)
    muon: Rule = partial(muon_step, lr=0.1, dtype=None)
    adam: Rule = partial(adam_step, lr=0.1)
    cases: list[tuple[Rule, int, bool]] = [
        (muon, 1, False),
        (partial(shampoo_step, lr=0.1), 4, True),
        (partial(soap_step, lr=0.1), 6, True),
        (adam, 2, True),
    ]
    found = []
    for rule, num_states, takes_step in cases:
        one, other = random(4, 6), left @ random(4, 6) @ right
        states, others = [torch.zeros_like(one)] * num_states, [torch.zeros_like(one)] * num_states
        # with gradients of full rank only: otherwise eigenvectors are free to turn
        for step, gradient in enumerate((random(4, 6, seed=9), *gradients_of((4, 6), torch.float64, 9)), start=1):
            keywords = {"step": step} if takes_step else {}
            one, *states = rule(one, gradient, *states, **keywords)
            other, *others = rule(other, left @ gradient @ right, *others, **keywords)
        found.append(float((left @ one @ right - other).abs().max()))
    assert max(found[:2]) < 1e-8
    assert found[3] > 0.05


def test_soap_is_adam_where_the_coordinates_are_those_of_the_matrix() -> None:
    # diagonal gradients have diagonal means, so that the eigenvectors are the axes, in some order
    soap, states = torch.zeros(3, 3).double(), [torch.zeros(3, 3).double()] * 6
    adam, means = torch.zeros(3).double(), [torch.zeros(3).double()] * 2
    form: dict[str, Any] = {"lr": 0.1, "betas": (0.95, 0.95), "eps": 1e-30, "weight_decay": 0.0}
    for step in range(1, 30):
        diagonal = torch.tensor([3.0, 1.0, -0.2]).double() * (1 + 0.5 * random(3, seed=step).tanh())
        soap, *states = soap_step(soap, diagonal.diag(), *states, step=step, precondition_every=3, **form)
        if step > 1:
            adam, *means = adam_step(adam, diagonal, *means, step=step - 1, **form)
    torch.testing.assert_close(soap.diag(), adam, rtol=1e-7, atol=1e-7)


def test_vectors_and_kernels() -> None:
    vector, kernel = random(5), random(4, 2, 3, 3)
    states = [torch.zeros(0)] * 4
    moments = [torch.zeros(5).double()] * 2
    new, *kept = soap_step(vector, vector.cos(), *moments, *states, step=1, lr=0.1, weight_decay=0.0)
    adam = adam_step(vector, vector.cos(), *moments, step=1, lr=0.1, betas=(0.95, 0.95))
    torch.testing.assert_close(new, adam[0], rtol=1e-6, atol=1e-6)
    assert [state.numel() for state in kept] == [5, 5, 0, 0, 0, 0]
    new, total, *_ = shampoo_step(vector, vector.cos(), *states, step=1, lr=0.1, eps=0.5)
    torch.testing.assert_close(total, vector.cos().square() + 0.5)
    torch.testing.assert_close(new, vector - 0.1 * vector.cos() / total.sqrt())
    flat, *_ = shampoo_step(kernel.flatten(1), kernel.flatten(1).sin(), *states, step=1, lr=0.1)
    torch.testing.assert_close(shampoo_step(kernel, kernel.sin(), *states, step=1, lr=0.1)[0], flat.view_as(kernel))


def test_roots_and_coordinates_are_kept_between_their_steps() -> None:
    rules: list[tuple[Rule, int, slice]] = [(shampoo_step, 4, slice(2, 4)), (soap_step, 6, slice(4, 6))]
    for rule, num_states, kept in rules:
        moved, states = random(3, 3), [torch.zeros(3, 3).double()] * num_states
        changes = []
        for step in range(1, 14):
            old = states[kept]
            moved, *states = rule(moved, random(3, 3, seed=step), *states, step=step, lr=0.1, precondition_every=4)
            if any(not torch.equal(a, b) for a, b in zip(old, states[kept])):
                changes.append(step)
        assert changes == ([1, 2, 3, 4, 8, 12] if rule is shampoo_step else [1, 5, 9, 13])


ALL: list[tuple[Rule, int]] = [
    (partial(muon_step, dtype=None), 1),
    (shampoo_step, 4),
    (soap_step, 6),
]


@pytest.mark.parametrize(("rule", "num_states"), ALL, ids=["muon", "shampoo", "soap"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_step_leaves_its_arguments_and_keeps_dtypes(rule: Rule, num_states: int, dtype: torch.dtype) -> None:
    given = [random(5, 3, seed=i).to(dtype) for i in range(2)]
    states = [torch.zeros_like(given[0])] * num_states
    for step in range(1, 4):
        keywords = {} if num_states == 1 else {"step": step, "precondition_every": 2}
        arguments = [*given, *states]
        copies = [tensor.clone() for tensor in arguments]
        new = rule(*arguments, lr=0.1, **keywords)
        assert all(map(torch.equal, arguments, copies))
        assert all(tensor.dtype == dtype and bool(tensor.isfinite().all()) for tensor in new)
        assert not any(a.data_ptr() == b.data_ptr() for a in new[:1] for b in arguments)
        given[0], states = new[0], list(new[1:])


@pytest.mark.parametrize(("rule", "num_states"), ALL, ids=["muon", "shampoo", "soap"])
def test_zero_gradients_and_gradients_of_rank_one_give_finite_steps(rule: Rule, num_states: int) -> None:
    for gradient in (torch.zeros(6, 4), random(6, 1, dtype=torch.float32) @ random(1, 4, dtype=torch.float32)):
        moved, states = torch.ones(6, 4), [torch.zeros(6, 4)] * num_states
        for step in range(1, 13):
            keywords = {} if num_states == 1 else {"step": step}
            moved, *states = rule(moved, gradient, *states, lr=0.01, weight_decay=0.0, **keywords)
        assert moved.isfinite().all()
        assert (moved == 1).all() == (gradient == 0).all()


@pytest.mark.parametrize(("rule", "num_states"), ALL, ids=["muon", "shampoo", "soap"])
@pytest.mark.parametrize("shape", [(4, 4), (4, 2, 1, 2)])
def test_copies_with_learning_rates_of_their_own_equal_single_runs(
    rule: Rule, num_states: int, shape: tuple[int, ...]
) -> None:
    if num_states == 1 and len(shape) > 2:
        with pytest.raises(ValueError, match=r"parameter must be a matrix, got shape \(4, 2, 1, 2\)"):
            rule(random(2, *shape), random(2, *shape), random(2, *shape), lr=0.1, copies=True)
        return
    rates = torch.tensor([0.1, 0.02, 0.0], dtype=torch.float64)
    lr = rates.view(-1, *[1] * len(shape))
    together, states = random(3, *shape), [torch.zeros(3, *shape).double()] * num_states
    alone = [(together[i], *[state[i] for state in states]) for i in range(3)]
    for step in range(1, 8):
        gradients = random(3, *shape, seed=step)
        keywords: dict[str, Any] = {} if num_states == 1 else {"step": step, "precondition_every": 3}
        if num_states == 6:
            keywords["betas"] = (0.9, lr * 5)
        together, *states = rule(together, gradients, *states, lr=lr, copies=True, **keywords)
        for i in range(3):
            if num_states == 6:
                keywords["betas"] = (0.9, float(rates[i] * 5))
            moved, *rest = alone[i]
            alone[i] = rule(moved, gradients[i], *rest, lr=float(rates[i]), **keywords)
    for i in range(3):
        torch.testing.assert_close(together[i], alone[i][0], rtol=1e-9, atol=1e-9)


def muon_for_matrices(
    parameter: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    *,
    step: int,
    lr: float | Tensor,
    copies: bool = False,
) -> tuple[Tensor, ...]:
    if parameter.ndim - int(copies) == 2:
        return *muon_step(parameter, gradient, first, lr=lr, dtype=None, copies=copies), second
    return adam_step(parameter, gradient, first, second, step=step, lr=lr)


@pytest.mark.parametrize("rule", [muon_for_matrices, shampoo_step])
def test_a_sweep_takes_the_steps_and_equals_single_runs(rule: Rule) -> None:
    rows = random(24, 6), random(24, 3, seed=1)
    results = [
        sweep(
            lambda generator: mlp((6, 5, 3), generator=generator).double(),
            rule,
            F.mse_loss,
            rows,
            settings=grid(lr=[0.01, 0.05]),
            seeds=seeds("optimizers/orthogonal#test", 2),
            total_steps=12,
            batch_size=8,
            vectorize=vectorize,
        )
        for vectorize in (None, False)
    ]
    torch.testing.assert_close(results[0].losses, results[1].losses, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("rule", "num_states"), ALL, ids=["muon", "shampoo", "soap"])
def test_a_copy_that_diverged_stays_so_and_leaves_the_others_alone(rule: Rule, num_states: int) -> None:
    states, keywords = [torch.zeros(3, 4, 4).double()] * num_states, {}
    moved = random(3, 4, 4)
    for step in range(1, 4):
        gradients = random(3, 4, 4, seed=step)
        gradients[1] = (0.0, math.nan, math.inf)[step - 1]
        keywords = {} if num_states == 1 else {"step": step, "precondition_every": 2}
        moved, *states = rule(moved, gradients, *states, lr=0.1, copies=True, **keywords)
    assert moved[::2].isfinite().all()
    assert not moved[1].isfinite().any()


def test_a_sweep_of_soap_learns() -> None:
    # not equal to single runs: eigenvectors of equal eigenvalues are a matter of rounding
    result = sweep(
        lambda generator: mlp((6, 5, 3), generator=generator).double(),
        soap_step,
        F.mse_loss,
        (random(24, 6), random(24, 3, seed=1)),
        settings=grid(lr=[0.003, 0.03]),
        seeds=seeds("optimizers/orthogonal#test", 2),
        total_steps=40,
        batch_size=None,
    )
    assert not result.diverged.any()
    assert bool((result.losses[1, :, -1] < 0.8 * result.losses[1, :, 0]).all())


# the classes


@pytest.mark.parametrize("foreach", [None, True, False])
def test_classes_walk_like_their_steps(foreach: bool | None) -> None:
    shapes = [(4, 4), (4, 4), (3, 5), (4,), (4,), (2, 3, 2, 2)]
    form: dict[str, dict[str, Any]] = {
        "Muon": {"lr": 0.05, "momentum": 0.7, "nesterov": False, "dtype": None, "adjust_lr": "match_rms_adamw"},
        "Shampoo": {"lr": 0.05, "eps": 1e-2, "weight_decay": 0.1, "precondition_every": 3},
        "SOAP": {"lr": 0.05, "betas": (0.7, 0.9), "memory": 0.8, "weight_decay": 0.1, "precondition_every": 3},
    }
    rules: dict[str, tuple[Rule, int]] = {"Muon": (muon_step, 1), "Shampoo": (shampoo_step, 4), "SOAP": (soap_step, 6)}
    makers: dict[str, Callable[..., torch.optim.Optimizer]] = {"Muon": Muon, "Shampoo": Shampoo, "SOAP": SOAP}
    for name, make in makers.items():
        some = shapes[:3] if name == "Muon" else shapes
        ours = [random(*shape, seed=i) for i, shape in enumerate(some)]
        of_class = [tensor.clone().requires_grad_() for tensor in ours]
        optimizer = make(of_class, foreach=foreach, **form[name])
        rule, num_states = rules[name]
        states = [[torch.zeros_like(tensor)] * num_states for tensor in ours]
        for step in range(1, 9):
            for i, parameter in enumerate(of_class):
                parameter.grad = random(*parameter.shape, seed=1000 * step + i)
                keywords = {} if name == "Muon" else {"step": step}
                ours[i], *states[i] = rule(ours[i], parameter.grad, *states[i], **keywords, **form[name])
            optimizer.step()
        for i, (one, other) in enumerate(zip(ours, of_class, strict=True)):
            if some[i] != (2, 3, 2, 2):  # 12 columns of rank 2: the other ten eigenvectors are free
                torch.testing.assert_close(one, other.detach(), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("foreach", [None, False])
def test_batches_of_muon_stay_with_torch_in_bfloat16(foreach: bool | None) -> None:
    shapes = [(16, 16)] * 3 + [(16, 48)] * 2 + [(40, 16)]
    for gram, tolerance in ((False, 2e-3), (None, 2e-2)):
        ours = [random(*shape, seed=i, dtype=torch.float32).requires_grad_() for i, shape in enumerate(shapes)]
        theirs = [tensor.detach().clone().requires_grad_() for tensor in ours]
        optimizers = Muon(ours, lr=0.01, gram=gram, foreach=foreach), torch.optim.Muon(theirs, lr=0.01)
        for step in range(50):
            for i, (one, other) in enumerate(zip(ours, theirs, strict=True)):
                one.grad = other.grad = random(*one.shape, seed=100 * step + i, dtype=torch.float32)
            for optimizer in optimizers:
                optimizer.step()
        for one, other in zip(ours, theirs, strict=True):
            assert float((one - other).detach().abs().max()) < tolerance


def test_what_is_no_matrix_gets_adamw() -> None:
    model = mlp((5, 4, 3), generator=torch.Generator().manual_seed(0))
    twin = mlp((5, 4, 3), generator=torch.Generator().manual_seed(0))
    form: dict[str, Any] = {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.2}
    whole = Muon(model.parameters(), fallback="others", **form)
    pairs = [parameter for parameter in twin.parameters() if parameter.ndim == 1]
    adamw = torch.optim.AdamW(pairs, **form)
    muon = torch.optim.Muon(
        [parameter for parameter in twin.parameters() if parameter.ndim == 2], lr=0.01, weight_decay=0.2
    )
    everything = Muon(
        copied := [p.detach().clone().requires_grad_() for p in twin.parameters()], fallback="all", **form
    )
    reference = torch.optim.AdamW(others := [p.detach().clone().requires_grad_() for p in twin.parameters()], **form)
    weight, bias = next(iter(model.parameters())), next(p for p in model.parameters() if p.ndim == 1)
    for step in range(10):
        for i, quadruple in enumerate(zip(model.parameters(), twin.parameters(), copied, others, strict=True)):
            for parameter in quadruple:
                parameter.grad = random(*parameter.shape, seed=10 * step + i, dtype=torch.float32)
        for optimizer in (whole, adamw, muon, everything, reference):
            optimizer.step()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 if ours.ndim == 1 else 1e-3)
    for one, other in zip(copied, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    assert set(whole.state[bias]) == {"step", "exp_avg", "exp_avg_sq"}
    assert set(whole.state[weight]) == {"momentum_buffer"}


def test_a_model_is_split_into_hidden_matrices_and_the_rest() -> None:
    model = transformer(8, 2, generator=torch.Generator().manual_seed(0), num_heads=2, context=6)
    model.norm.bias.requires_grad_(False)
    hidden, rest = muon_groups(model, lr=0.02, fallback_lr=0.003, fallback=["head", "positions"], weight_decay=0.05)
    names = [name for name, _ in hidden["params"]]
    assert len(names) == 8
    assert all(name.startswith("blocks.") and name.endswith("weight") for name in names)
    others = {name for name, _ in rest["params"]}
    assert {"tokens.weight", "positions", "head.weight", "head.bias", "norm.weight"} <= others
    assert "norm.bias" not in others
    optimizer = Muon([hidden, rest])
    assert [(g["lr"], g["fallback"], g["weight_decay"]) for g in optimizer.param_groups] == [
        (0.02, "refuse", 0.05),
        (0.003, "all", 0.05),
    ]
    assert [group["fallback"] for group in muon_groups(nn.LayerNorm(3), lr=0.1, fallback_lr=0.1)] == ["all"]
    with pytest.raises(ValueError, match=r"name in fallback must be one of .*, got 'haed'"):
        muon_groups(model, lr=0.1, fallback_lr=0.1, fallback=["haed"])
    with pytest.raises(ValueError, match="model must have a trainable parameter, got none"):
        muon_groups(nn.ReLU(), lr=0.1, fallback_lr=0.1)
    with pytest.raises(ValueError, match=r"key of a parameter group must be one of .*, got 'betta'"):
        Muon(muon_groups(model, lr=0.1, fallback_lr=0.1, betta=3))


def test_tables_of_bags_and_tied_weights_get_what_their_names_say() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag = nn.EmbeddingBag(7, 4)
            self.body = nn.Linear(4, 4, bias=False)
            self.out = nn.Linear(4, 4, bias=False)
            self.head = nn.Linear(4, 4, bias=False)
            self.head.weight = self.out.weight

    names = [[name for name, _ in group["params"]] for group in muon_groups(Tied(), lr=0.1, fallback_lr=0.1)]
    assert names == [["body.weight", "out.weight"], ["bag.weight"]]
    for told in (["head"], ["head.weight"], ["out"]):
        groups = muon_groups(Tied(), lr=0.1, fallback_lr=0.1, fallback=told)
        assert [[name for name, _ in group["params"]] for group in groups] == [
            ["body.weight"],
            ["bag.weight", "out.weight"],
        ]


def test_a_parameter_that_changes_its_rule_begins_anew() -> None:
    weight = random(3, 3).requires_grad_()
    optimizer = Muon([weight], fallback="others", lr=0.1)
    for fallback, names in (("others", {"momentum_buffer"}), ("all", {"exp_avg", "exp_avg_sq", "step"})) * 2:
        optimizer.param_groups[0]["fallback"] = fallback
        weight.grad = random(3, 3, seed=1)
        optimizer.step()
        assert set(optimizer.state[weight]) == names
        other = Muon([weight.detach().clone().requires_grad_()], fallback="others")
        other.load_state_dict(optimizer.state_dict())
    assert float(optimizer.state[weight]["step"]) == 1.0


def test_halves_of_any_size_are_divided_by_their_norm_in_its_range() -> None:
    for size in (2000.0, 60000.0, 1e-3):
        matrix = torch.full((64, 64), size, dtype=torch.float16)
        matrix.view(-1)[::65] *= 0.5
        expected = newton_schulz(matrix.float(), dtype=torch.float16)
        assert float(expected.norm()) > 0.5
        torch.testing.assert_close(newton_schulz(matrix), expected.half())
        huge = newton_schulz(1e6 * matrix.float(), dtype=torch.float16)
        torch.testing.assert_close(huge, expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("make", [SOAP, Shampoo])
def test_sums_of_squares_of_halves_are_refused_before_they_overflow(make: Any) -> None:
    weight = torch.ones(3, 3, dtype=torch.float16, requires_grad=True)
    with pytest.raises(TypeError, match=r"params must be float32, float64 or bfloat16, got torch\.float16"):
        make([weight])
    with pytest.raises(TypeError, match=r"params head must be float32, float64 or bfloat16, got torch\.float16"):
        make([("head", weight)])
    bfloat = (100 * random(16, 16)).bfloat16().requires_grad_()
    optimizer = make([bfloat])
    for step in range(6):
        bfloat.grad = (3e4 * random(16, 16, seed=step)).bfloat16()
        optimizer.step()
    assert bfloat.isfinite().all()


# refusals


def test_bad_input_is_refused() -> None:
    square = torch.eye(3)
    for function in (newton_schulz, orthogonal_factor):
        with pytest.raises(TypeError, match="matrix must be floating point"):
            function(square.long())
        with pytest.raises(ValueError, match=r"matrix must have at least two dimensions, got shape \(3,\)"):
            function(torch.ones(3))
    with pytest.raises(ValueError, match="method must be one of 'eigh', 'svd', got 'qr'"):
        orthogonal_factor(square, method="qr")
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"num_steps": 0}, ValueError, "num_steps must be >= 1, got 0"),
        ({"num_steps": 2.0}, TypeError, "num_steps must be an integer"),
        ({"coefficients": (1.0, 2.0)}, ValueError, "coefficients must be three finite numbers"),
        ({"coefficients": (1.0, math.nan, 0.0)}, ValueError, "coefficients must be three finite numbers"),
        ({"dtype": torch.float8_e4m3fn}, TypeError, "dtype must be float64, float32, bfloat16, float16 or None"),
        ({"dtype": torch.int8}, TypeError, "dtype must be float64, float32, bfloat16, float16 or None"),
        ({"gram": 1}, TypeError, "gram must be bool or NoneType, got int"),
    ]
    for options, error, message in wrong:
        with pytest.raises(error, match=message):
            newton_schulz(square, **options)
        with pytest.raises(error, match=message):
            muon_step(square, square, square, lr=0.1, **options)
    with pytest.raises(TypeError, match="dtype must be float64, float32, bfloat16, float16 or None"):
        Muon([square.clone().requires_grad_()], dtype=torch.int8)


def test_bad_steps_are_refused() -> None:
    square, states = torch.eye(3), [torch.zeros(3, 3)] * 6
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"lr": math.nan}, ValueError, "lr must be >= 0, got nan"),
        ({"weight_decay": -0.1}, ValueError, "weight_decay must be >= 0"),
    ]
    of_muon: list[tuple[dict[str, Any], type[Exception], str]] = [
        *wrong,
        ({"momentum": 1.0}, ValueError, r"momentum must be in \[0, 1\)"),
        ({"momentum": torch.tensor(math.nan)}, ValueError, r"momentum must be in \[0, 1\)"),
        ({"nesterov": 1}, TypeError, "nesterov must be bool, got int"),
        ({"adjust_lr": "rms"}, ValueError, "adjust_lr must be one of 'original', 'match_rms_adamw'"),
    ]
    for options, error, message in of_muon:
        with pytest.raises(error, match=message):
            muon_step(square, square, square, **{"lr": 0.1, **options})
    with pytest.raises(ValueError, match=r"parameter must be a matrix, got shape \(3,\)"):
        muon_step(square, square, square, lr=0.1, copies=True)
    with pytest.raises(ValueError, match="parameter and buffer must have the same shape"):
        muon_step(square, square, square[:2], lr=0.1)
    rules: list[tuple[Rule, int]] = [(shampoo_step, 4), (soap_step, 6)]
    of_both: list[tuple[dict[str, Any], type[Exception], str]] = [
        *wrong,
        ({"eps": -1.0}, ValueError, "eps must be >= 0"),
        ({"step": 0}, ValueError, "step must be >= 1, got 0"),
        ({"step": 1.0}, TypeError, "step must be an integer"),
        ({"precondition_every": 0}, ValueError, "precondition_every must be >= 1"),
    ]
    for rule, count in rules:
        for options, error, message in of_both:
            with pytest.raises(error, match=message):
                rule(square, square, *states[:count], **{"lr": 0.1, "step": 1, **options})
        with pytest.raises(ValueError, match="parameter and gradient must have the same shape"):
            rule(square, square[:2], *states[:count], lr=0.1, step=1)
        short = [*states[: count - 1], torch.zeros(0)]
        with pytest.raises(ValueError, match=r"right root or basis must have shape \(3, 3\) after the first step"):
            rule(square, square, *short, lr=0.1, step=2)
    with pytest.raises(ValueError, match=r"betas\[1\] must be in"):
        soap_step(square, square, *states, lr=0.1, step=1, betas=(0.9, 1.0))
    with pytest.raises(ValueError, match="memory must be in"):
        soap_step(square, square, *states, lr=0.1, step=1, memory=1.0)
    with pytest.raises(ValueError, match="parameter and second must have the same shape"):
        soap_step(square, square, square, square[:2], *states[:4], lr=0.1, step=1)


def test_a_whole_model_without_a_word_about_the_rest_is_refused() -> None:
    model = mlp((4, 3, 2), generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r"params must be matrices where fallback is 'refuse', got shape \(3,\)"):
        Muon(model.parameters())
    with pytest.raises(ValueError, match=r"params 1\.bias must be .*, got shape \(3,\): put it into a group with"):
        Muon(model.named_parameters())
    weight, bias = list(model.parameters())[:2]
    optimizer = Muon([weight])
    with pytest.raises(ValueError, match="params must be matrices"):
        optimizer.add_param_group({"params": [bias]})
    optimizer.add_param_group({"params": [bias], "fallback": "all"})
    assert len(optimizer.param_groups) == 2
