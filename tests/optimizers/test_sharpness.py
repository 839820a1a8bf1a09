"""Sharpness-aware steps: equal to a published class and to the pure function, and refusals that change nothing."""

import copy
import io
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
from nnopt.models import mlp
from nnopt.optimizers import (
    Lion,
    SharpnessAware,
    flat,
    gradient_step,
    measure_sharpness,
    sharpness_perturbation,
)
from nnopt.seeding import seeds
from nnopt.training import fit, grid, sweep

DEVICES = pytest.mark.parametrize("device", available_devices(), ids=str)


def network(seed: int = 0, device: torch.device | str = "cpu") -> nn.Module:
    return mlp((6, 5, 3), generator=torch.Generator().manual_seed(seed)).double().to(device)


def rows(step: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(8, 6, generator=generator, dtype=torch.float64)
    return inputs.to(device), torch.randint(3, (8,), generator=generator).to(device)


def closure_of(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> Callable[[], Tensor]:
    inputs, targets = rows(step, next(model.parameters()).device)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward()
        return loss

    return closure


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.step(closure_of(model, optimizer, step))  # type: ignore[arg-type]


def values(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def assert_close(one: nn.Module, other: nn.Module, tolerance: float = 1e-12) -> None:
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# -- the perturbation --------------------------------------------------------------------------------------


def test_the_way_by_hand() -> None:
    parameters = [torch.tensor([2.0]), torch.tensor([[1.0, 0.0]])]
    gradients = [torch.tensor([3.0]), torch.tensor([[0.0, 4.0]])]
    plain = sharpness_perturbation(parameters, gradients, radius=10.0)
    assert [way.tolist() for way in plain] == [[6.0], [[0.0, 8.0]]]
    # the second weight is zero: in relative units it cannot move, and the norm is that of (2·3, 1·0, 0·4)
    adaptive = sharpness_perturbation(parameters, gradients, radius=1.0, adaptive=True)
    assert [way.tolist() for way in adaptive] == [[2.0], [[0.0, 0.0]]]


def test_a_gradient_of_zero_and_a_radius_of_zero_go_nowhere() -> None:
    theta = [torch.ones(3)]
    for g, radius in ((torch.zeros(3), 0.5), (torch.ones(3), 0.0)):
        assert not sharpness_perturbation(theta, [g], radius=radius)[0].any()


@settings(derandomize=True, deadline=None, max_examples=30)
@given(scale=st.floats(0.1, 10.0), radius=st.floats(0.01, 2.0), seed=st.integers(0, 99))
def test_its_length_is_the_radius_and_only_the_direction_of_the_gradient_counts(
    scale: float, radius: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    theta = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((3, 2), (4,), ())]
    g = [torch.randn(t.shape, generator=generator, dtype=torch.float64) for t in theta]
    way = sharpness_perturbation(theta, g, radius=radius)
    assert math.isclose(torch.cat([w.flatten() for w in way]).norm().item(), radius, rel_tol=1e-9)
    again = sharpness_perturbation(theta, [scale * t for t in g], radius=radius)
    torch.testing.assert_close(again, way, rtol=1e-9, atol=1e-12)
    relative = sharpness_perturbation(theta, g, radius=radius, adaptive=True)
    lengths = torch.cat([(w / t).flatten() for w, t in zip(relative, theta, strict=True)])
    assert math.isclose(lengths.norm().item(), radius, rel_tol=1e-9)


def test_copies_have_norms_of_their_own() -> None:
    generator = torch.Generator().manual_seed(0)
    theta = [torch.randn((4, *shape), generator=generator) for shape in ((3, 2), (5,), ())]
    g = [torch.randn(t.shape, generator=generator) for t in theta]
    for adaptive in (False, True):
        together = sharpness_perturbation(theta, g, radius=0.3, adaptive=adaptive, copies=True)
        for row in range(4):
            alone = sharpness_perturbation([t[row] for t in theta], [t[row] for t in g], radius=0.3, adaptive=adaptive)
            torch.testing.assert_close([way[row] for way in together], alone)


def test_the_adaptive_way_does_not_see_a_rescaling_that_keeps_the_function() -> None:
    theta = torch.tensor([1.0, -2.0], dtype=torch.float64)
    g = torch.tensor([0.5, 3.0], dtype=torch.float64)
    unit = torch.tensor([10.0, 0.1], dtype=torch.float64)  # θ in other units: its gradient in the inverse ones
    (way,) = sharpness_perturbation([theta], [g], radius=0.4, adaptive=True)
    (other,) = sharpness_perturbation([unit * theta], [g / unit], radius=0.4, adaptive=True)
    torch.testing.assert_close(other, unit * way)


# -- the measure ---------------------------------------------------------------------------------------------


def test_the_rise_on_a_parabola_is_known() -> None:
    weight = torch.tensor([3.0, 4.0], dtype=torch.float64, requires_grad=True)
    rise = measure_sharpness(lambda: weight.square().sum() / 2, [weight], radius=0.5)
    assert math.isclose(rise, 5 * 0.5 + 0.5**2 / 2, rel_tol=1e-12)
    assert weight.tolist() == [3.0, 4.0]
    assert weight.grad is None


@DEVICES
def test_no_direction_drawn_at_random_rises_more_within_a_small_ball(device: torch.device) -> None:
    model = network(device=device)
    inputs, targets = rows(0, device)
    parameters: list[Tensor] = list(model.parameters())

    def loss_fn() -> Tensor:
        return F.cross_entropy(model(inputs), targets)

    radius = 1e-3
    rise = measure_sharpness(loss_fn, parameters, radius=radius)
    before = loss_fn().item()
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        noise = [torch.randn(p.shape, generator=generator, dtype=torch.float64).to(device) for p in parameters]
        length = torch.cat([n.flatten() for n in noise]).norm()
        with torch.no_grad():
            torch._foreach_add_(parameters, [radius * n / length for n in noise])
            assert loss_fn().item() - before < rise
            torch._foreach_sub_(parameters, [radius * n / length for n in noise])


def test_parameters_come_back_bit_for_bit_also_after_an_error() -> None:
    model = network()
    before = values(model)
    calls = []

    def broken() -> Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("no memory")
        return F.cross_entropy(model(rows(0)[0]), rows(0)[1])

    with pytest.raises(RuntimeError, match="no memory"):
        measure_sharpness(broken, list(model.parameters()), radius=0.3)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


# -- the class -----------------------------------------------------------------------------------------------


@DEVICES
@pytest.mark.parametrize("adaptive", [False, True])
def test_steps_are_those_of_a_published_class(device: torch.device, adaptive: bool) -> None:
    ours, theirs = network(device=device), network(device=device)
    optimizer = SharpnessAware(torch.optim.SGD(ours.parameters(), lr=0.1, momentum=0.9), radius=0.2, adaptive=adaptive)
    oracle = pytorch_optimizer.SAM(
        theirs.parameters(), torch.optim.SGD, rho=0.2, adaptive=adaptive, lr=0.1, momentum=0.9
    )
    for step in range(50):
        optimizer.step(closure_of(ours, optimizer, step))
        closure = closure_of(theirs, oracle, step)
        closure()
        oracle.step(closure)  # type: ignore[arg-type]
    assert_close(ours, theirs, 1e-8)  # theirs rounds the norm to float32


def slow_sam(model: nn.Module, steps: range, *, lr: float, momentum: float, radius: float, adaptive: bool) -> None:
    """SAM around heavy-ball descent, number by number."""
    numbers = [place for parameter in model.parameters() for place in parameter.detach().view(-1)]  # they share memory
    buffers = [0.0] * len(numbers)
    for step in steps:
        inputs, targets = rows(step)

        def gradient(inputs: Tensor = inputs, targets: Tensor = targets) -> list[float]:
            found = torch.autograd.grad(F.cross_entropy(model(inputs), targets), list(model.parameters()))
            return [float(number) for piece in found for number in piece.reshape(-1)]

        start, first = [float(number) for number in numbers], gradient()
        sizes = [abs(value) if adaptive else 1.0 for value in start]
        norm = math.sqrt(sum((size * slope) ** 2 for size, slope in zip(sizes, first, strict=True)))
        for number, value, size, slope in zip(numbers, start, sizes, first, strict=True):
            number.fill_(value + radius * size**2 * slope / norm)
        second = gradient()
        for i, (number, value, slope) in enumerate(zip(numbers, start, second, strict=True)):
            buffers[i] = momentum * buffers[i] + slope
            number.fill_(value - lr * buffers[i])


@pytest.mark.parametrize("adaptive", [False, True])
def test_fifty_steps_are_those_of_a_slow_twin(adaptive: bool) -> None:
    ours, slow, other = network(), network(), network()
    form: dict[str, Any] = {"lr": 0.1, "momentum": 0.9}
    optimizer = SharpnessAware(torch.optim.SGD(ours.parameters(), **form), radius=0.2, adaptive=adaptive)
    train(ours, optimizer, range(50))
    slow_sam(slow, range(50), radius=0.2, adaptive=adaptive, **form)
    assert_close(ours, slow, 1e-12)
    slow_sam(other, range(50), radius=0.2, adaptive=not adaptive, **form)
    assert not torch.allclose(next(other.parameters()), next(ours.parameters()), atol=1e-3)


def test_steps_are_those_of_the_pure_function_in_a_sweep() -> None:
    def aware(params: Any, lr: float) -> torch.optim.Optimizer:
        return SharpnessAware(torch.optim.SGD(params, lr=lr), radius=0.2)

    options: dict[str, Any] = {"settings": grid(lr=[0.1, 0.3]), "seeds": seeds("aware", 2), "total_steps": 20}
    options |= {"batch_size": 4}
    uphill = partial(sharpness_perturbation, radius=0.2)

    def make_model(generator: torch.Generator) -> nn.Module:
        return mlp((6, 5, 3), generator=generator).double()

    results = [
        sweep(make_model, aware, F.cross_entropy, rows(0), **options),
        sweep(make_model, gradient_step, F.cross_entropy, rows(0), perturb=uphill, **options),
    ]
    torch.testing.assert_close(results[0].losses, results[1].losses, rtol=1e-9, atol=1e-9)
    assert_close(results[0].model(1, 1), results[1].model(1, 1), 1e-9)


@pytest.mark.parametrize("kind", [torch.optim.SGD, Lion])
def test_a_radius_of_zero_is_the_base_and_takes_one_gradient(kind: Any) -> None:
    one, other = network(), network()
    base, aware = kind(one.parameters(), lr=0.01), SharpnessAware(kind(other.parameters(), lr=0.01), radius=0.0)
    calls = []
    for step in range(5):
        base.step(closure_of(one, base, step))
        closure = closure_of(other, aware, step)

        def counted(closure: Callable[[], Tensor] = closure) -> Tensor:
            calls.append(1)
            return closure()

        aware.step(counted)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert len(calls) == 5


def test_the_loss_is_that_of_the_parameters_and_the_second_gradient_that_of_the_worst_point() -> None:
    weight = torch.tensor([2.0], requires_grad=True)
    optimizer = SharpnessAware(torch.optim.SGD([weight], lr=0.0), radius=0.5)
    seen = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        assert torch.is_grad_enabled()
        seen.append(weight.item())
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0
    assert seen == [2.0, 2.5]
    assert weight.item() == 2.0
    assert weight.grad is not None
    assert weight.grad.item() == 5.0


def test_maximizing_goes_to_the_lowest_point_nearby() -> None:
    up, down = torch.tensor([2.0], requires_grad=True), torch.tensor([2.0], requires_grad=True)
    for weight, sign, maximize in ((up, -1.0, True), (down, 1.0, False)):
        optimizer = SharpnessAware(torch.optim.SGD([weight], lr=0.1, maximize=maximize), radius=0.5)

        def closure(weight: Tensor = weight, sign: float = sign, optimizer: SharpnessAware = optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = sign * weight.square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)
    assert up.item() == down.item() == pytest.approx(1.5)


def test_frozen_unreached_empty_and_single_parameters_do_not_disturb() -> None:
    live, single = torch.ones(2, requires_grad=True), torch.tensor(1.0, requires_grad=True)
    empty, unreached = torch.empty(0, requires_grad=True), torch.ones(2, requires_grad=True)
    frozen = torch.ones(2)
    optimizer = SharpnessAware(torch.optim.SGD([live, single, empty, unreached, frozen], lr=0.1), radius=0.1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (live.sum() + single) ** 2 + empty.sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert (live < 1).all()
    assert single < 1
    assert unreached.tolist() == frozen.tolist() == [1.0, 1.0]


def test_checkpoints_are_those_of_the_base_and_continue_bit_for_bit() -> None:
    one = network()
    optimizer = SharpnessAware(torch.optim.AdamW(one.parameters(), lr=0.01), radius=0.1)
    train(one, optimizer, range(3))
    file = io.BytesIO()
    torch.save({"model": one.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other = network(seed=1)
    resumed = SharpnessAware(torch.optim.AdamW(other.parameters(), lr=0.5), radius=0.1)
    other.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    assert resumed.param_groups is resumed.base.param_groups
    assert resumed.param_groups[0]["lr"] == 0.01
    plain = torch.optim.AdamW(network().parameters())
    plain.load_state_dict(saved["optimizer"])
    train(one, optimizer, range(3, 6))
    train(other, resumed, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_deep_copy_walks_alike_and_apart() -> None:
    model = network()
    optimizer = SharpnessAware(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), radius=0.1)
    train(model, optimizer, range(2))
    twin, other = copy.deepcopy((model, optimizer))
    assert other.param_groups is other.base.param_groups
    before = values(model)
    train(twin, other, range(2, 4))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    train(model, optimizer, range(2, 4))
    assert_close(model, twin, 0.0)


def test_what_the_base_replaces_is_seen_at_once() -> None:
    model = network()
    optimizer = SharpnessAware(torch.optim.SGD(model.parameters(), lr=0.1), radius=0.1)
    optimizer.base.load_state_dict(torch.optim.SGD(network().parameters(), lr=0.5).state_dict())
    assert optimizer.param_groups is optimizer.base.param_groups
    optimizer.param_groups[0]["lr"] = 0.0
    before = values(model)
    train(model, optimizer, range(1))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    buffered = SharpnessAware(flat(torch.optim.SGD(model.parameters(), lr=0.1)), radius=0.1)
    twin, other = copy.deepcopy((model, buffered))
    assert other.param_groups is other.base.param_groups
    train(model, buffered, range(2))
    train(twin, other, range(2))
    assert_close(model, twin)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_gradient_of_zero_goes_nowhere_in_half_precision_too(dtype: torch.dtype) -> None:
    (way,) = sharpness_perturbation([torch.ones(3, dtype=dtype)], [torch.zeros(3, dtype=dtype)], radius=0.5)
    assert way.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("copies", [False, True])
def test_small_and_large_numbers_in_half_precision_keep_their_way(dtype: torch.dtype, copies: bool) -> None:
    draw = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    for scale in (1e-7, 1.0, 3e4):
        for adaptive, size in ((False, 1.0), (True, 1e-3)):
            theta, g = [(size * draw).to(dtype)], [(scale * draw.flip(1).clamp(-2, 2)).to(dtype)]
            options: dict[str, Any] = {"radius": 0.5, "adaptive": adaptive, "copies": copies}
            (way,) = sharpness_perturbation(theta, g, **options)
            (exact,) = sharpness_perturbation([theta[0].double()], [g[0].double()], **options)
            assert way.dtype == dtype
            torch.testing.assert_close(way.double(), exact, rtol=1e-2, atol=1e-6)


def test_schedules_groups_and_fit_reach_the_base() -> None:
    model = network()
    extra = torch.ones(2, requires_grad=True)
    optimizer = SharpnessAware(torch.optim.SGD(model.parameters(), lr=0.1), radius=0.1)
    optimizer.add_param_group({"params": [extra], "lr": 0.5})
    assert [group["lr"] for group in optimizer.base.param_groups] == [0.1, 0.5]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    train(model, optimizer, range(1))
    schedule.step()
    assert [group["lr"] for group in optimizer.base.param_groups] == [0.05, 0.25]
    inputs, targets = rows(0)
    other = network()
    result = fit(
        other,
        SharpnessAware(torch.optim.SGD(other.parameters(), lr=0.3), radius=0.05),
        F.cross_entropy,
        [(inputs, targets)],
        num_epochs=30,
    )
    assert result.losses[-1] < 0.7 * result.losses[0]


def test_it_wraps_a_flat_optimizer() -> None:
    one, other = network(), network()
    plain = SharpnessAware(torch.optim.AdamW(one.parameters(), lr=0.01), radius=0.1)
    buffered = SharpnessAware(flat(torch.optim.AdamW(other.parameters(), lr=0.01)), radius=0.1)
    train(one, plain, range(10))
    train(other, buffered, range(10))
    assert_close(one, other, 1e-10)


def test_after_an_error_in_the_second_gradient_the_parameters_are_back() -> None:
    model = network()
    before = values(model)
    optimizer = SharpnessAware(torch.optim.SGD(model.parameters(), lr=0.1), radius=0.3)
    good, calls = closure_of(model, optimizer, 0), []

    def closure() -> Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("no memory")
        return good()

    with pytest.raises(RuntimeError, match="no memory"):
        optimizer.step(closure)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_refusals_name_what_is_wrong() -> None:
    model = network()
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    for radius in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="radius must be >= 0"):
            SharpnessAware(base, radius=radius)
        with pytest.raises(ValueError, match="radius must be >= 0"):
            measure_sharpness(lambda: torch.zeros(()), list(model.parameters()), radius=radius)
    with pytest.raises(TypeError, match="base must be Optimizer, got generator"):
        SharpnessAware(model.parameters(), radius=0.1)  # type: ignore[arg-type]
    for closed in (torch.optim.LBFGS(model.parameters()), SharpnessAware(base, radius=0.1)):
        with pytest.raises(TypeError, match="base must step without a closure, got"):
            SharpnessAware(closed, radius=0.1)
    with pytest.raises(TypeError, match="adaptive must be bool, got int"):
        SharpnessAware(base, radius=0.1, adaptive=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="closure must be given"):
        SharpnessAware(base, radius=0.1).step()
    with pytest.raises(ValueError, match="parameters must not be empty"):
        sharpness_perturbation([], [], radius=0.1)
    with pytest.raises(ValueError, match="gradients must be 1, one for each parameter, got 2"):
        sharpness_perturbation([torch.ones(1)], [torch.ones(1)] * 2, radius=0.1)
    with pytest.raises(ValueError, match="must have the same shape"):
        sharpness_perturbation([torch.ones(1)], [torch.ones(2)], radius=0.1)
    weight = torch.ones(1, requires_grad=True)
    with pytest.raises(ValueError, match="loss must be finite, got nan"):
        measure_sharpness(lambda: weight.sum() * math.nan, [weight], radius=0.1)
    with pytest.raises(ValueError, match=r"loss must be a single number, got shape \(1,\)"):
        measure_sharpness(lambda: weight, [weight], radius=0.1)
    with pytest.raises(ValueError, match=r"parameters\[0\] must be a leaf"):
        measure_sharpness(weight.sum, [2 * weight], radius=0.1)
    embedding = nn.Embedding(4, 2, sparse=True)
    sparse = SharpnessAware(torch.optim.SGD(embedding.parameters(), lr=0.1), radius=0.1)

    def closure() -> Tensor:
        sparse.zero_grad()
        loss: Tensor = embedding(torch.tensor([1])).sum()
        loss.backward()
        return loss

    before = embedding.weight.detach().clone()
    with pytest.raises(TypeError, match="gradients must be dense"):
        sparse.step(closure)
    assert torch.equal(before, embedding.weight.detach())
