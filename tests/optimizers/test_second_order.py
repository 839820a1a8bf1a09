"""Steps that divide by the curvature: dense twins, torch's L-BFGS, exact cases, limits, refusals."""

import copy
import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nnopt.devices import available_devices
from nnopt.models import mlp
from nnopt.optimizers import (
    KroneckerFactored,
    LevenbergMarquardt,
    conjugate_gradient,
    dense_hessian,
    gauss_newton_step,
    gradient_step,
    hessian_vector_product,
    kronecker_factors,
    kronecker_step,
    largest_curvature,
    lbfgs_direction,
    measure_sharpness,
    newton_cg_step,
    newton_step,
)

devices = pytest.mark.parametrize("device", available_devices(), ids=str)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def spectrum_matrix(eigenvalues: list[float], seed: int = 0) -> Tensor:
    basis = torch.linalg.qr(random(len(eigenvalues), len(eigenvalues), seed=seed))[0]
    matrix: Tensor = basis @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ basis.T
    return (matrix + matrix.T) / 2


def small_network(device: torch.device | str = "cpu", *, outputs: int = 2) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, outputs)).double()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(random(*parameter.shape, seed=number))
    return model.to(device)


def bent_loss(model: nn.Module, device: torch.device | str = "cpu") -> Callable[[], Tensor]:
    inputs, targets = random(10, 3, seed=9).to(device), random(10, 2, seed=10).to(device)
    return lambda: (model(inputs) - targets).square().mean()


def as_vector(pieces: Sequence[Tensor]) -> Tensor:
    return torch.cat([piece.detach().reshape(-1) for piece in pieces])


# products and matrices


def test_a_product_by_hand() -> None:
    # J = x² y: H = [[2y, 2x], [2x, 0]] = [[10, 6], [6, 0]] at (3, 5)
    x, y = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (3.0, 5.0))
    product = hessian_vector_product(
        lambda: x * x * y, [x, y], [torch.tensor(1.0).double(), torch.tensor(2.0).double()]
    )
    assert [float(piece) for piece in product] == [22.0, 6.0]
    assert dense_hessian(lambda: x * x * y, [x, y]).tolist() == [[10.0, 6.0], [6.0, 0.0]]


@devices
def test_products_equal_the_dense_hessian_of_torch_and_finite_differences(device: torch.device) -> None:
    model = small_network(device)
    parameters, loss = list(model.parameters()), bent_loss(model, device)
    vector = [random(*parameter.shape, seed=20 + n).to(device) for n, parameter in enumerate(parameters)]
    product = hessian_vector_product(loss, parameters, vector)
    matrix = dense_hessian(loss, parameters)
    torch.testing.assert_close(as_vector(product), matrix @ as_vector(vector), rtol=1e-12, atol=1e-12)

    def gradient_at(distance: float) -> Tensor:
        with torch.no_grad():
            for parameter, piece in zip(parameters, vector, strict=True):
                parameter.add_(distance * piece)
        found = as_vector(list(torch.autograd.grad(loss(), parameters)))
        with torch.no_grad():
            for parameter, piece in zip(parameters, vector, strict=True):
                parameter.sub_(distance * piece)
        return found

    differences = (gradient_at(1e-5) - gradient_at(-1e-5)) / 2e-5
    torch.testing.assert_close(as_vector(product), differences, rtol=1e-6, atol=1e-7)


def test_the_dense_hessian_is_that_of_torch_and_symmetric() -> None:
    point = random(5)

    def loss(at: Tensor) -> Tensor:
        return at.prod() + at.square().sum() ** 2 + at.sin().sum()

    leaf = point.clone().requires_grad_()
    ours = dense_hessian(lambda: loss(leaf), [leaf])
    theirs = torch.autograd.functional.hessian(loss, point)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert torch.equal(ours, ours.T)


@given(st.integers(0, 1000), st.floats(-3, 3), st.floats(-3, 3))
@settings(derandomize=True, deadline=None, max_examples=25)
def test_products_are_linear_and_symmetric(seed: int, a: float, b: float) -> None:
    point = random(6, seed=seed).requires_grad_()

    def times(vector: Tensor) -> Tensor:
        return hessian_vector_product(lambda: point.square().sum().cos() + point.prod(), [point], [vector])[0]

    u, v = random(6, seed=seed + 1), random(6, seed=seed + 2)
    torch.testing.assert_close(times(a * u + b * v), a * times(u) + b * times(v), rtol=1e-9, atol=1e-9)
    assert float(u @ times(v)) == pytest.approx(float(v @ times(u)), rel=1e-9, abs=1e-9)


def test_a_linear_loss_and_an_unused_parameter_have_no_curvature() -> None:
    used, unused = random(3).requires_grad_(), random(2).requires_grad_()
    ones = [torch.ones(3).double(), torch.ones(2).double()]
    for loss in (lambda: used.sum(), lambda: used.pow(3).sum()):
        product = hessian_vector_product(loss, [used, unused], ones)
        assert torch.equal(product[1], torch.zeros(2, dtype=torch.float64))
        assert dense_hessian(loss, [used, unused])[3:].abs().sum() == 0
    assert hessian_vector_product(lambda: used.sum(), [used, unused], ones)[0].abs().sum() == 0


# Newton


def test_newton_solves_a_quadratic_in_one_step_from_anywhere() -> None:
    matrix, minimum = spectrum_matrix([0.001, 1.0, 50.0, 1000.0]), random(4, seed=5)
    for seed in range(3):
        point = (100 * random(4, seed=seed)).requires_grad_()

        def loss(at: Tensor = point) -> Tensor:
            return 0.5 * (at - minimum) @ matrix @ (at - minimum)

        (new,) = newton_step(loss, [point])
        torch.testing.assert_close(new, minimum, rtol=1e-8, atol=1e-8)


def test_newton_goes_to_a_saddle_as_willingly_as_to_a_minimum() -> None:
    point = torch.tensor([2.0, 1.0], dtype=torch.float64, requires_grad=True)
    (new,) = newton_step(lambda: point[0] ** 2 - point[1] ** 2, [point])
    assert new.tolist() == [0.0, 0.0]
    # damping beyond the negative curvature goes down along it
    (new,) = newton_step(lambda: point[0] ** 2 - point[1] ** 2, [point], damping=4.0)
    assert float(new[1]) > 1.0


def test_newton_does_not_see_a_linear_change_of_coordinates_and_descent_does() -> None:
    change = spectrum_matrix([0.1, 1.0, 30.0]) @ torch.linalg.qr(random(3, 3, seed=8))[0]
    start = random(3, seed=1)

    def loss(at: Tensor) -> Tensor:
        return (1 + at.square() * torch.tensor([1.0, 2.0, 3.0]).double()).log().sum() + at.square().sum()

    plain = start.clone().requires_grad_()
    other = torch.linalg.solve(change, start).requires_grad_()
    (one,) = newton_step(lambda: loss(plain), [plain])
    (two,) = newton_step(lambda: loss(change @ other), [other])
    torch.testing.assert_close(change @ two, one, rtol=1e-9, atol=1e-9)
    g1, g2 = torch.autograd.grad(loss(plain), plain)[0], torch.autograd.grad(loss(change @ other), other)[0]
    moved = gradient_step(plain.detach(), g1, lr=0.1), change @ gradient_step(other.detach(), g2, lr=0.1)
    assert not torch.allclose(moved[0], moved[1], rtol=0.1)


def test_newton_of_a_network_solves_its_dense_system_and_the_rate_scales_the_step() -> None:
    model = small_network()
    parameters, loss = list(model.parameters()), bent_loss(model)
    hessian = torch.autograd.functional.hessian(
        lambda flat: bent_loss_of(flat, model)(), as_vector(parameters), vectorize=False
    )
    gradient = as_vector(list(torch.autograd.grad(loss(), parameters)))
    expected = -torch.linalg.solve(hessian + 0.3 * torch.eye(len(gradient)).double(), gradient)
    for lr in (1.0, 0.25):
        step = as_vector(newton_step(loss, parameters, damping=0.3, lr=lr)) - as_vector(parameters)
        torch.testing.assert_close(step, lr * expected, rtol=1e-9, atol=1e-9)


def bent_loss_of(flat: Tensor, model: nn.Sequential) -> Callable[[], Tensor]:
    """The same loss with the parameters in one vector."""
    names = [name for name, _ in model.named_parameters()]
    shapes = [parameter.shape for parameter in model.parameters()]
    pieces = flat.split([shape.numel() for shape in shapes])
    values = {name: piece.view(shape) for name, piece, shape in zip(names, pieces, shapes, strict=True)}
    inputs, targets = random(10, 3, seed=9), random(10, 2, seed=10)

    def loss() -> Tensor:
        outputs: Tensor = torch.func.functional_call(model, values, (inputs,))
        return (outputs - targets).square().mean()

    return loss


def test_infinite_damping_is_descent_for_every_method() -> None:
    model = small_network()
    parameters, loss, damping = list(model.parameters()), bent_loss(model), 1e9
    gradient = as_vector(list(torch.autograd.grad(loss(), parameters)))

    def residuals() -> Tensor:
        # so that ½‖r‖² is the mean over 10 rows of 2 outputs
        errors: Tensor = model(random(10, 3, seed=9)) - random(10, 2, seed=10)
        return errors / math.sqrt(10)

    for new in (
        newton_step(loss, parameters, damping=damping, lr=damping),
        newton_cg_step(loss, parameters, damping=damping, lr=damping, tolerance=1e-10)[0],
        gauss_newton_step(residuals, parameters, damping=damping, lr=damping),
    ):
        torch.testing.assert_close(as_vector(new) - as_vector(parameters), -gradient, rtol=1e-6, atol=1e-8)


def test_newton_with_products_equals_newton_with_the_matrix() -> None:
    model = small_network()
    parameters, loss = list(model.parameters()), bent_loss(model)
    exact = as_vector(newton_step(loss, parameters, damping=2.0))
    new, solved = newton_cg_step(loss, parameters, damping=2.0, tolerance=1e-12, max_products=200)
    assert solved.converged
    assert solved.negative_curvature is None
    torch.testing.assert_close(as_vector(new), exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("start", [(0.0, 1.0), (1.0, 1.0), (3.0, 0.1)])
def test_newton_with_products_leaves_a_saddle_downhill(start: tuple[float, float]) -> None:
    point = torch.tensor(start, dtype=torch.float64, requires_grad=True)

    def loss(at: Tensor) -> Tensor:
        return at[0] ** 2 - at[1] ** 2

    (new,), solved = newton_cg_step(lambda: loss(point), [point], lr=0.1, tolerance=1e-8)
    assert solved.negative_curvature is not None
    assert float(loss(new)) < float(loss(point.detach()))


# conjugate gradients


@devices
def test_conjugate_gradients_solve_what_the_dense_solver_solves(device: torch.device) -> None:
    matrix, right = spectrum_matrix([0.5, 1.0, 2.0, 7.0, 30.0]).to(device), random(5, seed=3).to(device)
    solved = conjugate_gradient(lambda v: matrix @ v, right, tolerance=1e-13)
    torch.testing.assert_close(solved.solution, torch.linalg.solve(matrix, right), rtol=1e-9, atol=1e-9)
    assert solved.num_products <= 5
    assert solved.negative_curvature is None
    left = float((right - matrix @ solved.solution).norm() / right.norm())
    assert solved.residual == pytest.approx(left, abs=1e-12)


def test_as_many_products_as_different_eigenvalues_are_enough() -> None:
    matrix, right = spectrum_matrix([2.0] * 10 + [5.0] * 10 + [9.0] * 10), random(30, seed=3)
    solved = conjugate_gradient(lambda v: matrix @ v, right, tolerance=1e-10)
    assert (solved.num_products, solved.converged) == (3, True)


def test_negative_curvature_is_told_with_its_direction() -> None:
    matrix = spectrum_matrix([-3.0, 0.1, 2.0, 5.0])
    solved = conjugate_gradient(lambda v: matrix @ v, random(4, seed=3))
    direction = solved.negative_curvature
    assert direction is not None
    assert float(direction @ matrix @ direction) <= 0
    assert not solved.converged


def test_a_wrong_solver_that_goes_on_past_negative_curvature_ends_at_the_saddle() -> None:
    """The planted fault: without the stop the recursion solves the indefinite system."""
    matrix, right = spectrum_matrix([-3.0, 0.1, 2.0, 5.0]), random(4, seed=3)
    solution, residual = torch.zeros(4).double(), right
    direction = residual
    for _ in range(4):
        image = matrix @ direction
        step = residual @ residual / (direction @ image)
        solution, new = solution + step * direction, residual - step * image
        direction, residual = new + new @ new / (residual @ residual) * direction, new
    torch.testing.assert_close(solution, torch.linalg.solve(matrix, right), rtol=1e-6, atol=1e-6)
    stopped = conjugate_gradient(lambda v: matrix @ v, right).solution
    assert not torch.allclose(stopped, solution, rtol=0.1)


def test_a_zero_right_side_needs_no_product() -> None:
    solved = conjugate_gradient(lambda v: v, torch.zeros(3))
    assert (solved.num_products, solved.residual, solved.converged) == (0, 0.0, True)
    assert torch.equal(solved.solution, torch.zeros(3))


def test_the_iteration_stops_at_its_limit_and_says_so() -> None:
    matrix, right = spectrum_matrix([0.01, 1.0, 2.0, 7.0, 100.0]), random(5, seed=3)
    solved = conjugate_gradient(lambda v: matrix @ v, right, max_steps=2)
    assert (solved.num_products, solved.converged) == (2, False)


@pytest.mark.parametrize("size", [1e-25, 1e-10, 1.0, 1e25, 3e38])
def test_right_sides_whose_squares_leave_the_range_are_solved_too(size: float) -> None:
    matrix, right = spectrum_matrix([0.5, 1.0, 2.0, 7.0]).float(), random(4, seed=3).float().clamp(-0.1, 0.1)
    plain = conjugate_gradient(lambda v: matrix @ v, right, tolerance=1e-5)
    unit = 2.0 ** round(math.log2(size) - 1)
    solved = conjugate_gradient(lambda v: matrix @ v, right * unit, tolerance=1e-5)
    assert torch.equal(solved.solution, plain.solution * unit)
    assert (solved.num_products, solved.residual) == (plain.num_products, plain.residual)
    saddle = conjugate_gradient(lambda v: -(matrix @ v), right * unit)
    assert saddle.negative_curvature is not None
    torch.testing.assert_close(saddle.negative_curvature, right * unit)


def test_an_operator_that_answers_with_no_number_is_refused() -> None:
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match=r"operator\(v\) must be finite, got (nan|inf)"):
            conjugate_gradient(torch.tensor(bad).mul, torch.ones(3))


def test_parameters_may_come_from_a_generator() -> None:
    model, inputs = small_network(), random(4, 3)
    loss, of = bent_loss(model), list(model.parameters())
    generator = torch.Generator()

    def residuals() -> Tensor:
        answer: Tensor = model(inputs)
        return answer

    calls: list[Callable[[Any], Any]] = [
        lambda parameters: dense_hessian(loss, parameters),
        lambda parameters: newton_step(loss, parameters, damping=5.0),
        lambda parameters: newton_cg_step(loss, parameters, damping=5.0)[0],
        lambda parameters: gauss_newton_step(residuals, parameters, damping=1.0),
        lambda parameters: hessian_vector_product(loss, parameters, [torch.ones_like(p) for p in of]),
        lambda parameters: measure_sharpness(loss, parameters, radius=0.1),
        lambda parameters: largest_curvature(loss, parameters, generator=generator.manual_seed(0)),
    ]
    for call in calls:
        torch.testing.assert_close(call(model.parameters()), call(of), rtol=0, atol=0)
    method = LevenbergMarquardt(model.parameters())
    assert [id(parameter) for parameter in method.parameters] == [id(parameter) for parameter in of]


# Gauss-Newton and Levenberg-Marquardt


def test_gauss_newton_equals_newton_where_residuals_are_linear() -> None:
    matrix, right = random(7, 4), random(7, seed=1)
    point = random(4, seed=2).requires_grad_()

    def residuals() -> Tensor:
        return matrix @ point - right

    for damping in (0.0, 0.7):
        (ours,) = gauss_newton_step(residuals, [point], damping=damping)
        (newton,) = newton_step(lambda: residuals().square().sum() / 2, [point], damping=damping)
        torch.testing.assert_close(ours, newton, rtol=1e-10, atol=1e-10)
    (solved,) = gauss_newton_step(residuals, [point], damping=0.0)
    torch.testing.assert_close(solved, torch.linalg.lstsq(matrix, right.unsqueeze(1)).solution[:, 0])


@devices
def test_gauss_newton_solves_the_normal_equations_of_a_network(device: torch.device) -> None:
    model = small_network(device)
    parameters = list(model.parameters())
    inputs, targets = random(10, 3, seed=9).to(device), random(10, 2, seed=10).to(device)
    outputs = (model(inputs) - targets).reshape(-1)
    rows = [as_vector(list(torch.autograd.grad(output, parameters, retain_graph=True))) for output in outputs]
    slopes = torch.stack(rows)
    normal = slopes.T @ slopes + 0.2 * torch.eye(slopes.shape[1]).to(slopes)
    expected = -0.5 * torch.linalg.solve(normal, slopes.T @ outputs.detach())
    new = gauss_newton_step(lambda: model(inputs) - targets, parameters, damping=0.2, lr=0.5)
    torch.testing.assert_close(as_vector(new) - as_vector(parameters), expected, rtol=1e-9, atol=1e-9)


def test_without_damping_the_shortest_of_the_best_steps_is_taken() -> None:
    point = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    (new,) = gauss_newton_step(lambda: (point[:2].sum() - 4.0).reshape(1), [point], damping=0.0)
    torch.testing.assert_close(new, torch.tensor([2.0, 2.0, 0.0], dtype=torch.float64))


def curve_fit(seed: int = 0) -> tuple[list[Tensor], Callable[[], Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    model = mlp((1, 8, 1), activation="tanh", generator=generator).double()
    inputs = torch.linspace(-1, 1, 40, dtype=torch.float64).unsqueeze(1)
    return list(model.parameters()), lambda: model(inputs) - (4 * inputs).sin()


def test_levenberg_marquardt_never_raises_the_loss_and_fits_the_curve() -> None:
    for seed in range(3):
        parameters, residuals = curve_fit(seed)
        method = LevenbergMarquardt(parameters)
        losses = [float(residuals().detach().square().sum()) / 2]
        for _ in range(40):
            losses.append(method.step(residuals))
            assert losses[-1] == pytest.approx(float(residuals().detach().square().sum()) / 2, rel=1e-12)
        assert losses == sorted(losses, reverse=True)
        assert losses[-1] < 1e-4 * losses[0]
        assert method.num_tries >= 40


def test_an_accepted_first_step_of_levenberg_marquardt_is_the_gauss_newton_step() -> None:
    parameters, residuals = curve_fit()
    method = LevenbergMarquardt(parameters, damping=0.3)
    before = [parameter.detach().clone() for parameter in parameters]
    flat = torch.stack(_rows(residuals, parameters))
    damping = 0.3 * float(flat.square().sum(0).max())
    expected = gauss_newton_step(residuals, parameters, damping=damping)
    method.step(residuals)
    assert method.num_tries == 1
    assert not torch.equal(as_vector(before), as_vector(parameters))
    torch.testing.assert_close(as_vector(parameters), as_vector(expected), rtol=1e-12, atol=1e-12)
    assert method.damping is not None
    assert method.damping < damping  # the promise was kept


def _rows(residuals: Callable[[], Tensor], parameters: list[Tensor]) -> list[Tensor]:
    found = residuals().reshape(-1)
    return [as_vector(list(torch.autograd.grad(one, parameters, retain_graph=True))) for one in found]


def test_where_no_try_helps_parameters_stay_as_they_are() -> None:
    point = torch.tensor([0.0], dtype=torch.float64, requires_grad=True)
    method = LevenbergMarquardt([point], max_tries=3)
    assert method.step(lambda: 1 + point.square()) == 0.5  # already at the minimum
    assert (point.item(), method.num_tries) == (0.0, 3)


@pytest.mark.parametrize("max_tries", [1, 10])
def test_at_a_minimum_the_damping_does_not_grow_beyond_all_numbers(max_tries: int) -> None:
    point, target = torch.zeros(1, dtype=torch.float64, requires_grad=True), torch.zeros(1, dtype=torch.float64)
    method = LevenbergMarquardt([point], max_tries=max_tries)
    for _ in range(50):
        assert method.step(lambda: point - target) == 0.0
    assert method.damping == 1e-3
    other = LevenbergMarquardt([point])
    other.load_state_dict(method.state_dict())
    target.fill_(1.0)
    for _ in range(4):
        method.step(lambda: point - target)
    assert point.item() == pytest.approx(1.0)


def test_one_try_a_step_is_enough_where_the_damping_must_grow_first() -> None:
    point = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
    method = LevenbergMarquardt([point], damping=1e-6, max_tries=1)
    losses = [method.step(point.atan) for _ in range(40)]  # an undamped step from 3 goes beyond -9
    assert losses[0] == losses[1] > 0.7
    assert losses[-1] < 1e-12


def test_after_an_error_in_a_try_parameters_are_where_they_were() -> None:
    point = torch.tensor([0.0], dtype=torch.float64, requires_grad=True)

    def residuals() -> Tensor:
        if point.detach() != 0:
            raise RuntimeError("no memory")
        return point - 3

    with pytest.raises(RuntimeError, match="no memory"):
        LevenbergMarquardt([point]).step(residuals)
    assert point.item() == 0.0


def test_levenberg_marquardt_continues_bit_for_bit() -> None:
    one, first = curve_fit()
    method = LevenbergMarquardt(one)
    for _ in range(5):
        method.step(first)
    other, second = curve_fit()
    with torch.no_grad():
        for new, old in zip(other, one, strict=True):
            new.copy_(old)
    file = io.BytesIO()
    torch.save(method.state_dict(), file)
    file.seek(0)
    resumed = LevenbergMarquardt(other)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(5):
        assert method.step(first) == resumed.step(second)
    assert torch.equal(as_vector(one), as_vector(other))
    assert method.num_tries == resumed.num_tries


# L-BFGS


@devices
def test_fifty_steps_equal_torch_lbfgs(device: torch.device) -> None:
    theirs = random(12, seed=4).to(device).requires_grad_()
    ours = theirs.detach().clone()

    def loss(at: Tensor) -> Tensor:
        scale = torch.logspace(0, 2, 12, dtype=torch.float64, device=device)
        return (1 + scale * at.square()).sqrt().sum() + (at - 0.3).square().sum() / 2

    optimizer = torch.optim.LBFGS([theirs], lr=0.05, max_iter=1, history_size=5, tolerance_grad=0, tolerance_change=0)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(theirs)
        value.backward()
        return value.detach()

    def gradient_of(at: Tensor) -> Tensor:
        leaf = at.clone().requires_grad_()
        return torch.autograd.grad(loss(leaf), leaf)[0]

    steps: list[Tensor] = []
    changes: list[Tensor] = []
    gradient = gradient_of(ours)
    for number in range(50):
        optimizer.step(closure)
        direction = lbfgs_direction(gradient, steps[-5:], changes[-5:])
        # torch's first step is shortened by the size of the gradient
        lr = 0.05 * (min(1.0, 1 / float(gradient.abs().sum())) if number == 0 else 1.0)
        step = lr * direction
        new = ours + step
        after = gradient_of(new)
        if float((after - gradient) @ step) > 1e-10:
            steps.append(step)
            changes.append(after - gradient)
        ours, gradient = new, after
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-12, atol=1e-12)
    assert len(steps) >= 5


@pytest.mark.parametrize("pairs", [0, 1, 3, 6])
def test_two_passes_equal_the_dense_bfgs_matrix(pairs: int) -> None:
    curvature = spectrum_matrix([0.3, 1.0, 2.0, 5.0, 9.0])
    steps = [random(5, seed=n) for n in range(pairs)]
    changes = [curvature @ step + 0.01 * step**3 for step in steps]
    gradient = random(5, seed=50)
    inverse = torch.eye(5, dtype=torch.float64)
    if pairs:
        inverse = inverse * (steps[-1] @ changes[-1]) / (changes[-1] @ changes[-1])
    for s, y in zip(steps, changes, strict=True):
        rho = 1 / (y @ s)
        left = torch.eye(5, dtype=torch.float64) - rho * torch.outer(s, y)
        inverse = left @ inverse @ left.T + rho * torch.outer(s, s)
    kept = gradient.clone(), [s.clone() for s in steps]
    torch.testing.assert_close(lbfgs_direction(gradient, steps, changes), -inverse @ gradient, rtol=1e-10, atol=1e-10)
    assert torch.equal(gradient, kept[0])
    assert all(torch.equal(a, b) for a, b in zip(steps, kept[1], strict=True))
    if pairs:  # the secant equation: the newest pair is understood exactly
        torch.testing.assert_close(lbfgs_direction(changes[-1], steps, changes), -steps[-1], rtol=1e-9, atol=1e-9)


def test_pairs_in_the_wrong_order_are_another_direction() -> None:
    """The planted fault: the newest pair must be the last."""
    curvature = spectrum_matrix([0.3, 1.0, 2.0, 5.0, 9.0])
    steps = [random(5, seed=n) for n in range(3)]
    changes = [curvature @ step for step in steps]
    right = lbfgs_direction(random(5, seed=50), steps, changes)
    wrong = lbfgs_direction(random(5, seed=50), steps[::-1], changes[::-1])
    assert float((right - wrong).norm() / right.norm()) > 0.01


@given(st.integers(0, 500), st.integers(1, 6))
@settings(derandomize=True, deadline=None, max_examples=25)
def test_the_direction_is_always_downhill(seed: int, pairs: int) -> None:
    curvature = spectrum_matrix([0.1, 1.0, 3.0, 8.0], seed=seed)
    steps = [random(4, seed=seed + n + 1) for n in range(pairs)]
    gradient = random(4, seed=seed + 99)
    assert float(gradient @ lbfgs_direction(gradient, steps, [curvature @ step for step in steps])) < 0


# Kronecker factors


def exact_fisher(weight: Tensor, inputs: Tensor) -> Tensor:
    """Fisher matrix of softmax regression by W (out, in), row by row and class by class; columns of W stacked."""
    out, width = weight.shape
    total = torch.zeros(out * width, out * width, dtype=torch.float64)
    for a in inputs:
        p = (weight @ a).softmax(0)
        for c in range(out):
            d = p.clone()
            d[c] -= 1
            slope = torch.outer(d, a).T.reshape(-1)  # columns laid behind each other
            total += p[c] * torch.outer(slope, slope)
    return total / len(inputs)


def slopes_of_every_class(weight: Tensor, inputs: Tensor) -> Tensor:
    """All C targets of every row, each weighted so that the mean of ddᵀ over C draws is the expectation."""
    p = (inputs @ weight.T).softmax(1)
    classes = p.shape[1]
    each = p.unsqueeze(0) - torch.eye(classes, dtype=torch.float64).unsqueeze(1)
    return each * (classes * p.T).sqrt().unsqueeze(-1)


def test_for_one_row_the_product_is_the_exact_fisher_matrix_and_the_gauss_newton_hessian() -> None:
    weight, inputs = random(3, 4), random(1, 4, seed=1)
    a, g = kronecker_factors(inputs, slopes_of_every_class(weight, inputs))
    torch.testing.assert_close(torch.kron(a, g), exact_fisher(weight, inputs), rtol=1e-12, atol=1e-12)
    leaf = weight.T.contiguous().requires_grad_()  # its rows are the columns of W
    hessian = dense_hessian(lambda: torch.nn.functional.cross_entropy(inputs @ leaf, torch.tensor([2])), [leaf])
    torch.testing.assert_close(torch.kron(a, g), hessian, rtol=1e-12, atol=1e-12)


def test_for_several_rows_it_is_exact_only_if_the_slopes_do_not_depend_on_them() -> None:
    weight, inputs = random(3, 4), random(20, 4, seed=1)
    a, g = kronecker_factors(inputs, slopes_of_every_class(weight, inputs))
    assert not torch.allclose(torch.kron(a, g), exact_fisher(weight, inputs), rtol=0.05)
    flat = torch.zeros_like(weight)  # all classes equally likely on every row
    a, g = kronecker_factors(inputs, slopes_of_every_class(flat, inputs))
    torch.testing.assert_close(torch.kron(a, g), exact_fisher(flat, inputs), rtol=1e-12, atol=1e-12)


def test_behind_linear_layers_and_with_squared_error_every_block_is_exact() -> None:
    first, second, inputs = random(4, 3), random(2, 4, seed=1), random(9, 3, seed=2)
    # ½‖y − V W x‖²: with unit variance the slopes by s = Wx are Vᵀe, e ~ N(0, I), on every row
    directions = (second * math.sqrt(2)).unsqueeze(1).expand(2, 9, 4)  # e along both axes, mean over 2 draws
    a, g = kronecker_factors(inputs, directions)
    leaf = first.T.contiguous().requires_grad_()
    targets = random(9, 2, seed=3)
    hessian = dense_hessian(lambda: (inputs @ leaf @ second.T - targets).square().sum() / 2 / 9, [leaf])
    torch.testing.assert_close(torch.kron(a, g), hessian, rtol=1e-12, atol=1e-12)


def test_a_bias_is_a_column_of_ones() -> None:
    inputs, slopes = random(6, 3), random(6, 2, seed=1)
    a, g = kronecker_factors(inputs, slopes, bias=True)
    whole, same = kronecker_factors(torch.cat([inputs, torch.ones(6, 1).double()], 1), slopes)
    assert torch.equal(a, whole)
    assert torch.equal(g, same)
    assert a.shape == (4, 4)


def test_a_kronecker_step_divides_by_the_damped_product() -> None:
    weight, gradient = random(3, 4), random(3, 4, seed=1)
    a, g = kronecker_factors(random(8, 4, seed=2), random(8, 3, seed=3))
    pi = math.sqrt(float((a.trace() / 4) / (g.trace() / 3)))
    damped = torch.kron(
        a + pi * math.sqrt(0.2) * torch.eye(4).double(), g + math.sqrt(0.2) / pi * torch.eye(3).double()
    )
    expected = weight - 0.3 * torch.linalg.solve(damped, gradient.T.reshape(-1)).view(4, 3).T
    kept = weight.clone(), gradient.clone()
    new = kronecker_step(weight, gradient, a, g, lr=0.3, damping=0.2)
    torch.testing.assert_close(new, expected, rtol=1e-10, atol=1e-10)
    assert torch.equal(weight, kept[0])
    assert torch.equal(gradient, kept[1])
    # limits: no damping is the inverse of the product, much damping is descent
    full = a + 0.1 * torch.eye(4).double(), g + 0.1 * torch.eye(3).double()
    bare = kronecker_step(weight, gradient, *full, lr=1.0, damping=1e-18)
    exact = torch.linalg.solve(full[1], gradient) @ torch.linalg.inv(full[0])
    torch.testing.assert_close(weight - bare, exact, rtol=1e-6, atol=1e-6)
    drowned = kronecker_step(weight, gradient, a, g, lr=1e14, damping=1e14)
    torch.testing.assert_close(weight - drowned, gradient, rtol=1e-5, atol=1e-6)


def gaussian_line(device: torch.device | str = "cpu") -> tuple[nn.Linear, Tensor, Tensor]:
    model = nn.Linear(4, 3).double()
    with torch.no_grad():
        model.weight.copy_(random(3, 4))
        model.bias.copy_(random(3, seed=1))
    return model.to(device), random(50, 4, seed=2).to(device), random(50, 3, seed=3).to(device)


@devices
def test_on_a_linear_model_with_many_rows_one_step_is_almost_newtons(device: torch.device) -> None:
    model, inputs, targets = gaussian_line(device)
    inputs, targets = inputs.repeat(400, 1), targets.repeat(400, 1)  # so that the drawn slopes have covariance ≈ I
    weights = torch.cat([model.weight, model.bias.unsqueeze(1)], 1).detach()
    generator = torch.Generator().manual_seed(0)
    KroneckerFactored(model, generator=generator, likelihood="gaussian", lr=1.0, damping=1e-10).step(inputs, targets)
    ones = torch.cat([inputs, torch.ones(len(inputs), 1).to(inputs)], 1)
    best = torch.linalg.lstsq(ones, targets).solution.T
    moved = torch.cat([model.weight, model.bias.unsqueeze(1)], 1).detach()
    assert float((moved - best).norm() / (weights - best).norm()) < 0.03


def test_a_step_of_the_class_is_the_pure_step_on_every_layer() -> None:
    model = small_network(outputs=3)
    before = copy.deepcopy(model)
    inputs, targets = random(16, 3, seed=9), torch.arange(16) % 3
    method = KroneckerFactored(model, generator=torch.Generator().manual_seed(4), lr=0.3, damping=0.2)
    reported = method.step(inputs, targets)
    # by hand
    hidden_before = before[0](inputs)
    hidden = hidden_before.tanh()
    logits = before[2](hidden)
    loss = torch.nn.functional.cross_entropy(logits, targets)
    assert reported == pytest.approx(float(loss.detach()), rel=1e-12)
    draw = torch.multinomial(logits.detach().softmax(1), 1, generator=torch.Generator().manual_seed(4)).squeeze(1)
    drawn = torch.nn.functional.cross_entropy(logits, draw, reduction="sum")
    slopes = torch.autograd.grad(drawn, [hidden_before, logits], retain_graph=True)
    for place, rows, slope in ((0, inputs, slopes[0]), (2, hidden.detach(), slopes[1])):
        layer, moved = before[place], model[place]
        assert isinstance(layer, nn.Linear)
        assert isinstance(moved, nn.Linear)
        parts = torch.autograd.grad(loss, [layer.weight, layer.bias], retain_graph=True)
        whole = [torch.cat([w, b.unsqueeze(1)], 1) for w, b in (parts, (layer.weight.detach(), layer.bias.detach()))]
        factors = kronecker_factors(rows, slope, bias=True)
        expected = kronecker_step(whole[1], whole[0], *factors, lr=0.3, damping=0.2)
        found = torch.cat([moved.weight, moved.bias.unsqueeze(1)], 1).detach()
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def digits_like() -> tuple[nn.Sequential, Tensor, Tensor]:
    model = mlp((6, 8, 3), generator=torch.Generator().manual_seed(0)).double()
    inputs = random(64, 6, seed=1)
    return model, inputs, (inputs @ random(6, 3, seed=2)).argmax(1)


def test_the_class_lowers_a_loss_and_leaves_gradients_and_hooks_alone() -> None:
    model, inputs, targets = digits_like()
    weight = next(model.parameters())
    weight.grad = kept = torch.full_like(weight, 7.0)
    method = KroneckerFactored(
        model, generator=torch.Generator().manual_seed(0), lr=0.3, damping=0.05, momentum=0.5, refresh_every=3
    )
    losses = [method.step(inputs, targets) for _ in range(40)]
    assert losses[-1] < 0.1 * losses[0]
    assert weight.grad is kept
    assert torch.equal(kept, torch.full_like(kept, 7.0))
    assert not model[1]._forward_hooks
    assert method.num_steps == 40


@pytest.mark.parametrize("refresh_every", [1, 3])
def test_the_class_continues_bit_for_bit_from_a_checkpoint_read_without_pickle(refresh_every: int) -> None:
    def start() -> tuple[nn.Sequential, KroneckerFactored]:
        model, _, _ = digits_like()
        return model, KroneckerFactored(
            model, generator=torch.Generator().manual_seed(1), lr=0.2, momentum=0.4, refresh_every=refresh_every
        )

    _, inputs, targets = digits_like()
    (one, first), (other, second) = start(), start()
    for _ in range(11):  # past the steps that all refresh
        first.step(inputs, targets)
    file = io.BytesIO()
    torch.save({"model": one.state_dict(), "method": first.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other.load_state_dict(saved["model"])
    second.load_state_dict(saved["method"])
    for _ in range(5):
        assert first.step(inputs, targets) == second.step(inputs, targets)
    assert torch.equal(as_vector(list(one.parameters())), as_vector(list(other.parameters())))


def test_after_the_first_ten_steps_factors_are_refreshed_only_now_and_then() -> None:
    model, inputs, targets = digits_like()
    method = KroneckerFactored(model, generator=torch.Generator().manual_seed(1), lr=0.1, refresh_every=4)
    roots = []
    for _ in range(17):
        method.step(inputs, targets)
        roots.append(method.state_dict()["layers"][0]["input_root"])
    fresh = [0, *(k for k in range(1, 17) if not torch.equal(roots[k], roots[k - 1]))]
    assert fresh == [*range(10), 12, 16]


@pytest.mark.parametrize("momentum", [0.0, 0.4])
def test_a_state_that_is_not_whole_is_refused_and_changes_nothing(momentum: float) -> None:
    model, inputs, targets = digits_like()
    generator = torch.Generator().manual_seed(1)
    method = KroneckerFactored(model, generator=generator, lr=0.2, momentum=momentum)
    for _ in range(3):
        method.step(inputs, targets)
    good, chance = method.state_dict(), generator.get_state()
    wrongs: list[tuple[str, Any, str]] = [
        ("input_root", None, "input_root must be Tensor"),
        ("input_root", torch.ones(2, 2).double(), r"input_root must be \(7, 7\)"),
        ("output_factor", torch.ones(8, 8).long(), "output_factor must be floating point"),
        ("more", torch.ones(1), "state of a layer must have"),
    ]
    damaged = [
        ({**good, "layers": [{**good["layers"][0], name: bad}, good["layers"][1]]}, m) for name, bad, m in wrongs
    ]
    for name in ("input_factor", "output_factor", "input_root", "output_root"):
        entry = {key: value for key, value in good["layers"][0].items() if key != name}
        damaged.append(({**good, "layers": [entry, good["layers"][1]]}, "state of a layer must have"))
    damaged += [
        ({**good, "layers": [{}, {}]}, "state of a layer must have"),
        ({**good, "num_steps": 0}, "state of a layer must have"),
        ({**good, "generator": chance[:5]}, "generator must be the state of one on the CPU"),
        ({**good, "generator": chance.float()}, "generator must be uint8"),
        ({**good, "generator": None}, "generator must be Tensor"),
    ]
    for state, message in damaged:
        with pytest.raises((TypeError, ValueError), match=message):
            method.load_state_dict(state)
        torch.testing.assert_close(method.state_dict(), good, rtol=0, atol=0)
    method.load_state_dict(good)
    method.step(inputs, targets)


@pytest.mark.parametrize("place", ["damped_roots", "divided"])
def test_a_step_that_fails_draws_nothing(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs, targets = digits_like()
    generator = torch.Generator().manual_seed(1)
    method = KroneckerFactored(model, generator=generator)
    chance, before = generator.get_state(), as_vector(list(model.parameters())).clone()
    monkeypatch.setattr(f"nnopt.optimizers._kronecker_factored.{place}", lambda *tensors: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        method.step(inputs, targets)
    assert torch.equal(generator.get_state(), chance)
    assert torch.equal(as_vector(list(model.parameters())), before)
    assert method.num_steps == 0


# refusals


def test_losses_and_parameters_that_have_no_curvature_to_speak_of_are_refused() -> None:
    point, still = torch.ones(2, requires_grad=True), torch.ones(2)
    calls: list[Callable[[Callable[[], Tensor], list[Tensor]], object]] = [
        dense_hessian,
        newton_step,
        newton_cg_step,
        lambda loss, of: hessian_vector_product(loss, of, [torch.ones_like(one) for one in of]),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="parameters must not be empty"):
            call(lambda: point.sum(), [])
        with pytest.raises(ValueError, match=r"parameters\[0\] must require gradients"):
            call(lambda: point.sum(), [still])
        with pytest.raises(ValueError, match="loss must be finite, got nan"):
            call(lambda: point.sum() * math.nan, [point])
        with pytest.raises(ValueError, match=r"loss must be a single number, got shape \(2,\)"):
            call(lambda: point * 2, [point])
        with pytest.raises(ValueError, match="parameters must not repeat a tensor"):
            call(lambda: point.sum(), [point, point])
        with pytest.raises(TypeError, match=r"must be real, got torch\.complex64"):
            call(lambda: point.sum(), [torch.ones(2, dtype=torch.complex64, requires_grad=True)])
    with pytest.raises(ValueError, match="vector must have 1 pieces, as the parameters, got 2"):
        hessian_vector_product(lambda: point.sum(), [point], [still, still])
    with pytest.raises(ValueError, match=r"vector\[0\] and parameters\[0\] must have the same shape"):
        hessian_vector_product(lambda: point.sum(), [point], [torch.ones(3)])


@pytest.mark.parametrize("wrong", [-0.1, math.nan])
def test_numbers_out_of_range_are_refused(wrong: float) -> None:
    point = torch.ones(2, requires_grad=True)

    def loss() -> Tensor:
        return point.square().sum()

    for name in ("damping", "lr"):
        for call in (newton_step, newton_cg_step):
            with pytest.raises(ValueError, match=f"{name} must be >= 0"):
                call(loss, [point], **{name: wrong})  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=f"{name} must be >= 0"):
            gauss_newton_step(lambda: point, [point], **{"damping": 1.0, name: wrong})
    with pytest.raises(ValueError, match="lr must be >= 0"):
        kronecker_step(torch.ones(1, 1), torch.ones(1, 1), torch.eye(1), torch.eye(1), lr=wrong, damping=1.0)
    with pytest.raises(ValueError, match="damping must be > 0"):
        kronecker_step(torch.ones(1, 1), torch.ones(1, 1), torch.eye(1), torch.eye(1), lr=1.0, damping=wrong)
    with pytest.raises(ValueError, match="damping must be > 0"):
        LevenbergMarquardt([point], damping=wrong)
    with pytest.raises(ValueError, match="tolerance must be > 0"):
        conjugate_gradient(lambda v: v, torch.ones(2), tolerance=wrong)
    for name, message in (("lr", ">= 0"), ("damping", "> 0"), ("momentum", "in"), ("decay", "in")):
        with pytest.raises(ValueError, match=f"{name} must be {message}"):
            KroneckerFactored(nn.Linear(2, 2), generator=torch.Generator(), **{name: wrong})  # type: ignore[arg-type]


def test_systems_that_cannot_be_solved_are_refused() -> None:
    point = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match=r"damping must make the Hessian invertible, got 0\.0: it is singular"):
        newton_step(lambda: point[0] ** 2 + point[1], [point])
    with pytest.raises(ValueError, match=r"right must be \(4,\), got \(2, 2\)"):
        conjugate_gradient(lambda v: v, torch.ones(2, 2))
    with pytest.raises(ValueError, match="right must be finite"):
        conjugate_gradient(lambda v: v, torch.tensor([math.nan]))
    with pytest.raises(ValueError, match=r"operator\(v\) and v must have the same shape"):
        conjugate_gradient(lambda v: v[:1], torch.ones(2))
    with pytest.raises(ValueError, match="max_steps must be >= 1, got 0"):
        conjugate_gradient(lambda v: v, torch.ones(2), max_steps=0)
    with pytest.raises(TypeError, match="max_steps must be an integer"):
        conjugate_gradient(lambda v: v, torch.ones(2), max_steps=1.5)  # type: ignore[arg-type]


def test_pairs_that_no_positive_curvature_could_make_are_refused() -> None:
    g, s = torch.ones(2), torch.tensor([1.0, 0.0])
    with pytest.raises(ValueError, match="steps and differences must be pairs, got 1 and 0"):
        lbfgs_direction(g, [s], [])
    with pytest.raises(ValueError, match=r"steps\[0\] and differences\[0\] must agree, got sᵀy = -1"):
        lbfgs_direction(g, [s], [-s])
    with pytest.raises(ValueError, match=r"differences\[1\] and gradient must have the same shape"):
        lbfgs_direction(g, [s, s], [s, torch.ones(3)])
    with pytest.raises(ValueError, match=r"gradient must be \(4,\)"):
        lbfgs_direction(torch.ones(2, 2), [], [])


def test_levenberg_marquardt_refuses_bad_arguments_and_states() -> None:
    point = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match="parameters must not be empty"):
        LevenbergMarquardt([])
    with pytest.raises(ValueError, match=r"parameters\[0\] must require gradients"):
        LevenbergMarquardt([torch.ones(2)])
    with pytest.raises(ValueError, match="max_tries must be >= 1, got 0"):
        LevenbergMarquardt([point], max_tries=0)
    with pytest.raises(TypeError, match="max_tries must be an integer"):
        LevenbergMarquardt([point], max_tries=2.0)  # type: ignore[arg-type]
    method = LevenbergMarquardt([point])
    with pytest.raises(ValueError, match="residuals must be finite"):
        method.step(lambda: point * math.nan)
    with pytest.raises(ValueError, match="residuals must not be empty"):
        gauss_newton_step(lambda: point[:0], [point], damping=1.0)
    assert method.damping is None
    with pytest.raises(ValueError, match="state must have damping, growth and num_tries"):
        method.load_state_dict({"damping": 1.0})
    with pytest.raises(ValueError, match="damping must be > 0"):
        method.load_state_dict({"damping": -1.0, "growth": 2.0, "num_tries": 0})
    for growth in (1.0, 1e-9, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"growth( - 1)? must be > 0"):
            method.load_state_dict({"damping": 1.0, "growth": growth, "num_tries": 0})
    with pytest.raises(TypeError, match="growth must be a number"):
        method.load_state_dict({"damping": 1.0, "growth": None, "num_tries": 0})
    with pytest.raises(ValueError, match="parameters must not repeat a tensor"):
        LevenbergMarquardt([point, point])
    with pytest.raises(ValueError, match=r"parameters\[1\] must be a leaf, got what <MulBackward0"):
        LevenbergMarquardt([point, 2 * point])
    with pytest.raises(TypeError, match=r"parameters\[0\] must be Tensor, got float"):
        LevenbergMarquardt([1.0])  # type: ignore[list-item]
    assert method.damping is None


def test_kronecker_factors_refuse_rows_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"inputs must be \(B, in\)"):
        kronecker_factors(torch.ones(3), torch.ones(3, 1))
    with pytest.raises(ValueError, match="output_gradients must have the 3 rows of the inputs"):
        kronecker_factors(torch.ones(3, 2), torch.ones(2, 2))
    with pytest.raises(ValueError, match="output_gradients must have the 0 rows of the inputs, at least 1"):
        kronecker_factors(torch.ones(0, 2), torch.ones(0, 2))
    one = torch.ones(2, 3)
    for name, arguments in {
        "weight": (torch.ones(3), one, torch.eye(3), torch.eye(2)),
        "gradient": (one, one.T, torch.eye(3), torch.eye(2)),
        "input_factor": (one, one, torch.eye(2), torch.eye(2)),
        "output_factor": (one, one, torch.eye(3), torch.eye(3)),
    }.items():
        with pytest.raises(ValueError, match=f"{name} must be"):
            kronecker_step(*arguments, lr=1.0, damping=1.0)
    with pytest.raises(ValueError, match=r"damping must make the output factor positive definite, got 0\.01"):
        kronecker_step(one, one, torch.eye(3), -torch.eye(2), lr=1.0, damping=0.01)


def test_the_class_refuses_models_and_batches_it_does_not_understand() -> None:
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(ValueError, match=r"trainable parameters in linear layers, got '0\.weight' elsewhere"):
        KroneckerFactored(nn.Sequential(nn.Conv1d(1, 1, 1), nn.Linear(2, 2)), generator=generator)
    with pytest.raises(ValueError, match="model must have linear layers"):
        KroneckerFactored(nn.Sequential(), generator=generator)
    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    with pytest.raises(ValueError, match="sharing no parameter"):
        KroneckerFactored(tied, generator=generator)
    with pytest.raises(ValueError, match="likelihood must be one of"):
        KroneckerFactored(nn.Linear(2, 2), generator=generator, likelihood="poisson")
    with pytest.raises(TypeError, match="generator must be Generator"):
        KroneckerFactored(nn.Linear(2, 2), generator=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="refresh_every must be >= 1"):
        KroneckerFactored(nn.Linear(2, 2), generator=generator, refresh_every=0)

    layer = nn.Linear(2, 2)
    kept, chance = as_vector(list(layer.parameters())), generator.get_state()
    twice = KroneckerFactored(nn.Sequential(layer, nn.Tanh(), layer), generator=generator)
    method = KroneckerFactored(layer, generator=generator)
    rows, targets = torch.ones(3, 2), torch.tensor([0, 1, 1])
    with pytest.raises(ValueError, match="model must use each layer once"):
        twice.step(rows, targets)
    with pytest.raises(ValueError, match=r"model must use each layer once, on rows \(B, in\)"):
        method.step(torch.ones(3, 4, 2), targets)
    with pytest.raises(ValueError, match=r"outputs must be \(B, C\) and fit the targets"):
        method.step(rows, targets[:2])
    with pytest.raises(ValueError, match="loss must be finite, got nan"):
        method.step(rows * math.nan, targets)
    method.damping = -1.0
    with pytest.raises(ValueError, match="damping must be > 0"):
        method.step(rows, targets)
    with pytest.raises(ValueError, match="state must have layers"):
        method.load_state_dict({})
    wrong = {"layers": [{"momentum": torch.ones(1, 1)}], "num_steps": 1, "generator": chance}
    with pytest.raises(ValueError, match=r"state of a layer must have \['input_factor', .*, got \['momentum'\]"):
        method.load_state_dict(wrong)
    assert torch.equal(as_vector(list(layer.parameters())), kept)
    assert torch.equal(generator.get_state(), chance)
    assert method.num_steps == 0
    assert not layer._forward_hooks


@devices
def test_parameters_and_stored_gradients_stay_as_they_are(device: torch.device) -> None:
    model = small_network(device)
    parameters, loss = list(model.parameters()), bent_loss(model, device)
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 7.0)
    kept = as_vector(parameters).clone()
    vector = [torch.ones_like(parameter) for parameter in parameters]
    outputs = [
        *hessian_vector_product(loss, parameters, vector),
        dense_hessian(loss, parameters),
        *newton_step(loss, parameters, damping=5.0),
        *newton_cg_step(loss, parameters, damping=5.0)[0],
        *gauss_newton_step(lambda: model(random(4, 3).to(device)), parameters, damping=1.0),
    ]
    assert not any(output.requires_grad for output in outputs)
    assert torch.equal(as_vector(parameters), kept)
    assert all(torch.equal(p.grad, torch.full_like(p, 7.0)) for p in parameters if p.grad is not None)
    assert all(output.device.type == device.type for output in outputs)
