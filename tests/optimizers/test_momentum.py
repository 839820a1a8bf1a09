"""Momentum: its definition, torch's SGD, the closed forms, and what they bound."""

import inspect
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nnopt.devices import available_devices
from nnopt.optimizers import (
    critical_momentum,
    gradient_step,
    momentum_rate,
    momentum_step,
    optimal_momentum,
    stability_limit,
)

FORMS: dict[str, dict[str, Any]] = {
    "heavy ball": {"momentum": 0.83},
    "a little dampening": {"momentum": 0.83, "dampening": 0.3},
    "an average": {"momentum": 0.83, "dampening": 0.83},
    "complete dampening": {"momentum": 0.83, "dampening": 1.0},
    "Nesterov": {"momentum": 0.83, "nesterov": True},
}


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def iteration_radius(curvature: float, *, lr: float, momentum: float, nesterov: bool) -> float:
    """Spectral radius of the linear map that the step itself makes of (θ, b)."""
    columns = []
    for theta, buffer in ((1.0, 0.0), (0.0, 1.0)):
        parameter, b = torch.tensor(theta, dtype=torch.float64), torch.tensor(buffer, dtype=torch.float64)
        new = momentum_step(parameter, curvature * parameter, b, lr=lr, momentum=momentum, nesterov=nesterov)
        columns.append(torch.stack(new))
    return float(torch.linalg.eigvals(torch.stack(columns, dim=1)).abs().max())


def test_two_steps_by_hand() -> None:
    parameter, buffer = torch.tensor([[3.0, -1.0]]), torch.zeros(1, 2)
    parameter, buffer = momentum_step(parameter, torch.tensor([[2.0, 4.0]]), buffer, lr=0.25, momentum=0.5)
    assert (parameter.tolist(), buffer.tolist()) == ([[2.5, -2.0]], [[2.0, 4.0]])
    parameter, buffer = momentum_step(parameter, torch.tensor([[1.0, -2.0]]), buffer, lr=0.25, momentum=0.5)
    assert (parameter.tolist(), buffer.tolist()) == ([[2.0, -2.0]], [[2.0, 0.0]])


def test_one_step_of_nesterov_and_one_damped_by_hand() -> None:
    old = torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([4.0])
    parameter, buffer = momentum_step(*old, lr=0.5, momentum=0.5, nesterov=True)
    assert (parameter.tolist(), buffer.tolist()) == ([1 - 0.5 * (2 + 0.5 * 4)], [4.0])
    parameter, buffer = momentum_step(*old, lr=0.5, momentum=0.5, dampening=0.75, step=2)
    assert (parameter.tolist(), buffer.tolist()) == ([1 - 0.5 * 2.5], [2.5])


def test_each_coordinate_follows_the_scalar_rule() -> None:
    parameter, gradient, buffer = random(3, 5), random(3, 5, seed=1), random(3, 5, seed=2)
    new, b = momentum_step(parameter, gradient, buffer, lr=0.37, momentum=0.6, dampening=0.2, step=7)
    for i in range(3):
        for j in range(5):
            scalar = 0.6 * buffer[i, j].item() + (1 - 0.2) * gradient[i, j].item()
            assert b[i, j].item() == pytest.approx(scalar, rel=1e-15)
            assert new[i, j].item() == pytest.approx(parameter[i, j].item() - 0.37 * scalar, rel=1e-15)


@pytest.mark.parametrize("device", available_devices(), ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
@pytest.mark.parametrize("form", FORMS)
def test_fifty_steps_equal_torch_sgd(device: torch.device, dtype: torch.dtype, tolerance: float, form: str) -> None:
    matrix = random(7, 4, dtype=dtype).to(device)

    def loss(weights: Tensor) -> Tensor:
        return (matrix @ weights).tanh().square().sum() + weights.cos().sum()

    theirs = random(4, 3, seed=1, dtype=dtype).to(device).requires_grad_()
    ours = theirs.detach().clone().requires_grad_()
    buffer = torch.zeros_like(ours)
    optimizer = torch.optim.SGD([theirs], lr=0.013, **FORMS[form])
    for step in range(1, 51):
        optimizer.zero_grad()
        loss(theirs).backward()
        optimizer.step()
        (gradient,) = torch.autograd.grad(loss(ours), ours)
        new, buffer = momentum_step(ours.detach(), gradient, buffer, lr=0.013, step=step, **FORMS[form])
        ours = new.requires_grad_()
    assert not torch.allclose(ours, random(4, 3, seed=1, dtype=dtype).to(device), atol=0.1)
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("form", ["a little dampening", "an average"])
def test_the_planted_fault_of_a_damped_first_gradient_is_seen(form: str) -> None:
    theirs = random(6).requires_grad_()
    parameter, buffer = theirs.detach().clone(), torch.zeros(6, dtype=torch.float64)
    optimizer = torch.optim.SGD([theirs], lr=0.1, **FORMS[form])
    for step in range(2, 4):  # counted from 2: the first gradient is damped like the others
        theirs.grad = theirs.detach().sin()
        optimizer.step()
        parameter, buffer = momentum_step(parameter, parameter.sin(), buffer, lr=0.1, step=step, **FORMS[form])
    assert float((parameter - theirs.detach()).abs().max()) > 1e-2


def test_without_momentum_every_form_is_plain_descent() -> None:
    parameter, gradient, buffer = random(4), random(4, seed=1), random(4, seed=2)
    plain = gradient_step(parameter, gradient, lr=0.7)
    for nesterov in (False, True):
        new, b = momentum_step(parameter, gradient, buffer, lr=0.7, momentum=0.0, nesterov=nesterov)
        assert torch.equal(new, plain)
        assert torch.equal(b, gradient)


def test_a_constant_gradient_makes_the_buffer_a_geometric_sum() -> None:
    parameter, buffer = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    slope = torch.tensor([1.0, -3.0], dtype=torch.float64)
    for _ in range(400):
        parameter, buffer = momentum_step(parameter, slope, buffer, lr=0.1, momentum=0.9)
    torch.testing.assert_close(buffer, slope / (1 - 0.9), rtol=1e-12, atol=0)


def test_the_average_from_zeros_takes_the_same_path_at_the_rate_over_one_minus_beta() -> None:
    first = second = random(5)
    total = average = torch.zeros(5, dtype=torch.float64)
    for step in range(2, 32):  # from 2, so that no gradient is left undamped
        first, total = momentum_step(first, first.sin(), total, lr=0.02, momentum=0.8)
        second, average = momentum_step(
            second, second.sin(), average, lr=0.02 / (1 - 0.8), momentum=0.8, dampening=0.8, step=step
        )
    torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-12)


def test_nothing_is_changed_in_place() -> None:
    arguments = random(4), random(4, seed=1), random(4, seed=2)
    kept = [tensor.clone() for tensor in arguments]
    momentum_step(*arguments, lr=0.5, momentum=0.9, nesterov=True)
    momentum_step(*arguments, lr=0.5, momentum=0.9, step=1)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(arguments, kept, strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_a_leading_copy_dimension_with_its_own_settings_equals_separate_calls(form: str) -> None:
    parameters, gradients, buffers = random(3, 2, 5), random(3, 2, 5, seed=1), random(3, 2, 5, seed=2)
    rates = torch.tensor([0.1, 0.0, 2.0], dtype=torch.float64).view(3, 1, 1)
    momenta = torch.tensor([0.9, 0.5, 0.0], dtype=torch.float64).view(3, 1, 1)
    chosen = {**FORMS[form], "momentum": momenta}
    stacked = momentum_step(parameters, gradients, buffers, lr=rates, step=3, **chosen)
    for copy in range(3):
        alone = momentum_step(
            parameters[copy],
            gradients[copy],
            buffers[copy],
            lr=float(rates[copy]),
            step=3,
            **{**FORMS[form], "momentum": float(momenta[copy])},
        )
        for together, single in zip(stacked, alone, strict=True):
            torch.testing.assert_close(together[copy], single, rtol=1e-15, atol=1e-15)


def test_the_step_is_a_step_rule_whose_state_starts_at_zero() -> None:
    positional = [p.name for p in inspect.signature(momentum_step).parameters.values() if p.default is p.empty]
    assert positional == ["parameter", "gradient", "buffer", "lr", "momentum"]


@given(st.floats(0, 5), st.floats(0, 0.999), st.booleans())
@settings(derandomize=True, deadline=None, max_examples=200)
def test_the_rate_is_the_spectral_radius_of_the_step_itself(scaled: float, momentum: float, nesterov: bool) -> None:
    curvature = torch.tensor([3.0], dtype=torch.float64)
    lr = scaled / 3
    rate = momentum_rate(curvature, lr=lr, momentum=momentum, nesterov=nesterov)
    exact = iteration_radius(3.0, lr=lr, momentum=momentum, nesterov=nesterov)
    assert float(rate) == pytest.approx(exact, abs=1e-6)  # a double root knows half the digits


def test_rates_have_the_shape_and_type_of_the_curvatures() -> None:
    curvatures = torch.rand(2, 3, generator=torch.Generator().manual_seed(0))
    rates = momentum_rate(curvatures, lr=0.5, momentum=0.9)
    assert rates.shape == (2, 3)
    assert rates.dtype == torch.float32
    torch.testing.assert_close(momentum_rate(curvatures, lr=0.5, momentum=0.0), 1 - 0.5 * curvatures)


@given(st.floats(0.01, 100), st.floats(0, 0.999), st.booleans())
@settings(derandomize=True, deadline=None, max_examples=100)
def test_the_edge_is_where_the_rate_is_one(curvature: float, momentum: float, nesterov: bool) -> None:
    edge = stability_limit(curvature, momentum=momentum, nesterov=nesterov)
    at = torch.tensor(curvature, dtype=torch.float64)
    assert float(momentum_rate(at, lr=0.999 * edge, momentum=momentum, nesterov=nesterov)) < 1
    assert float(momentum_rate(at, lr=1.001 * edge, momentum=momentum, nesterov=nesterov)) > 1


def test_edges_by_hand() -> None:
    assert stability_limit(4.0, momentum=0.5) == 0.75
    assert stability_limit(4.0, momentum=0.5, nesterov=True) == 0.375
    assert stability_limit(4.0, nesterov=True) == stability_limit(4.0) == 0.5


@given(st.floats(0.001, 3.99), st.floats(0, 0.999))
@settings(derandomize=True, deadline=None, max_examples=200)
def test_no_rate_of_the_heavy_ball_is_below_the_root_of_its_momentum(scaled: float, momentum: float) -> None:
    curvature = torch.tensor(1.0, dtype=torch.float64)
    assert float(momentum_rate(curvature, lr=scaled, momentum=momentum)) >= math.sqrt(momentum) - 1e-9


@given(st.floats(0.001, 3.9), st.floats(0, 0.999))
@settings(derandomize=True, deadline=None, max_examples=200)
def test_no_momentum_beats_critical_damping_on_one_parabola(scaled: float, momentum: float) -> None:
    curvature = torch.tensor(2.0, dtype=torch.float64)
    critical = critical_momentum(2.0, lr=scaled / 2)
    best = momentum_rate(curvature, lr=scaled / 2, momentum=critical)
    assert float(best) == pytest.approx(abs(1 - math.sqrt(scaled)), abs=1e-6)
    assert float(momentum_rate(curvature, lr=scaled / 2, momentum=momentum)) >= float(best) - 1e-6


def worst_rate(spectrum: Tensor, lr: float, momentum: float, nesterov: bool) -> float:
    return float(momentum_rate(spectrum, lr=lr, momentum=momentum, nesterov=nesterov).max())


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(("smallest", "largest"), [(1.0, 10.0), (0.3, 15.0), (0.02, 20.0)])
def test_no_neighbor_and_no_point_of_a_grid_beats_the_closed_form(
    smallest: float, largest: float, nesterov: bool
) -> None:
    spectrum = torch.logspace(math.log10(smallest), math.log10(largest), 200, dtype=torch.float64)
    lr, momentum = optimal_momentum(smallest, largest, nesterov=nesterov)
    best = worst_rate(spectrum, lr, momentum, nesterov)
    condition = largest / smallest
    formula = 1 - 2 / math.sqrt(3 * condition + 1) if nesterov else math.sqrt(momentum)
    assert best == pytest.approx(formula, abs=1e-6)
    for k in range(-20, 21):
        for m in range(-20, 21):
            other = lr * 1.03**k, 1 - (1 - momentum) * 1.03**m
            if 0 <= other[1] < 1:
                assert worst_rate(spectrum, *other, nesterov) >= best - 1e-6


def test_at_the_optimum_every_curvature_shrinks_at_one_rate() -> None:
    lr, momentum = optimal_momentum(0.5, 50.0)
    rates = momentum_rate(torch.linspace(0.5, 50, 300, dtype=torch.float64), lr=lr, momentum=momentum)
    torch.testing.assert_close(rates, torch.full_like(rates, math.sqrt(momentum)), rtol=0, atol=1e-6)


def test_a_valley_is_crossed_at_the_predicted_rate() -> None:
    spectrum = torch.linspace(1, 40, 12, dtype=torch.float64)
    lr, momentum = optimal_momentum(1.0, 40.0)
    point, buffer = torch.ones(12, dtype=torch.float64), torch.zeros(12, dtype=torch.float64)
    for _ in range(300):
        point, buffer = momentum_step(point, spectrum * point, buffer, lr=lr, momentum=momentum)
    # the double roots at both ends cost a factor that is linear in the number of steps
    assert momentum**150 < float(point.norm()) < 3000 * momentum**150


def test_one_curvature_needs_no_memory() -> None:
    assert optimal_momentum(4.0, 4.0) == (0.25, 0.0)
    assert optimal_momentum(4.0, 4.0, nesterov=True) == (0.25, 0.0)


def test_both_ends_of_the_spectrum_are_critically_damped_at_the_optimum() -> None:
    lr, momentum = optimal_momentum(0.7, 33.0)
    assert critical_momentum(0.7, lr=lr) == pytest.approx(momentum, rel=1e-12)
    assert critical_momentum(33.0, lr=lr) == pytest.approx(momentum, rel=1e-12)


@pytest.mark.parametrize("momentum", [-0.1, 1.0, math.nan, torch.tensor([0.9, 1.0, 0.5]), torch.tensor(math.nan)])
def test_a_momentum_outside_its_range_is_refused(momentum: float | Tensor) -> None:
    with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\), got"):
        momentum_step(torch.ones(3), torch.ones(3), torch.zeros(3), lr=0.1, momentum=momentum)


@pytest.mark.parametrize("dampening", [-0.1, 1.1, math.nan, torch.tensor([0.0, 1.0, 1.5])])
def test_a_dampening_outside_its_range_is_refused(dampening: float | Tensor) -> None:
    with pytest.raises(ValueError, match=r"dampening must be in \[0, 1\], got"):
        momentum_step(torch.ones(3), torch.ones(3), torch.zeros(3), lr=0.1, momentum=0.9, dampening=dampening, step=2)


def test_combinations_without_a_meaning_are_refused() -> None:
    some = torch.ones(3), torch.ones(3), torch.zeros(3)
    with pytest.raises(ValueError, match=r"dampening must be 0 with nesterov, got 0.5"):
        momentum_step(*some, lr=0.1, momentum=0.9, dampening=0.5, nesterov=True, step=1)
    with pytest.raises(ValueError, match="step must be given with dampening, got None"):
        momentum_step(*some, lr=0.1, momentum=0.9, dampening=0.5)
    with pytest.raises(ValueError, match="step must be >= 1, got 0"):
        momentum_step(*some, lr=0.1, momentum=0.9, step=0)
    with pytest.raises(TypeError, match="step must be an integer, got float"):
        momentum_step(*some, lr=0.1, momentum=0.9, step=1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="lr must be >= 0, got -1"):
        momentum_step(*some, lr=-1, momentum=0.9)


def test_shapes_that_would_broadcast_are_refused() -> None:
    with pytest.raises(ValueError, match=r"parameter and gradient must have the same shape, got \(3, 1\) and \(3,\)"):
        momentum_step(torch.ones(3, 1), torch.ones(3), torch.ones(3, 1), lr=0.1, momentum=0.9)
    with pytest.raises(ValueError, match=r"parameter and buffer must have the same shape, got \(3,\) and \(1,\)"):
        momentum_step(torch.ones(3), torch.ones(3), torch.ones(1), lr=0.1, momentum=0.9)


def test_closed_forms_refuse_what_has_no_answer() -> None:
    one = torch.ones(1)
    with pytest.raises(ValueError, match="smallest must be > 0, got 0"):
        optimal_momentum(0.0, 1.0)
    with pytest.raises(ValueError, match="largest must be > 0, got inf"):
        optimal_momentum(1.0, math.inf)
    with pytest.raises(ValueError, match=r"largest must be >= smallest, got 1.0 and 2.0"):
        optimal_momentum(2.0, 1.0)
    with pytest.raises(ValueError, match="curvature must be > 0, got nan"):
        critical_momentum(math.nan, lr=0.1)
    with pytest.raises(ValueError, match="lr must be > 0, got 0"):
        critical_momentum(1.0, lr=0.0)
    with pytest.raises(ValueError, match=r"lr \* curvature must be < 4, got 4.0"):
        critical_momentum(8.0, lr=0.5)
    with pytest.raises(ValueError, match="curvature must be >= 0, got"):
        momentum_rate(-one, lr=0.1, momentum=0.5)
    with pytest.raises(ValueError, match="curvature must be >= 0, got"):
        momentum_rate(one * math.nan, lr=0.1, momentum=0.5)
    with pytest.raises(ValueError, match=r"lr must be >= 0, got -0.1"):
        momentum_rate(one, lr=-0.1, momentum=0.5)
    with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\), got 1.0"):
        momentum_rate(one, lr=0.1, momentum=1.0)
    with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\), got -0.5"):
        stability_limit(1.0, momentum=-0.5)
