"""Averages of weights: by hand, as torch's and the published classes, in their limits, and what they refuse."""

import copy
import gc
import io
import math
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import schedulefree
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from nnopt.devices import available_devices
from nnopt.models import mlp
from nnopt.optimizers import (
    Averaged,
    ScheduleFreeAdamW,
    SharpnessAware,
    adam_step,
    averaged_weights,
    ema_update,
    gradient_step,
    refresh_batchnorm,
    running_mean,
    schedule_free_adamw_step,
    schedule_free_step,
)
from nnopt.seeding import seeds
from nnopt.training import fit, grid, sweep

Rule = Callable[..., tuple[Tensor, ...]]
SGD: dict[str, Any] = {"momentum": 0.8, "weight_decay": 0.07}
ADAM: dict[str, Any] = {"betas": (0.8, 0.95), "eps": 0.03, "weight_decay": 0.07}


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def loss(matrix: Tensor, weights: Tensor) -> Tensor:
    return (matrix @ weights).tanh().square().sum() + weights.cos().sum() / 3


def gradient_at(matrix: Tensor, point: Tensor) -> Tensor:
    leaf = point.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(matrix, leaf), leaf)[0]


def rate(step: int) -> float:
    """Warm up over ten of the steps, and stay: the package weights a falling rate otherwise."""
    return 0.05 * min(step / 10, 1.0)


def walk(rule: Rule, num_states: int, start: Tensor, matrix: Tensor, *, numbered: bool) -> list[tuple[Tensor, Tensor]]:
    """Return y and x after each of 50 steps of a pure rule."""
    point, states, path = start, [torch.zeros_like(start)] * num_states, []
    for step in range(1, 51):
        told = {"step": step} if numbered else {}
        point, *states = rule(point, gradient_at(matrix, point), *states, lr=rate(step), **told)
        path.append((point, averaged_weights(point, *states)))
    return path


def walk_of_package(make: Callable[..., Any], start: Tensor, matrix: Tensor) -> list[tuple[Tensor, Tensor]]:
    theirs = start.clone().requires_grad_()
    optimizer = make([theirs])
    path = []
    for step in range(1, 51):
        optimizer.train()
        optimizer.param_groups[0]["lr"] = rate(step)
        theirs.grad = gradient_at(matrix, theirs)
        optimizer.step()
        y = theirs.detach().clone()
        optimizer.eval()
        path.append((y, theirs.detach().clone()))
    return path


def distance(one: list[tuple[Tensor, Tensor]], other: list[tuple[Tensor, Tensor]]) -> float:
    return max(float((a - b).abs().max()) for pairs in zip(one, other, strict=True) for a, b in zip(*pairs))


CASES: dict[str, tuple[Rule, int, bool, Callable[..., Any]]] = {
    "SGD": (partial(schedule_free_step, **SGD), 2, False, partial(schedulefree.SGDScheduleFree, lr=1.0, **SGD)),
    "AdamW": (
        partial(schedule_free_adamw_step, **ADAM), 3, True, partial(schedulefree.AdamWScheduleFree, lr=1.0, **ADAM),
    ),
    "AdamW, the package's slow twin": (
        partial(schedule_free_adamw_step, **ADAM), 3, True, partial(schedulefree.AdamWScheduleFreeReference, **ADAM),
    ),
}  # fmt: skip


@pytest.mark.parametrize("device", available_devices(), ids=str)
@pytest.mark.parametrize("name", CASES)
def test_fifty_schedule_free_steps_equal_the_package(name: str, device: torch.device) -> None:
    rule, num_states, numbered, make = CASES[name]
    start, matrix = random(4, 3, seed=1).to(device), random(7, 4).to(device)
    ours = walk(rule, num_states, start, matrix, numbered=numbered)
    assert distance(ours, walk_of_package(make, start, matrix)) < 1e-12
    assert float((ours[-1][1] - start).abs().max()) > 0.05
    assert float((ours[-1][1] - ours[-1][0]).abs().max()) > 1e-3


def at_the_average(parameter: Tensor, gradient: Tensor, *states: Tensor, **options: Any) -> tuple[Tensor, ...]:
    y, gap, *others = schedule_free_adamw_step(parameter, gradient, *states, **options)
    return y - gap, gap, *others


def equal_shares(parameter: Tensor, gradient: Tensor, *states: Tensor, lr: float, **options: Any) -> tuple[Tensor, ...]:
    gap, total, second = states
    total = torch.full_like(total, (options["step"] - 1) * lr * lr)
    return schedule_free_adamw_step(parameter, gradient, gap, total, second, lr=lr, **options)


@pytest.mark.parametrize(
    "faulty",
    [
        partial(at_the_average, **ADAM),
        partial(equal_shares, **ADAM),
        partial(schedule_free_adamw_step, **{**ADAM, "weight_decay": 0.0}),
        partial(schedule_free_adamw_step, **{**ADAM, "betas": (0.75, 0.95)}),
    ],
    ids=["gradients at x", "shares without the warm-up", "no decay", "another β₁"],
)
def test_planted_faults_of_the_step_are_seen(faulty: Rule) -> None:
    start, matrix = random(4, 3, seed=1), random(7, 4)
    theirs = walk_of_package(CASES["AdamW"][3], start, matrix)
    assert distance(walk(faulty, 3, start, matrix, numbered=True), theirs) > 1e-4


@pytest.mark.parametrize("device", available_devices(), ids=str)
@pytest.mark.parametrize("foreach", [None, True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_class_equals_the_package_on_every_path(
    foreach: bool | None, dtype: torch.dtype, device: torch.device
) -> None:
    matrix = random(7, 4, dtype=dtype).to(device)
    starts = [random(4, 3, seed=1, dtype=dtype).to(device), random(4, seed=2, dtype=dtype).to(device)]
    ours, theirs = ([start.clone().requires_grad_() for start in starts] for _ in range(2))
    optimizer = ScheduleFreeAdamW(ours, foreach=foreach, **ADAM)
    package = schedulefree.AdamWScheduleFree(theirs, **ADAM)
    package.train()
    for step in range(1, 51):
        optimizer.param_groups[0]["lr"] = package.param_groups[0]["lr"] = rate(step)
        for one, other in zip(ours, theirs, strict=True):
            one.grad, other.grad = gradient_at(matrix, one), gradient_at(matrix, other)
        optimizer.step()
        package.step()
    tolerance = 1e-12 if dtype == torch.float64 else 1e-4
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
    package.eval()
    with optimizer.averaged():
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_two_schedule_free_steps_by_hand() -> None:
    y, gap, total = torch.tensor([1.0]), torch.zeros(1), torch.zeros(())
    y, gap, total = schedule_free_step(y, torch.tensor([2.0]), gap, total, lr=0.5, momentum=0.75)
    # z = 1 − .5·2 = 0, and the mean of one value is that value
    assert (y.item(), gap.item(), total.item()) == (0.0, 0.0, 0.25)
    y, gap, total = schedule_free_step(y, torch.tensor([-4.0]), gap, total, lr=1.0, momentum=0.75)
    # z = 0 + 4, its share 1/1.25 = .8, x = .2·0 + .8·4 = 3.2, y = .25·4 + .75·3.2 = 3.4
    assert y.item() == pytest.approx(3.4)
    assert averaged_weights(y, gap).item() == pytest.approx(3.2)
    assert total.item() == 1.25


def test_without_momentum_gradients_are_taken_at_z_and_x_is_the_plain_mean() -> None:
    matrix, start = random(7, 4), random(4, 3, seed=1)
    z, y, states, mean = start, start, [torch.zeros_like(start)] * 2, start
    for step in range(1, 21):
        z = gradient_step(z, gradient_at(matrix, z), lr=0.1)
        mean = running_mean(mean, z, step=step)
        y, *states = schedule_free_step(y, gradient_at(matrix, y), *states, lr=0.1, momentum=0.0)
        torch.testing.assert_close(y, z, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(averaged_weights(y, *states), mean, rtol=1e-12, atol=1e-12)


def test_the_first_schedule_free_step_is_adams_first() -> None:
    start, gradient = random(5), random(5, seed=1)
    zeros = torch.zeros_like(start)
    options: dict[str, Any] = {"step": 1, "lr": 0.3, "eps": 0.1, "weight_decay": 0.2}
    ours = schedule_free_adamw_step(start, gradient, zeros, zeros, zeros, **options)[0]
    torch.testing.assert_close(ours, adam_step(start, gradient, zeros, zeros, **options)[0], rtol=1e-14, atol=1e-14)


def test_a_rate_of_zero_leaves_points_and_shares() -> None:
    y, gap, total = random(3), 0.1 * random(3, seed=1), torch.full((3,), 0.5, dtype=torch.float64)
    after = schedule_free_step(y, random(3, seed=2), gap, total, lr=0.0)
    for old, new in zip((y, gap, total), after, strict=True):
        torch.testing.assert_close(new, old, rtol=1e-15, atol=1e-15)
    zeros = torch.zeros(3)
    assert schedule_free_step(torch.ones(3), torch.ones(3), zeros, zeros, lr=0.0)[0].tolist() == [1.0, 1.0, 1.0]


@given(st.integers(1, 40), st.floats(0.0, 0.99), st.integers(0, 5))
@settings(derandomize=True, deadline=None, max_examples=30)
def test_an_average_lies_between_the_smallest_and_the_largest_value(count: int, decay: float, seed: int) -> None:
    values = random(count, seed=seed)
    ema = mean = values[0]
    warm = values[0]
    for step, value in enumerate(values, start=1):
        ema = ema_update(ema, value, decay=decay)
        warm = ema_update(warm, value, decay=decay, step=step)
        mean = running_mean(mean, value, step=step)
    for average in (ema, warm, mean):
        assert float(values.min()) - 1e-12 <= float(average) <= float(values.max()) + 1e-12
    assert float(mean) == pytest.approx(float(values.mean()))


def test_warm_up_of_an_average_starts_short_and_ends_at_the_decay() -> None:
    one, two = torch.tensor([0.0]), torch.tensor([1.0])
    assert ema_update(one, two, decay=0.9, step=1).item() == pytest.approx(1 - 2 / 11)
    assert ema_update(one, two, decay=0.9, step=10**6).item() == pytest.approx(0.1)
    assert ema_update(one, two, decay=0.1, step=1).item() == pytest.approx(0.9)
    column = torch.tensor([0.1, 0.9])
    both = ema_update(torch.zeros(2), torch.ones(2), decay=column, step=1)
    assert both.tolist() == pytest.approx([0.9, 1 - 2 / 11])


@pytest.mark.parametrize("shape", [(4, 3), (5,), ()], ids=str)
def test_copies_with_their_own_settings_equal_separate_calls(shape: tuple[int, ...]) -> None:
    rules: list[tuple[Rule, int, bool]] = [(schedule_free_step, 2, False), (schedule_free_adamw_step, 3, True)]
    for rule, count, adam in rules:
        y, gradients = random(3, *shape), random(3, *shape, seed=1)
        states = [torch.zeros(3, *shape, dtype=torch.float64)] * count
        rates, decays = [0.1, 0.0, 2.0], [0.3, 0.0, 0.1]
        columns = {
            key: torch.tensor(values, dtype=torch.float64).view(3, *[1] * len(shape))
            for key, values in (("lr", rates), ("weight_decay", decays))
        }
        singles = [(y[i], [state[i] for state in states]) for i in range(3)]
        for step in range(1, 6):
            told = {"step": step} if adam else {}
            y, *states = rule(y, gradients, *states, **columns, **told)
            for i, (point, own) in enumerate(singles):
                new, *own = rule(point, gradients[i], *own, lr=rates[i], weight_decay=decays[i], **told)
                singles[i] = new, own
                torch.testing.assert_close(y[i], new, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("rule", [schedule_free_step, schedule_free_adamw_step])
def test_a_sweep_takes_the_rule_and_answers_with_the_averaged_weights(rule: Rule) -> None:
    inputs = random(20, 4)
    drawn = seeds("optimizers/averaging#test", 2)

    def run(**options: Any) -> Any:
        return sweep(
            lambda generator: mlp((4, 5, 2), generator=generator).double(),
            rule,
            nn.functional.mse_loss,
            (inputs, inputs[:, :2].sin()),
            settings=grid(lr=[0.01, 0.1]),
            seeds=drawn,
            total_steps=8,
            batch_size=5,
            **options,
        )

    fast, slow = run(weights_of=averaged_weights), run(weights_of=averaged_weights, vectorize=False)
    torch.testing.assert_close(fast.losses, slow.losses, rtol=1e-10, atol=1e-10)
    plain = run()
    torch.testing.assert_close(plain.losses, fast.losses, rtol=0, atol=0)
    for setting in range(2):
        one, other, trained = (dict(r.model(setting, 1).named_parameters()) for r in (fast, slow, plain))
        for name, value in one.items():
            torch.testing.assert_close(value, other[name], rtol=1e-10, atol=1e-10)
        assert any(float((value - trained[name]).detach().abs().max()) > 1e-6 for name, value in one.items())


def test_steps_and_averages_change_nothing_in_place() -> None:
    arguments = [random(4, 3), random(4, 3, seed=1), *[random(4, 3, seed=2).square()] * 3]
    kept = [tensor.clone() for tensor in arguments]
    schedule_free_step(*arguments[:4], lr=0.5, weight_decay=0.1)
    schedule_free_adamw_step(*arguments, step=3, lr=0.5, weight_decay=0.1)
    ema_update(arguments[0], arguments[1], decay=0.5, step=2)
    running_mean(arguments[0], arguments[1], step=2)
    averaged_weights(arguments[0], arguments[1])
    assert all(torch.equal(tensor, copied) for tensor, copied in zip(arguments, kept, strict=True))


def test_numbers_and_shapes_that_do_not_fit_are_refused() -> None:
    one, two = torch.ones(3), torch.ones(3, 1)
    for wrong in (-0.1, 1.1, math.nan, torch.tensor([0.5, 2.0, 0.5])):
        with pytest.raises(ValueError, match=r"decay must be in \[0, 1\]"):
            ema_update(one, one, decay=wrong)
    with pytest.raises(ValueError, match="step must be >= 1, got 0"):
        ema_update(one, one, decay=0.5, step=0)
    with pytest.raises(TypeError, match="step must be an integer"):
        running_mean(one, one, step=1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="step must be >= 1, got 0"):
        running_mean(one, one, step=0)
    with pytest.raises(ValueError, match="average and value must have the same shape"):
        ema_update(one, two, decay=0.5)
    with pytest.raises(ValueError, match="mean and value must have the same shape"):
        running_mean(one, two, step=1)
    with pytest.raises(ValueError, match="parameter and gap must have the same shape"):
        averaged_weights(one, two)
    bad: list[tuple[str, Any]] = [("lr", -1.0), ("lr", math.nan), ("weight_decay", -1.0)]
    for name, value in [*bad, ("momentum", 1.0), ("momentum", math.nan)]:
        with pytest.raises(ValueError, match=f"{name} must be"):
            schedule_free_step(one, one, one, one, **{"lr": 0.1, name: value})
    for name, value in [*bad, ("betas", (1.0, 0.9)), ("betas", (0.9,)), ("eps", -1.0), ("step", 0)]:
        with pytest.raises(ValueError, match=rf"{name}(\[0\])? must be"):
            schedule_free_adamw_step(one, one, one, one, one, **{"lr": 0.1, "step": 1, name: value})
    with pytest.raises(ValueError, match="parameter and gradient must have the same shape"):
        schedule_free_step(one, two, one, one, lr=0.1)
    with pytest.raises(ValueError, match="parameter and second must have the same shape"):
        schedule_free_adamw_step(one, one, one, one, two, step=1, lr=0.1)
    with pytest.raises(ValueError, match=r"weight_sum must broadcast to shape \(3,\), got \(2, 3\)"):
        schedule_free_step(one, one, one, torch.ones(2, 3), lr=0.1)


# the class: what cannot be forgotten


def trained_network() -> tuple[nn.Module, ScheduleFreeAdamW, Tensor]:
    model = mlp((4, 5, 2), generator=torch.Generator().manual_seed(0))
    optimizer = ScheduleFreeAdamW(model.parameters(), lr=0.1, guard=model)
    inputs = random(6, 4, dtype=torch.float32)
    for _ in range(5):
        optimizer.zero_grad()
        model(inputs).square().sum().backward()
        optimizer.step()
    return model, optimizer, inputs


def values(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_averaged_weights_are_there_inside_and_the_others_bit_for_bit_afterwards() -> None:
    model, optimizer, inputs = trained_network()
    before = values(model)
    with optimizer.averaged():
        inside = values(model)
        assert torch.is_grad_enabled()
        model.eval()(inputs)
    for y, x, parameter in zip(before, inside, model.parameters(), strict=True):
        gap = optimizer.state[parameter]["gap"]
        assert torch.equal(x, y - gap)
        assert float(gap.abs().max()) > 0
        assert torch.equal(parameter.detach(), y)
    with pytest.raises(KeyError, match="planted"), optimizer.averaged():
        raise KeyError("planted")
    assert all(torch.equal(p.detach(), y) for p, y in zip(model.parameters(), before, strict=True))


def test_evaluation_outside_is_refused_by_the_guard_and_only_of_the_model_itself() -> None:
    model, optimizer, inputs = trained_network()
    model.eval()
    with pytest.raises(RuntimeError, match=r"evaluation must be inside `with optimizer.averaged\(\):`"):
        model(inputs)
    with optimizer.averaged():
        answer = model(inputs)
        taken = copy.deepcopy(model)
    assert torch.equal(taken(inputs), answer)
    assert torch.equal(pickle.loads(pickle.dumps(taken))(inputs), answer)
    assert not torch.equal(model.train()(inputs), answer)


def test_an_error_while_weights_are_put_in_leaves_no_mixture(monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer, inputs = trained_network()
    before = values(model)
    calls = iter([averaged_weights] * 3)  # and none for the fourth, the last
    monkeypatch.setattr("nnopt.optimizers._schedule_free.averaged_weights", lambda *tensors: next(calls)(*tensors))
    with pytest.raises((StopIteration, RuntimeError)), optimizer.averaged():
        pass
    assert all(torch.equal(p.detach(), y) for p, y in zip(model.parameters(), before, strict=True))
    with pytest.raises(RuntimeError, match="evaluation must be inside"):
        model.eval()(inputs)
    optimizer.step()


def test_the_latest_guard_of_the_same_parameters_decides_and_those_of_others_stay() -> None:
    model, first, inputs = trained_network()
    second = ScheduleFreeAdamW(model.parameters(), guard=model)
    assert len(model._forward_pre_hooks) == 1
    with second.averaged():
        model.eval()(inputs)
    with first.averaged(), pytest.raises(RuntimeError, match="evaluation must be inside"):
        model.eval()(inputs)
    weights, biases = [p for p in model.parameters() if p.ndim == 2], [p for p in model.parameters() if p.ndim == 1]
    two, one = ScheduleFreeAdamW(weights, guard=model), ScheduleFreeAdamW(biases, guard=model)
    assert len(model._forward_pre_hooks) == 2
    with two.averaged():
        with pytest.raises(RuntimeError, match="evaluation must be inside"):
            model.eval()(inputs)
        with one.averaged():
            model.eval()(inputs)
    del two, one
    gc.collect()
    model.eval()(inputs)
    third = ScheduleFreeAdamW(model.parameters(), guard=model)
    assert len(model._forward_pre_hooks) == 1
    with third.averaged():
        model.eval()(inputs)


def test_validation_in_fit_is_refused_outside_and_works_inside() -> None:
    inputs = random(6, 4, dtype=torch.float32)
    data = [(inputs, inputs[:, :2])]

    def run(validate: Callable[..., Tensor]) -> Any:
        model = mlp((4, 5, 2), generator=torch.Generator().manual_seed(0))
        optimizer = ScheduleFreeAdamW(model.parameters(), lr=0.1, guard=model)
        check = partial(validate, optimizer=optimizer)
        return fit(model, optimizer, nn.functional.mse_loss, data, num_epochs=3, validate=check)

    def right(model: nn.Module, optimizer: ScheduleFreeAdamW) -> Tensor:
        with optimizer.averaged():
            return nn.functional.mse_loss(model(inputs), inputs[:, :2])

    def wrong(model: nn.Module, optimizer: ScheduleFreeAdamW) -> Tensor:
        return nn.functional.mse_loss(model(inputs), inputs[:, :2])

    assert len(run(right).validation_losses) == 3
    with pytest.raises(RuntimeError, match="evaluation must be inside"):
        run(wrong)


def test_steps_and_checkpoints_inside_are_refused() -> None:
    _, optimizer, _ = trained_network()
    with optimizer.averaged():
        with pytest.raises(RuntimeError, match="a step must be outside"):
            optimizer.step()
        with pytest.raises(RuntimeError, match="a checkpoint of the optimizer must be outside"):
            optimizer.state_dict()
        with pytest.raises(RuntimeError, match="loading a checkpoint must be outside"):
            optimizer.load_state_dict({"state": {}, "param_groups": []})
        with pytest.raises(RuntimeError, match="a copy of the optimizer must be outside"):
            copy.deepcopy(optimizer)
        with pytest.raises(RuntimeError, match=r"averaged\(\) again must be outside"), optimizer.averaged():
            pass
    optimizer.step()
    with pytest.raises(TypeError, match="guard must be Module or NoneType, got Tensor"):
        ScheduleFreeAdamW([torch.ones(1, requires_grad=True)], guard=torch.ones(1))  # type: ignore[arg-type]


def test_a_parameter_that_joins_late_walks_as_if_alone() -> None:
    early, late, alone = (torch.ones(3, requires_grad=True) for _ in range(3))
    both, single = ScheduleFreeAdamW([early, late], lr=0.1), ScheduleFreeAdamW([alone], lr=0.1)
    for step in range(6):
        early.grad = random(3, seed=step, dtype=torch.float32)
        if step > 2:
            late.grad = early.grad.clone()
            alone.grad = early.grad.clone()
        both.step()
        single.step()
    assert torch.equal(late.detach(), alone.detach())
    assert not torch.equal(late.detach(), early.detach())


def test_a_gradient_that_is_not_finite_spoils_its_own_coordinate_alone() -> None:
    for bad in (math.inf, math.nan):
        one, two = torch.ones(4, requires_grad=True), torch.ones(4, requires_grad=True)
        optimizer = ScheduleFreeAdamW([one, two], lr=0.1)
        for _ in range(3):
            one.grad, two.grad = torch.tensor([1.0, bad, 1.0, 1.0]), torch.ones(4)
            optimizer.step()
        assert one.isnan().tolist() == [False, True, False, False]
        assert two.isfinite().all()


@pytest.mark.parametrize("foreach", [None, True, False])
def test_a_rate_whose_square_is_nothing_moves_nothing(foreach: bool | None) -> None:
    weight = torch.ones(3, requires_grad=True)
    optimizer = ScheduleFreeAdamW([weight], lr=1e-170, foreach=foreach)
    for lr in (1e-170, 1e-170, 0.1):
        optimizer.param_groups[0]["lr"] = lr
        weight.grad = torch.ones(3)
        optimizer.step()
        assert torch.equal(weight.detach(), torch.ones(3)) == (lr < 0.1)
    assert weight.isfinite().all()


@pytest.mark.parametrize("wrap", [lambda base: base, partial(SharpnessAware, radius=0.1)])
def test_a_sweep_answers_with_the_averaged_weights_of_an_optimizer(wrap: Any) -> None:
    rows = random(12, 4), random(12, 2, seed=1)

    def make_model(generator: torch.Generator) -> nn.Module:
        return mlp((4, 3, 2), generator=generator).double()

    def rule(parameters: Any, lr: float) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = wrap(ScheduleFreeAdamW(parameters, lr=lr))
        return optimizer

    options: dict[str, Any] = {"seeds": seeds("averaged", 2), "total_steps": 15, "batch_size": 4, "track_every": 5}
    options |= {"settings": grid(lr=[0.05, 0.1]), "track": {"loss": (nn.functional.mse_loss, rows)}}
    result = sweep(make_model, rule, nn.functional.mse_loss, rows, **options)
    if wrap(ScheduleFreeAdamW([torch.ones(1, requires_grad=True)])).__class__ is ScheduleFreeAdamW:
        pure = sweep(
            make_model, schedule_free_adamw_step, nn.functional.mse_loss, rows, weights_of=averaged_weights, **options
        )
        torch.testing.assert_close(result.losses, pure.losses, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(result.tracked["loss"], pure.tracked["loss"], rtol=1e-9, atol=1e-9)
        scores = [one.evaluate(nn.functional.mse_loss, rows) for one in (result, pure)]
        torch.testing.assert_close(scores[0], scores[1], rtol=1e-9, atol=1e-9)
    # the last tracked point is that of the model which the result holds
    torch.testing.assert_close(result.tracked["loss"][..., -1], result.evaluate(nn.functional.mse_loss, rows))


# a model beside the model


class WithStatistics(nn.Module):
    """A network with everything that averaging may stumble over: statistics, a counter, a frozen weight."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.last = mlp((3, 4), generator=generator), mlp((4, 2), generator=generator)
        self.norm, self.drop = nn.BatchNorm1d(4), nn.Dropout(0.5)
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self, inputs: Tensor) -> Tensor:
        answer: Tensor = self.last(self.norm(self.first(inputs))) * self.frozen
        return answer


def move(model: nn.Module, step: int) -> None:
    """Change weights and statistics as a step of training does."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.train()(torch.randn(5, 3, generator=generator).to(next(model.parameters())))


@pytest.mark.parametrize("device", available_devices(), ids=str)
@pytest.mark.parametrize("buffers", ["copy", "average"])
@pytest.mark.parametrize("decay", [None, 0.7])
def test_an_averaged_model_equals_torchs(decay: float | None, buffers: Any, device: torch.device) -> None:
    model = WithStatistics().double().to(device)
    ours = Averaged(model, decay=decay, buffers=buffers)
    average = None if decay is None else get_ema_multi_avg_fn(decay)
    theirs = AveragedModel(model, multi_avg_fn=average, use_buffers=buffers == "average")
    for step in range(50):
        move(model, step)
        ours.update(model)
        theirs.update_parameters(model)
    wanted = dict(theirs.module.named_parameters()) | dict(theirs.module.named_buffers())
    found = dict(ours.module.named_parameters()) | dict(ours.module.named_buffers())
    for name, value in wanted.items():
        # torch's mean of an integer counter has lost its fraction at every step: ours is the model's
        expected = value if value.is_floating_point() else dict(model.named_buffers())[name]
        torch.testing.assert_close(found[name], expected, rtol=1e-12, atol=1e-12)
        assert found[name].dtype == value.dtype
    inputs = random(4, 3).to(device)
    if buffers == "copy":
        torch.testing.assert_close(ours.eval()(inputs), theirs.eval()(inputs), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(next(ours.parameters()), next(model.parameters()))


def test_an_average_starts_late_and_warms_up_as_the_pure_functions_do() -> None:
    model = WithStatistics().double()
    late, warm = Averaged(model, start_step=3), Averaged(model, decay=0.9, start_step=2, warmup=True)
    mean = ema = torch.zeros(2, dtype=torch.float64)
    for step in range(1, 11):
        move(model, step)
        late.update(model)
        warm.update(model)
        value = model.frozen.detach().clone()
        mean = running_mean(mean, value, step=max(step - 3, 1))
        ema = value if step <= 3 else ema_update(ema, value, decay=0.9, step=step - 2)
    torch.testing.assert_close(late.module.frozen.detach(), mean, rtol=1e-13, atol=1e-13)  # type: ignore[operator]
    torch.testing.assert_close(warm.module.frozen.detach(), ema, rtol=1e-13, atol=1e-13)  # type: ignore[operator]


def test_a_checkpoint_of_an_average_continues_bit_for_bit_and_the_model_is_left_alone() -> None:
    model = WithStatistics()
    one, other = Averaged(model), Averaged(model)
    for step in range(4):
        move(model, step)
        kept = copy.deepcopy(model.state_dict())
        one.update(model)
        assert all(torch.equal(kept[name], value) for name, value in model.state_dict().items())
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    for step in range(4, 7):
        move(model, step)
        one.update(model)
        other.update(model)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not a.requires_grad
    assert one.num_updates == other.num_updates == 7


def test_another_model_and_numbers_out_of_range_are_refused() -> None:
    model = WithStatistics()
    averaged = Averaged(model, decay=0.5)
    before = values(averaged)
    with pytest.raises(ValueError, match="model must have the tensors of the copied one"):
        averaged.update(mlp((3, 2), generator=torch.Generator()))
    wider = WithStatistics()
    wider.frozen = nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match="model must have the tensors of the copied one"):
        averaged.update(wider)
    assert averaged.num_updates == 0
    assert all(torch.equal(a, b) for a, b in zip(before, values(averaged), strict=True))
    for wrong in ({"decay": 1.1}, {"decay": math.nan}, {"start_step": -1}, {"buffers": "keep"}, {"warmup": True}):
        with pytest.raises(ValueError, match="must"):
            Averaged(model, **wrong)
    with pytest.raises(TypeError, match="model must be Module"):
        Averaged(torch.ones(1))  # type: ignore[arg-type]


def test_a_parameter_of_integers_is_copied() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2))
            self.seen = nn.Parameter(torch.zeros(2, dtype=torch.int64), requires_grad=False)

    model = Counting()
    averaged = Averaged(model)
    for step in range(1, 4):
        model.seen.data.fill_(step)
        model.weight.data.fill_(step)
        averaged.update(model)
    assert (averaged.module.seen.tolist(), averaged.module.weight.tolist()) == ([3, 3], [2.0, 2.0])  # type: ignore
    assert averaged.num_updates == 3


# running statistics


def some_batches(device: torch.device | str = "cpu") -> list[tuple[Tensor, Tensor]]:
    return [(random(5, 3, seed=seed).to(device), torch.zeros(5)) for seed in range(4)]


@pytest.mark.parametrize("device", available_devices(), ids=str)
def test_refreshed_statistics_equal_torchs_and_the_means_over_batches(device: torch.device) -> None:
    model = WithStatistics().double().to(device)
    move(model, 0)
    ours, theirs = copy.deepcopy(model), copy.deepcopy(model)
    refresh_batchnorm(ours, some_batches(device))
    update_bn(some_batches(device), theirs)
    for (name, one), (_, other) in zip(ours.named_buffers(), theirs.named_buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
        assert name.endswith("num_batches_tracked") or not torch.equal(one, dict(model.named_buffers())[name])
    seen = torch.stack([model.first(inputs) for inputs, _ in some_batches(device)])
    torch.testing.assert_close(ours.norm.running_mean, seen.mean(dim=(0, 1)), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.norm.running_var, seen.var(dim=1).mean(dim=0), rtol=1e-12, atol=1e-12)
    refresh_batchnorm(ours, (inputs for inputs, _ in some_batches()))  # moved, and without targets
    torch.testing.assert_close(ours.norm.running_mean, seen.mean(dim=(0, 1)), rtol=1e-12, atol=1e-12)


def test_refreshing_leaves_modes_weights_momenta_and_dropout_alone() -> None:
    model = WithStatistics()
    model.first.eval()
    before = values(model)
    modes = [module.training for module in model.modules()]
    refresh_batchnorm(model, [batch[0].float() for batch in some_batches()])
    assert [module.training for module in model.modules()] == modes
    assert model.norm.momentum == 0.1
    assert all(torch.equal(a, b) for a, b in zip(before, values(model), strict=True))
    ahead = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(3))
    refresh_batchnorm(ahead, [torch.ones(4, 3)])
    assert isinstance(ahead[1], nn.BatchNorm1d)
    assert ahead[1].running_var is not None
    assert float(ahead[1].running_var.max()) == 0.0  # dropout would have spread the ones
    plain = mlp((3, 2), generator=torch.Generator())
    refresh_batchnorm(plain, [])


def test_a_refresh_that_fails_leaves_the_old_statistics() -> None:
    model = WithStatistics().double()
    move(model, 0)
    kept = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="batches must not be empty"):
        refresh_batchnorm(model, [])
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        refresh_batchnorm(model, [some_batches()[0], (random(1, 3), torch.zeros(1))])
    assert all(torch.equal(kept[name], value) for name, value in model.state_dict().items())
    assert model.norm.momentum == 0.1
    assert model.training


def test_planted_faults_of_averages_and_statistics_are_seen() -> None:
    model = WithStatistics().double()
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.7))
    swapped, late = Averaged(model, decay=0.3), Averaged(model, decay=0.7, start_step=2)
    for step in range(5):
        move(model, step)
        theirs.update_parameters(model)
        swapped.update(model)
        late.update(model)
    for faulty in (swapped, late):
        assert not torch.allclose(next(faulty.parameters()), next(theirs.parameters()), atol=1e-4)
    right, not_reset = copy.deepcopy(model), copy.deepcopy(model)
    update_bn(some_batches(), right)
    for inputs, _ in some_batches():  # a pass in training mode, on top of the old statistics
        not_reset.train()(inputs)
    one, other = (model.norm.get_buffer("running_var") for model in (not_reset, right))
    assert not torch.allclose(one, other, atol=1e-4)
