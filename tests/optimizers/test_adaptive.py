"""The adaptive steps: by hand, as a scalar rule, as torch's optimizers, in their limits, and what they refuse."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import pytorch_optimizer
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nnopt.devices import available_devices
from nnopt.models import mlp
from nnopt.optimizers import (
    Lion,
    adafactor_step,
    adagrad_step,
    adam_step,
    ademamix_step,
    gradient_step,
    lion_step,
    momentum_step,
    nadam_step,
    prodigy_step,
    radam_step,
    rmsprop_step,
)
from nnopt.seeding import seeds
from nnopt.training import grid, sweep

Rule = Callable[..., tuple[Tensor, ...]]

DECAY: dict[str, Any] = {"lr": 0.013, "weight_decay": 0.07}
FORM: dict[str, Any] = {**DECAY, "betas": (0.8, 0.93), "eps": 0.03}

# name -> our step with its number of states, torch's optimizer
CASES: dict[str, tuple[Rule, int, Callable[..., torch.optim.Optimizer]]] = {
    "Adagrad": (
        partial(adagrad_step, **DECAY, eps=1e-3),
        1,
        partial(torch.optim.Adagrad, **DECAY, eps=1e-3),
    ),
    "RMSprop": (
        partial(rmsprop_step, **DECAY, beta=0.93, eps=0.05),
        1,
        partial(torch.optim.RMSprop, **DECAY, alpha=0.93, eps=0.05),
    ),
    "Adam": (partial(adam_step, **FORM, decoupled=False), 2, partial(torch.optim.Adam, **FORM)),
    "AdamW": (partial(adam_step, **FORM), 2, partial(torch.optim.AdamW, **FORM)),
    "NAdam": (
        partial(nadam_step, **FORM, decoupled=False, momentum_decay=0.02),
        3,
        partial(torch.optim.NAdam, **FORM, momentum_decay=0.02),
    ),
    "NAdam, decoupled": (
        partial(nadam_step, **FORM),
        3,
        partial(torch.optim.NAdam, **FORM, decoupled_weight_decay=True),
    ),
    "RAdam": (partial(radam_step, **FORM, decoupled=False), 2, partial(torch.optim.RAdam, **FORM)),
    "RAdam, decoupled": (
        partial(radam_step, **FORM),
        2,
        partial(torch.optim.RAdam, **FORM, decoupled_weight_decay=True),
    ),
    "RAdam, never rectified": (
        partial(radam_step, lr=0.013, betas=(0.8, 0.5)),
        2,
        partial(torch.optim.RAdam, lr=0.013, betas=(0.8, 0.5)),
    ),
    "Adafactor": (
        partial(adafactor_step, **DECAY, decay_power=0.6, max_update=1.3, min_scale=0.02),
        2,
        partial(torch.optim.Adafactor, **DECAY, beta2_decay=-0.6, d=1.3, eps=(None, 0.02)),
    ),
    "Adafactor, beyond its cap": (partial(adafactor_step, lr=0.7), 2, partial(torch.optim.Adafactor, lr=0.7)),
    "Lion": (
        partial(lion_step, **DECAY, betas=(0.8, 0.93)),
        1,
        partial(pytorch_optimizer.Lion, **DECAY, betas=(0.8, 0.93)),
    ),
    "AdEMAMix": (
        partial(ademamix_step, **FORM, slow_beta=0.97, slow_weight=3.0),
        3,
        partial(pytorch_optimizer.AdEMAMix, **{**FORM, "betas": (0.8, 0.93, 0.97)}, alpha=3.0, weight_decouple=True),
    ),
}
STEPS: dict[str, tuple[Rule, int]] = {
    "adagrad": (adagrad_step, 1),
    "rmsprop": (rmsprop_step, 1),
    "adam": (adam_step, 2),
    "adafactor": (adafactor_step, 2),
    "nadam": (nadam_step, 3),
    "radam": (radam_step, 2),
    "lion": (lion_step, 1),
    "ademamix": (ademamix_step, 3),
}
WITHOUT_STEP = ("adagrad", "rmsprop", "lion", "Adagrad", "RMSprop", "Lion")


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def numbered(name: str, step: int) -> dict[str, int]:
    return {} if name in WITHOUT_STEP else {"step": step}


@pytest.fixture
def double() -> Iterator[None]:
    """Torch keeps NAdam's product in the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def loss(matrix: Tensor, weights: Tensor) -> Tensor:
    return (matrix @ weights).tanh().square().sum() + weights.cos().sum() / 3


def distance(name: str, rule: Rule, dtype: torch.dtype, device: torch.device, num_steps: int = 50) -> float:
    """Largest difference to torch over a whole trajectory of a matrix and a vector."""
    _, num_states, make = CASES[name]
    matrix = random(7, 4, dtype=dtype).to(device)
    starts = [random(4, 3, seed=1, dtype=dtype).to(device), random(4, seed=2, dtype=dtype).to(device)]
    theirs = [start.clone().requires_grad_() for start in starts]
    optimizer = make(theirs)
    ours, states = list(starts), [[torch.zeros_like(start)] * num_states for start in starts]
    largest = 0.0
    for step in range(1, num_steps + 1):
        optimizer.zero_grad()
        sum(loss(matrix, weights) for weights in theirs).backward()  # type: ignore[union-attr]
        optimizer.step()
        for i, parameter in enumerate(ours):
            leaf = parameter.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(loss(matrix, leaf), leaf)
            ours[i], *states[i] = rule(parameter, gradient, *states[i], **numbered(name, step))
            assert ours[i].dtype == dtype
            largest = max(largest, float((ours[i] - theirs[i].detach()).abs().max()))
    assert float((theirs[0].detach() - starts[0]).abs().max()) > 0.05
    return largest


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("device", available_devices(), ids=str)
@pytest.mark.parametrize("name", CASES)
def test_fifty_steps_equal_the_library(name: str, device: torch.device) -> None:
    assert distance(name, CASES[name][0], torch.float64, device) < 1e-12


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("Lion", "AdEMAMix")])
def test_fifty_steps_in_float32_equal_torch_to_rounding(name: str) -> None:
    assert distance(name, CASES[name][0], torch.float32, torch.device("cpu")) < 1e-4


def without_correction(parameter: Tensor, gradient: Tensor, *state: Tensor, step: int) -> tuple[Tensor, ...]:
    return adam_step(parameter, gradient, *state, step=10**6 + step, **FORM)


def eps_before_correction(parameter: Tensor, gradient: Tensor, *state: Tensor, step: int) -> tuple[Tensor, ...]:
    form = {**FORM, "eps": FORM["eps"] / math.sqrt(1 - FORM["betas"][1] ** step)}
    return adam_step(parameter, gradient, *state, step=step, **form)


def counted_from_zero(parameter: Tensor, gradient: Tensor, *state: Tensor, step: int) -> tuple[Tensor, ...]:
    return adam_step(parameter, gradient, *state, step=max(step - 1, 1), **FORM)


@pytest.mark.parametrize(
    "faulty",
    [without_correction, eps_before_correction, counted_from_zero, partial(adam_step, **FORM, decoupled=False)],
    ids=["no bias correction", "ε before it", "a step behind", "decay in the gradient"],
)
def test_planted_faults_of_adam_are_seen(faulty: Rule) -> None:
    assert distance("AdamW", faulty, torch.float64, torch.device("cpu")) > 1e-4


def test_torch_keeps_nadams_product_in_float32() -> None:
    rule = CASES["NAdam"][0]
    assert 1e-12 < distance("NAdam", rule, torch.float64, torch.device("cpu")) < 1e-6


def test_two_steps_by_hand() -> None:
    start, slope = torch.tensor([1.0, -1.0]), torch.tensor([3.0, -0.5])
    zeros = torch.zeros(2)
    new, total = adagrad_step(start, slope, zeros, lr=0.5, eps=0.0)
    assert (new.tolist(), total.tolist()) == ([0.5, -0.5], [9.0, 0.25])
    assert adagrad_step(new, torch.tensor([4.0, 0.0]), total, lr=0.5, eps=0.0)[0].tolist() == pytest.approx([0.1, -0.5])
    new, mean = rmsprop_step(start, slope, zeros, lr=0.5, beta=0.75, eps=0.0)
    assert (new.tolist(), mean.tolist()) == ([0.0, 0.0], [2.25, 0.0625])
    new, first, second = adam_step(start, slope, zeros, zeros, step=1, lr=0.5, betas=(0.5, 0.75), eps=0.0)
    assert (new.tolist(), first.tolist(), second.tolist()) == ([0.5, -0.5], [1.5, -0.25], [2.25, 0.0625])
    # m = .5·1.5 + .5·(−3) = −.75, over 1 − .25; v = .75·2.25 + .25·9 = 3.9375, over 1 − .5625
    new, *_ = adam_step(
        new[:1], torch.tensor([-3.0]), first[:1], second[:1], step=2, lr=0.5, betas=(0.5, 0.75), eps=0.0
    )
    assert new.tolist() == pytest.approx([0.5 + 0.5 * 1.0 / 3.0])
    new, average = lion_step(start, slope, zeros, lr=0.5, betas=(0.9, 0.75))
    assert (new.tolist(), average.tolist()) == ([0.5, -0.5], [0.75, -0.125])
    assert lion_step(new, torch.tensor([-6.0, 2.0]), average, lr=0.5, betas=(0.9, 0.75))[0].tolist() == [0.0, -1.0]


@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.5, 0.0), (0.95, 0.95), (0.3, 0.99), (0.0, 0.5)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_class_of_lion_remembers_what_the_rule_does(betas: tuple[float, float], dtype: torch.dtype) -> None:
    """Its fast path takes the sign in the memory's place, which costs roundings of the largest gradient so far."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(200, generator=generator).to(dtype)
    fast, slow = start.clone().requires_grad_(), start.clone().requires_grad_()
    one, other = Lion([fast], lr=0.01, betas=betas), Lion([slow], lr=0.01, betas=betas, foreach=False)
    plain = start.clone().requires_grad_()
    third = Lion([plain], lr=0.01, betas=betas, foreach=True)
    largest = 0.0
    for step in range(20):
        gradient = torch.randn(200, generator=generator) * (100.0 if step % 7 == 3 else 1.0)
        fast.grad, slow.grad, plain.grad = gradient.to(dtype), gradient.to(dtype), gradient.to(dtype)
        largest = max(largest, float(gradient.abs().max()))
        one.step()
        other.step()
        third.step()
        off = (one.state[fast]["exp_avg"].double() - other.state[slow]["exp_avg"].double()).abs()
        assert float(off.max()) <= torch.finfo(dtype).eps * largest, step
    torch.testing.assert_close(fast, slow, atol=40 * torch.finfo(dtype).eps, rtol=0)
    if dtype.itemsize < 4:  # it has no digits to lend: the plain path, to the last bit
        assert torch.equal(one.state[fast]["exp_avg"], third.state[plain]["exp_avg"])


def test_lion_stands_still_where_the_average_is_exactly_zero() -> None:
    new, average = lion_step(torch.ones(2), torch.tensor([-1.0, 1.0]), torch.ones(2), lr=0.5, betas=(0.5, 0.5))
    assert new.tolist() == [1.0, 0.5]
    assert average.tolist() == [0.0, 1.0]


def test_adam_follows_the_scalar_rule_in_each_coordinate() -> None:
    parameter, gradient, first, second = random(3, 5), random(3, 5, seed=1), random(3, 5, seed=2), random(3, 5).square()
    new, *_ = adam_step(parameter, gradient, first, second, step=7, **FORM)
    for i in range(3):
        for j in range(5):
            g = gradient[i, j].item()
            m = 0.8 * first[i, j].item() + (1 - 0.8) * g
            v = 0.93 * second[i, j].item() + (1 - 0.93) * g * g
            step = m / (1 - 0.8**7) / (math.sqrt(v / (1 - 0.93**7)) + 0.03)
            scalar = parameter[i, j].item() * (1 - 0.013 * 0.07) - 0.013 * step
            assert new[i, j].item() == pytest.approx(scalar, rel=1e-14)


@given(st.floats(-4, 4), st.floats(0.01, 10))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_the_first_step_of_adam_is_the_learning_rate_whatever_the_gradient(power: float, lr: float) -> None:
    gradient = torch.tensor([10.0**power, -(10.0**power)], dtype=torch.float64)
    zeros = torch.zeros(2, dtype=torch.float64)
    new, *_ = adam_step(zeros, gradient, zeros, zeros, step=1, lr=lr)
    torch.testing.assert_close(new, torch.tensor([-lr, lr], dtype=torch.float64), rtol=2e-4, atol=0)


@pytest.mark.parametrize("name", ["adagrad", "rmsprop", "adam", "nadam", "lion"])
def test_without_eps_the_path_does_not_know_the_unit_of_the_loss(name: str) -> None:
    rule, num_states = STEPS[name]
    options: dict[str, Any] = {"lr": 0.1} if name == "lion" else {"lr": 0.1, "eps": 0.0}
    paths = []
    for unit in (1.0, 2.0**20):
        parameter, states = random(6), [torch.zeros(6, dtype=torch.float64)] * num_states
        for step in range(1, 21):
            parameter, *states = rule(parameter, unit * parameter.sin(), *states, **numbered(name, step), **options)
        paths.append(parameter)
    torch.testing.assert_close(*paths, rtol=1e-12, atol=1e-12)


def test_a_large_eps_turns_adam_into_momentum() -> None:
    adam = ball = random(5)
    first = second = buffer = torch.zeros(5, dtype=torch.float64)
    for step in range(1, 200):
        adam, first, second = adam_step(adam, adam.sin(), first, second, step=step, lr=0.3 * 1e6, eps=1e6)
        # Adam's corrected mean is the buffer of the heavy ball times (1−β)/(1−βᵗ)
        _, buffer = momentum_step(ball, ball.sin(), buffer, lr=1.0, momentum=0.9)
        ball = ball - 0.3 * (1 - 0.9) / (1 - 0.9**step) * buffer
    torch.testing.assert_close(adam, ball, rtol=1e-5, atol=1e-5)


def test_without_memory_adam_and_rmsprop_are_descent_by_signs() -> None:
    parameter, gradient, zeros = random(4), random(4, seed=1), torch.zeros(4, dtype=torch.float64)
    signs = gradient_step(parameter, gradient.sign(), lr=0.7)
    torch.testing.assert_close(
        adam_step(parameter, gradient, zeros, zeros, step=3, lr=0.7, betas=(0.0, 0.0), eps=0.0)[0], signs
    )
    torch.testing.assert_close(rmsprop_step(parameter, gradient, zeros, lr=0.7, beta=0.0, eps=0.0)[0], signs)
    torch.testing.assert_close(lion_step(parameter, gradient, zeros, lr=0.7, betas=(0.0, 0.0))[0], signs)


def test_radam_is_momentum_for_five_steps_and_then_is_not() -> None:
    parameter, zeros = torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    first, second, moved = zeros, zeros, []
    for step in range(1, 8):
        new, first, second = radam_step(parameter, zeros + 1e-3, first, second, step=step, lr=0.5)
        moved.append(float(parameter - new))
        parameter = new
    assert moved[:5] == pytest.approx([0.5e-3] * 5)
    assert moved[5] > 5e-3  # the second moment is used, and only a small part of it trusted yet
    assert moved[6] > moved[5]


def test_adafactor_knows_squares_of_rank_one_exactly() -> None:
    rows, columns = random(4, 1, seed=1).exp(), random(1, 3, seed=2).exp()
    gradient = rows * columns * random(4, 3).sign()
    zeros = torch.zeros(4, 1, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64)
    start = torch.full((4, 3), 2.0, dtype=torch.float64)
    new, row, column = adafactor_step(start, gradient, *zeros, step=1, lr=0.25)
    torch.testing.assert_close(new, start - 0.25 * 2.0 * gradient.sign(), rtol=1e-12, atol=0)
    assert (row.shape, column.shape) == ((4, 1), (1, 3))


def test_adafactor_moves_a_parameter_of_zeros_and_leaves_an_empty_one() -> None:
    zeros = torch.zeros(3)
    assert adafactor_step(zeros, torch.ones(3), zeros, zeros, step=1, lr=0.25)[0].tolist() == pytest.approx(
        [-0.25e-3] * 3
    )
    empty = torch.zeros(0, 3)
    assert adafactor_step(empty, empty, empty, empty, step=1, lr=0.25)[0].shape == (0, 3)


def test_full_and_factored_states_of_adafactor_walk_alike() -> None:
    small = [torch.zeros(5, 4, 1, dtype=torch.float64), torch.zeros(5, 1, 3, dtype=torch.float64)]
    full = [torch.zeros(5, 4, 3, dtype=torch.float64)] * 2
    one = other = random(5, 4, 3)
    for step in range(1, 11):
        one, *small = adafactor_step(one, one.sin(), *small, step=step, lr=0.1)
        other, *full = adafactor_step(other, other.sin(), *full, step=step, lr=0.1)
    torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-13)
    assert [state.numel() for state in small] == [20, 15]


@pytest.mark.parametrize("name", STEPS)
def test_nothing_is_changed_in_place(name: str) -> None:
    rule, num_states = STEPS[name]
    arguments = [random(4, 3), random(4, 3, seed=1), *[random(4, 3, seed=2).square()] * num_states]
    kept = [tensor.clone() for tensor in arguments]
    rule(*arguments, lr=0.5, weight_decay=0.1, **numbered(name, 3))
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(arguments, kept, strict=True))


@pytest.mark.parametrize("shape", [(4, 3), (5,), ()], ids=str)
@pytest.mark.parametrize("name", STEPS)
def test_copies_with_their_own_settings_equal_separate_calls(name: str, shape: tuple[int, ...]) -> None:
    rule, num_states = STEPS[name]
    parameters, gradients = random(3, *shape), random(3, *shape, seed=1)
    states = [torch.zeros(3, *shape, dtype=torch.float64)] * num_states
    copies = {"copies": True} if name == "adafactor" else {}
    rates, decays = [0.1, 0.0, 2.0], [0.3, 0.0, 0.1]
    columns: dict[str, Any] = {
        key: torch.tensor(values, dtype=torch.float64).view(3, *[1] * len(shape))
        for key, values in (("lr", rates), ("weight_decay", decays))
    }
    singles = [(parameters[i], [state[i] for state in states]) for i in range(3)]
    for step in range(1, 8):
        parameters, *states = rule(parameters, gradients, *states, **columns, **copies, **numbered(name, step))
        for i, (parameter, state) in enumerate(singles):
            new, *state = rule(
                parameter, gradients[i], *state, lr=rates[i], weight_decay=decays[i], **numbered(name, step)
            )
            singles[i] = new, state
            torch.testing.assert_close(parameters[i], new, rtol=1e-14, atol=1e-14)


def test_betas_may_differ_between_copies() -> None:
    for name in ("adam", "nadam", "radam", "lion"):
        rule, num_states = STEPS[name]
        parameters, gradients = random(2, 4), random(2, 4, seed=1)
        zeros = [torch.zeros(2, 4, dtype=torch.float64)] * num_states
        pairs = [(0.9, 0.999), (0.5, 0.6)]
        columns = tuple(torch.tensor(column, dtype=torch.float64).view(2, 1) for column in zip(*pairs))
        together = rule(parameters, gradients, *zeros, lr=0.1, betas=columns, **numbered(name, 9))[0]
        for i, betas in enumerate(pairs):
            alone = rule(parameters[i], gradients[i], *[z[i] for z in zeros], lr=0.1, betas=betas, **numbered(name, 9))[
                0
            ]
            torch.testing.assert_close(together[i], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["adafactor", "nadam", "radam"])
def test_a_sweep_takes_the_rule_and_equals_its_runs_one_by_one(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(20, 4, generator=generator, dtype=torch.float64)

    def run(vectorize: bool) -> Tensor:
        return sweep(
            lambda generator: mlp((4, 5, 2), generator=generator).double(),
            STEPS[name][0],
            torch.nn.functional.mse_loss,
            (inputs, inputs[:, :2].sin()),
            settings=grid(lr=[0.01, 0.1]),
            seeds=seeds("optimizers/adaptive#test", 2),
            total_steps=8,
            batch_size=5,
            vectorize=vectorize,
        ).losses

    torch.testing.assert_close(run(True), run(False), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", STEPS)
def test_numbers_out_of_range_are_refused(name: str) -> None:
    rule, num_states = STEPS[name]
    some = [torch.ones(3)] * (2 + num_states)
    good: dict[str, Any] = {"lr": 0.1, **numbered(name, 1)}
    bad: list[dict[str, Any]] = [{"lr": -1.0}, {"lr": math.nan}, {"lr": torch.tensor([0.1, -1.0, 0.1])}]
    bad += [{"weight_decay": -0.1}, {"weight_decay": math.nan}]
    if name != "lion":
        bad += [{"eps": -1.0}, {"eps": math.nan}]
    if name == "rmsprop":
        bad += [{"beta": 1.0}, {"beta": math.nan}]
    if name == "ademamix":
        bad += [{"slow_beta": 1.0}, {"slow_weight": -1.0}, {"slow_weight": math.nan}]
    if name in ("adam", "nadam", "radam", "lion", "ademamix"):
        bad += [{"betas": (0.9, 1.0)}, {"betas": (math.nan, 0.9)}, {"betas": 0.9}, {"betas": (0.9,)}]
    if name == "nadam":
        bad += [{"momentum_decay": -1.0}]
    if name == "adafactor":
        bad += [{"decay_power": 0.0}, {"min_scale": -1.0}, {"max_update": 0.0}]
    if name not in WITHOUT_STEP:
        bad += [{"step": 0}]
    for wrong in bad:
        key = next(iter(wrong))
        with pytest.raises(ValueError, match=rf"{key}(\[\d\])? must be "):
            rule(*some, **{**good, **wrong})


@pytest.mark.parametrize("name", STEPS)
def test_tensors_that_do_not_fit_are_refused(name: str) -> None:
    rule, num_states = STEPS[name]
    good: dict[str, Any] = {"lr": 0.1, **numbered(name, 1)}
    with pytest.raises(ValueError, match=r"parameter and gradient must have the same shape, got \(3, 1\) and \(3,\)"):
        rule(torch.ones(3, 1), torch.ones(3), *[torch.ones(3, 1)] * num_states, **good)
    with pytest.raises(ValueError, match=r"must have (the same )?shape|must broadcast to shape"):
        rule(torch.ones(3), torch.ones(3), *[torch.ones(2, 3)] * num_states, **good)
    if name == "nadam":
        with pytest.raises(ValueError, match=r"weight must broadcast to shape \(3,\), got \(2, 3\)"):
            rule(*[torch.ones(3)] * 4, torch.ones(2, 3), **good)
    if name not in WITHOUT_STEP:
        with pytest.raises(TypeError, match="step must be an integer, got float"):
            rule(*[torch.ones(3)] * (2 + num_states), lr=0.1, step=1.5)


# -- Prodigy, whose estimate belongs to a whole tensor -------------------------------------------------------


def prodigy_path(start: Tensor, num_steps: int, **options: Any) -> tuple[Tensor, Tensor]:
    """Return where it ends on a bent loss, and its estimates of the distance."""
    matrix = random(7, len(start))
    parameter, states, estimates = start, [torch.zeros_like(start)] * 5, []
    for step in range(1, num_steps + 1):
        leaf = parameter.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(matrix, leaf), leaf)
        parameter, *states = prodigy_step(parameter, gradient, *states, step=step, **options)
        estimates.append(states[-1][0])
    return parameter, torch.stack(estimates)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
def test_prodigy_equals_the_published_class_over_a_path_on_which_it_finds_its_length(weight_decay: float) -> None:
    start, matrix = random(5, seed=3), random(7, 5)
    options: dict[str, Any] = {"lr": 1.0, "betas": (0.8, 0.93), "eps": 1e-3, "weight_decay": weight_decay}
    theirs = start.clone().requires_grad_()
    oracle = pytorch_optimizer.Prodigy([theirs], **options, d0=1e-3, bias_correction=True, weight_decouple=True)
    for _ in range(100):
        oracle.zero_grad()
        loss(matrix, theirs).backward()
        oracle.step()
    ours, estimates = prodigy_path(start, 100, **options, initial=1e-3)
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-10, atol=1e-10)
    assert estimates[0] < 0.1 < estimates[-1]  # it did grow
    assert (estimates.diff() >= 0).all()


def test_prodigy_does_not_care_for_the_first_guess_of_the_distance() -> None:
    ends = [prodigy_path(random(5, seed=3), 200, lr=1.0, initial=initial)[1][-1] for initial in (1e-6, 1e-4)]
    assert 0.5 < float(ends[0] / ends[1]) < 2


@pytest.mark.parametrize("shape", [(4, 3), (5,), ()], ids=str)
def test_copies_of_prodigy_have_estimates_of_their_own(shape: tuple[int, ...]) -> None:
    parameters = random(3, *shape) * torch.tensor([1.0, 5.0, 0.0]).view(3, *[1] * len(shape))
    states = [torch.zeros_like(parameters)] * 5
    singles = [(parameters[i], [torch.zeros(shape, dtype=torch.float64)] * 5) for i in range(3)]
    options: dict[str, Any] = {"lr": 1.0, "initial": 1e-2, "weight_decay": 0.1}
    for step in range(1, 30):
        parameters, *states = prodigy_step(parameters, parameters.sin(), *states, step=step, copies=True, **options)
        for i, (parameter, state) in enumerate(singles):
            new, *state = prodigy_step(parameter, parameter.sin(), *state, step=step, **options)
            singles[i] = new, state
            torch.testing.assert_close(parameters[i], new, rtol=1e-12, atol=1e-12)
    assert parameters[2].abs().max() == 0  # no gradient, no step
    assert states[-1].shape == (3, 2)


def test_prodigy_changes_nothing_in_place_and_refuses_what_does_not_fit() -> None:
    rule: Rule = prodigy_step
    arguments = [random(4), random(4, seed=1), *[random(4, seed=2).square()] * 4, torch.tensor([0.1, 0.2]).double()]
    kept = [tensor.clone() for tensor in arguments]
    rule(*arguments, step=3, lr=1.0)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(arguments, kept, strict=True))
    with pytest.raises(ValueError, match=r"estimate must have shape \(2,\) after the first step, got \(3,\)"):
        rule(*arguments[:-1], torch.zeros(3), step=2, lr=1.0)
    with pytest.raises(ValueError, match="must have the same shape"):
        rule(*arguments[:4], torch.zeros(3), *arguments[5:], step=2, lr=1.0)
    for wrong in ({"initial": 0.0}, {"lr": -1.0}, {"eps": math.nan}, {"betas": (0.9, 1.0)}, {"step": 0}):
        with pytest.raises(ValueError, match="must be "):
            rule(*arguments, **{"lr": 1.0, "step": 2, **wrong})
