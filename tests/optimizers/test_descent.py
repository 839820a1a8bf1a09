"""Gradient descent: its definition, the library, its limits, and the edge of stability."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nnopt.devices import available_devices
from nnopt.optimizers import gradient_step, largest_curvature, stability_limit


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def spectrum_matrix(eigenvalues: list[float], seed: int = 0) -> Tensor:
    basis = torch.linalg.qr(random(len(eigenvalues), len(eigenvalues), seed=seed))[0]
    matrix: Tensor = basis @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ basis.T
    return matrix


def test_one_step_by_hand() -> None:
    new = gradient_step(torch.tensor([[3.0, -1.0]]), torch.tensor([[2.0, 4.0]]), lr=0.25)
    assert new.tolist() == [[2.5, -2.0]]


def test_each_coordinate_follows_the_scalar_rule() -> None:
    parameter, gradient = random(3, 5), random(3, 5, seed=1)
    new = gradient_step(parameter, gradient, lr=0.37)
    for i in range(3):
        for j in range(5):
            assert new[i, j].item() == parameter[i, j].item() - 0.37 * gradient[i, j].item()


@pytest.mark.parametrize("device", available_devices(), ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_fifty_steps_equal_torch_sgd(device: torch.device, dtype: torch.dtype, tolerance: float) -> None:
    matrix = random(7, 4, dtype=dtype).to(device)

    def loss(weights: Tensor) -> Tensor:
        return (matrix @ weights).tanh().square().sum() + weights.cos().sum()

    theirs = random(4, 3, seed=1, dtype=dtype).to(device).requires_grad_()
    ours = theirs.detach().clone().requires_grad_()
    optimizer = torch.optim.SGD([theirs], lr=0.013)
    for _ in range(50):
        optimizer.zero_grad()
        loss(theirs).backward()
        optimizer.step()
        (gradient,) = torch.autograd.grad(loss(ours), ours)
        ours = gradient_step(ours, gradient, lr=0.013).detach().requires_grad_()
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_nothing_is_changed_in_place() -> None:
    parameter, gradient = random(4), random(4, seed=1)
    kept = parameter.clone(), gradient.clone()
    gradient_step(parameter, gradient, lr=0.5)
    assert torch.equal(parameter, kept[0])
    assert torch.equal(gradient, kept[1])


def test_a_zero_rate_or_a_zero_gradient_moves_nothing() -> None:
    parameter = random(4)
    assert torch.equal(gradient_step(parameter, random(4, seed=1), lr=0.0), parameter)
    assert torch.equal(gradient_step(parameter, torch.zeros(4, dtype=torch.float64), lr=9.0), parameter)


def test_a_leading_copy_dimension_with_its_own_rates_equals_separate_calls() -> None:
    parameters, gradients = random(3, 2, 5), random(3, 2, 5, seed=1)
    rates = torch.tensor([0.1, 0.0, 2.0], dtype=torch.float64)
    stacked = gradient_step(parameters, gradients, lr=rates.view(3, 1, 1))
    for copy in range(3):
        alone = gradient_step(parameters[copy], gradients[copy], lr=float(rates[copy]))
        assert torch.equal(stacked[copy], alone)


@given(
    st.lists(st.floats(0.01, 100), min_size=2, max_size=6).filter(lambda e: max(e) > 1.05 * min(e)),
    st.floats(0.05, 0.99),
)
@settings(derandomize=True, deadline=None, max_examples=40)
def test_below_the_limit_a_quadratic_loss_never_rises_and_above_it_explodes(
    eigenvalues: list[float], fraction: float
) -> None:
    matrix = spectrum_matrix(eigenvalues)
    limit = stability_limit(max(eigenvalues))

    def losses(lr: float, steps: int) -> list[float]:
        point = torch.ones(len(eigenvalues), dtype=torch.float64)
        values = []
        for _ in range(steps):
            values.append(float(0.5 * point @ matrix @ point))
            point = gradient_step(point, matrix @ point, lr=lr)
        return values

    stable = losses(fraction * limit, 30)
    assert all(after <= before * (1 + 1e-9) for before, after in itertools.pairwise(stable))
    wild = losses(1.5 * limit, 200)
    assert wild[-1] > 1e6 * wild[0]


def test_the_limit_is_two_over_the_curvature() -> None:
    assert stability_limit(8.0) == 0.25


@pytest.mark.parametrize("device", available_devices(), ids=str)
def test_lanczos_finds_the_largest_eigenvalue_of_a_quadratic(device: torch.device) -> None:
    matrix = spectrum_matrix([-7.0, 0.1, 2.0, 3.0, 5.5]).to(device)
    point = random(5, seed=3).to(device).requires_grad_()
    found = largest_curvature(lambda: 0.5 * point @ matrix @ point, [point], generator=torch.Generator().manual_seed(1))
    assert found == pytest.approx(5.5, abs=1e-9)  # not -7, though that is larger in size


def test_curvature_of_a_network_equals_the_full_hessian() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(random(*parameter.shape, seed=number))
    inputs, targets = random(10, 3, seed=9), random(10, 2, seed=10)
    names = [name for name, _ in model.named_parameters()]
    parameters = list(model.parameters())
    sizes = [parameter.numel() for parameter in parameters]

    def flat_loss(flat: Tensor) -> Tensor:
        pieces = {
            name: piece.view_as(parameter)
            for name, piece, parameter in zip(names, flat.split(sizes), parameters, strict=True)
        }
        outputs: Tensor = torch.func.functional_call(model, pieces, (inputs,))
        return (outputs - targets).square().mean()

    flat = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
    hessian = torch.autograd.functional.hessian(flat_loss, flat)
    exact = float(torch.linalg.eigvalsh(hessian)[-1])
    found = largest_curvature(
        lambda: (model(inputs) - targets).square().mean(),
        parameters,
        generator=torch.Generator().manual_seed(0),
        num_steps=len(flat),
    )
    assert found == pytest.approx(exact, rel=1e-8)


def test_a_linear_loss_has_no_curvature() -> None:
    point = torch.ones(3, requires_grad=True)
    assert largest_curvature(lambda: point.sum(), [point], generator=torch.Generator().manual_seed(0)) == 0.0


def test_curvature_leaves_gradients_and_parameters_alone() -> None:
    point = random(3).requires_grad_()
    point.grad = torch.full_like(point, 7.0)
    kept = point.detach().clone()
    largest_curvature(lambda: point.pow(4).sum(), [point], generator=torch.Generator().manual_seed(0))
    assert torch.equal(point.grad, torch.full_like(point, 7.0))
    assert torch.equal(point.detach(), kept)


def test_the_planted_fault_of_power_iteration_on_the_squared_matrix_is_seen() -> None:
    """Plain power iteration answers with the eigenvalue largest in size: here the wrong one."""
    matrix = spectrum_matrix([-7.0, 0.1, 5.5])
    vector = random(3, seed=2)
    for _ in range(200):
        vector = matrix @ vector
        vector = vector / vector.norm()
    assert float(vector @ matrix @ vector) == pytest.approx(-7.0, abs=1e-6)


@pytest.mark.parametrize("lr", [-0.1, math.nan, torch.tensor([0.1, -0.1, 0.1]), torch.tensor(math.nan)])
def test_a_negative_or_missing_rate_is_refused(lr: float | Tensor) -> None:
    with pytest.raises(ValueError, match="lr must be >= 0, got"):
        gradient_step(torch.ones(3), torch.ones(3), lr=lr)


def test_shapes_that_would_broadcast_are_refused() -> None:
    with pytest.raises(ValueError, match=r"parameter and gradient must have the same shape, got \(3, 1\) and \(3,\)"):
        gradient_step(torch.ones(3, 1), torch.ones(3), lr=0.1)


@pytest.mark.parametrize("curvature", [0.0, -1.0, math.nan, math.inf])
def test_a_limit_needs_a_positive_curvature(curvature: float) -> None:
    with pytest.raises(ValueError, match="curvature must be > 0"):
        stability_limit(curvature)


def test_curvature_refuses_bad_arguments() -> None:
    point = torch.ones(2, requires_grad=True)
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(ValueError, match="parameters must not be empty"):
        largest_curvature(lambda: point.sum(), [], generator=generator)
    with pytest.raises(ValueError, match="num_steps must be >= 1, got 0"):
        largest_curvature(lambda: point.sum(), [point], generator=generator, num_steps=0)
    with pytest.raises(ValueError, match=r"loss must be a single number, got shape \(2,\)"):
        largest_curvature(lambda: point * 2, [point], generator=generator)
    with pytest.raises(ValueError, match="loss must be finite, got nan"):
        largest_curvature(lambda: point.sum() * math.nan, [point], generator=generator)
