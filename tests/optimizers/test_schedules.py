"""Schedules: equal to torch's schedulers, functions of the step, and held after their end."""

import copy
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import lr_scheduler as theirs

from nnopt.optimizers import (
    Plateau,
    constant,
    cosine,
    expected_loss,
    exponential,
    inverse_square_root,
    linear,
    one_cycle,
    range_test,
    step_decay,
    warmup_stable_decay,
    with_warmup,
)
from nnopt.training import fit
from nnopt.types import Schedule

STEPS = 60
Scheduler = theirs.LRScheduler


def sgd(lr: float = 1.0) -> torch.optim.SGD:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)


def trace(make: Callable[[torch.optim.Optimizer], Scheduler], num_steps: int) -> list[float]:
    """Return the learning rates that torch's scheduler sets for base rate 1, one per step."""
    optimizer = sgd()
    scheduler = make(optimizer)
    rates = [float(optimizer.param_groups[0]["lr"])]
    for _ in range(num_steps - 1):
        optimizer.step()
        scheduler.step()
        rates.append(float(optimizer.param_groups[0]["lr"]))
    return rates


def ramp_then(after: Callable[[torch.optim.Optimizer], Scheduler], ramp: int) -> Callable[..., Scheduler]:
    def make(optimizer: torch.optim.Optimizer) -> Scheduler:
        first = theirs.LinearLR(optimizer, start_factor=1 / (ramp + 1), total_iters=ramp)
        return theirs.SequentialLR(optimizer, [first, after(optimizer)], milestones=[ramp])

    return make


def stable_then_linear(optimizer: torch.optim.Optimizer) -> Scheduler:
    flat = theirs.ConstantLR(optimizer, factor=1.0, total_iters=0)
    down = theirs.LinearLR(optimizer, start_factor=1.0, end_factor=0.1, total_iters=20)
    return theirs.SequentialLR(optimizer, [flat, down], milestones=[40])


PAIRS: dict[str, tuple[Schedule, Callable[[torch.optim.Optimizer], Scheduler]]] = {
    "constant": (constant(), lambda o: theirs.ConstantLR(o, factor=1.0, total_iters=0)),
    "step": (step_decay(every=7, factor=0.3), lambda o: theirs.StepLR(o, 7, 0.3)),
    "exponential": (exponential(factor=0.93), lambda o: theirs.ExponentialLR(o, 0.93)),
    "inverse square root": (
        inverse_square_root(scale=9),
        lambda o: theirs.LambdaLR(o, lambda step: (1 + step / 9) ** -0.5),
    ),
    "linear": (
        linear(total_steps=40, final=0.1),
        lambda o: theirs.LinearLR(o, start_factor=1.0, end_factor=0.1, total_iters=40),
    ),
    "cosine": (cosine(total_steps=STEPS, final=0.2), lambda o: theirs.CosineAnnealingLR(o, STEPS, eta_min=0.2)),
    "cosine with restarts": (
        cosine(total_steps=STEPS, final=0.1, cycles=4),
        lambda o: theirs.CosineAnnealingWarmRestarts(o, STEPS // 4, eta_min=0.1),
    ),
    "one cycle": (
        one_cycle(total_steps=STEPS, rise=0.25, start=0.1, final=1e-3),
        lambda o: theirs.OneCycleLR(
            o, 1.0, total_steps=STEPS, pct_start=0.25, div_factor=10, final_div_factor=100, cycle_momentum=False
        ),
    ),
    "warm-up, then exponential": (
        with_warmup(exponential(factor=0.9), warmup_steps=6),
        ramp_then(lambda o: theirs.ExponentialLR(o, 0.9), 6),
    ),
    "stable, then decay": (warmup_stable_decay(total_steps=STEPS, decay_steps=20, final=0.1), stable_then_linear),
    "plateau": (Plateau(), lambda o: theirs.ConstantLR(o, factor=1.0, total_iters=0)),
}


@pytest.mark.parametrize("name", list(PAIRS))
def test_a_schedule_traces_torch(name: str) -> None:
    schedule, make = PAIRS[name]
    assert [schedule(step) for step in range(STEPS)] == pytest.approx(trace(make, STEPS), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("name", list(PAIRS))
def test_lambda_lr_takes_a_schedule(name: str) -> None:
    schedule, _ = PAIRS[name]
    rates = trace(lambda o: theirs.LambdaLR(o, schedule), 10)
    assert rates == [schedule(step) for step in range(10)]


def test_fit_takes_a_schedule() -> None:
    model = nn.Linear(1, 1)
    data = [(torch.ones(2, 1), torch.zeros(2, 1))]
    schedule = linear(total_steps=4)
    history = fit(model, torch.optim.SGD(model.parameters(), lr=0.5), nn.functional.mse_loss, data, total_steps=4,
                  schedule=schedule)  # fmt: skip
    assert history.lrs == [0.5 * schedule(step) for step in range(4)]


@pytest.mark.parametrize(
    ("schedule", "end"),
    [
        (linear(total_steps=9, final=0.25), 0.25),
        (cosine(total_steps=9, final=0.25), 0.25),
        (cosine(total_steps=9, final=0.25, cycles=3), 0.25),
        (one_cycle(total_steps=9, final=0.25), 0.25),
        (warmup_stable_decay(total_steps=9, decay_steps=4, final=0.25), 0.25),
    ],
)
def test_a_schedule_holds_its_end(schedule: Schedule, end: float) -> None:
    """Torch's cosine climbs again and its one-cycle raises."""
    assert [schedule(step) for step in (9, 10, 14, 1000)] == pytest.approx([end] * 4, abs=1e-15)


def test_torchs_cosine_climbs_after_its_end() -> None:
    rates = trace(lambda o: theirs.CosineAnnealingLR(o, 9), 19)
    assert rates[9] == pytest.approx(0, abs=1e-15)
    assert rates[18] == pytest.approx(1)


@given(
    st.integers(1, 200).flatmap(
        lambda total: st.tuples(st.just(total), st.integers(1, total)).flatmap(
            lambda pair: st.tuples(st.just(pair[0]), st.just(pair[1]), st.integers(0, pair[0] - pair[1]))
        )
    ),
    st.floats(0, 1),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_warmup_stable_decay_rises_stays_and_falls(phases: tuple[int, int, int], final: float) -> None:
    total, decay, ramp = phases
    schedule = warmup_stable_decay(total_steps=total, decay_steps=decay, warmup_steps=ramp, final=final)
    values = [schedule(step) for step in range(total + 2)]
    assert all(a <= b for a, b in pairwise(values[: ramp + 1]))
    assert values[ramp : total - decay + 1] == [1.0] * (total - decay - ramp + 1)
    assert all(a >= b for a, b in pairwise(values[ramp:]))
    assert values[total] == pytest.approx(final)


def test_until_it_decays_the_plan_makes_no_difference() -> None:
    short = warmup_stable_decay(total_steps=50, decay_steps=10, warmup_steps=5)
    long = warmup_stable_decay(total_steps=500, decay_steps=10, warmup_steps=5)
    assert [short(step) for step in range(41)] == [long(step) for step in range(41)]


def test_warmup_ends_at_the_top_and_wastes_no_step() -> None:
    schedule = with_warmup(constant(), warmup_steps=3)
    assert [schedule(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert with_warmup(linear(total_steps=3), warmup_steps=0)(1) == linear(total_steps=3)(1)


@pytest.mark.parametrize("step", [-1, 1.5, True, "2"])
def test_a_step_that_is_none_is_refused(step: Any) -> None:
    for schedule in (constant(), cosine(total_steps=3), with_warmup(constant(), warmup_steps=1)):
        with pytest.raises((ValueError, TypeError), match="step must be"):
            schedule(step)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: step_decay(every=0), "every must be >= 1"),
        (lambda: step_decay(every=3, factor=1.5), "factor must be in"),
        (lambda: exponential(factor=math.nan), "factor must be in"),
        (lambda: inverse_square_root(scale=0), "scale must be > 0"),
        (lambda: linear(total_steps=0), "total_steps must be >= 1"),
        (lambda: linear(total_steps=3, final=-0.1), "final must be in"),
        (lambda: cosine(total_steps=10, cycles=3), "cycles must divide total_steps, got 3 and 10"),
        (lambda: cosine(total_steps=10, final=2), "final must be in"),
        (lambda: one_cycle(total_steps=1), "total_steps must be >= 2"),
        (lambda: one_cycle(total_steps=10, rise=1.0), "rise must be in"),
        (lambda: one_cycle(total_steps=10, rise=0.05), r"rise \* total_steps must be > 1"),
        (lambda: warmup_stable_decay(total_steps=10, decay_steps=8, warmup_steps=3), r"must be <= total_steps, got 3"),
        (lambda: warmup_stable_decay(total_steps=10, decay_steps=0), "decay_steps must be >= 1"),
        (lambda: with_warmup(constant(), warmup_steps=-1), "warmup_steps must be >= 0"),
        (lambda: Plateau(factor=1.0), "factor must be in"),
        (lambda: Plateau(patience=-1), "patience must be >= 0"),
        (lambda: Plateau(threshold=math.nan), "threshold must be in"),
        (lambda: Plateau(lowest=2.0), "lowest must be in"),
        (lambda: Plateau().update(math.nan), "value must not be NaN"),
        (lambda: Plateau().load_state_dict({"best": 1.0}), "state must have the keys"),
    ],
)
def test_what_cannot_be_a_schedule_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@given(
    st.lists(st.floats(-2, 2) | st.just(math.inf), min_size=1, max_size=40), st.integers(0, 4),
    st.sampled_from([0.1, 0.5]), st.sampled_from([0.0, 1e-4, 0.2]),
)  # fmt: skip
@settings(max_examples=80, deadline=None, derandomize=True)
def test_plateau_does_what_torch_does(losses: list[float], patience: int, factor: float, threshold: float) -> None:
    optimizer = sgd()
    # torch's bar for a negative best value lies above it; shifted up, the bars are the same
    values = [loss + 3 for loss in losses]
    scheduler = theirs.ReduceLROnPlateau(
        optimizer, factor=factor, patience=patience, threshold=threshold, min_lr=0.01, eps=0
    )
    plateau = Plateau(factor=factor, patience=patience, threshold=threshold, lowest=0.01)
    for value in values:
        scheduler.step(value)
        assert plateau.update(value) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)


def test_a_loss_that_stays_infinite_is_a_plateau() -> None:
    plateau = Plateau(factor=0.5, patience=1)
    assert [plateau.update(math.inf) for _ in range(6)] == [1.0, 0.5, 0.5, 0.25, 0.25, 0.125]
    assert plateau.update(1e300) == 0.125
    with pytest.raises(ValueError, match="value must not be NaN"):
        plateau.update(math.nan)


def test_a_negative_loss_that_has_risen_is_no_new_best() -> None:
    plateau, optimizer = Plateau(factor=0.5, patience=0, threshold=0.01), sgd()
    theirs_too = theirs.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.01)
    for loss in (-100.0, -99.5):
        theirs_too.step(loss)
        plateau.update(loss)
    assert plateau.multiplier == 0.5
    assert optimizer.param_groups[0]["lr"] == 1.0  # torch's bar is -99


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("multiplier", math.nan), ("multiplier", 2.0), ("best", math.nan), ("best", "1"), ("waited", -1), ("waited", 0.5)],
)
def test_plateau_refuses_a_state_that_cannot_be_its_own(name: str, wrong: Any) -> None:
    plateau = Plateau()
    plateau.update(2.0)
    before = plateau.state_dict()
    with pytest.raises((TypeError, ValueError), match=f"{name} must"):
        plateau.load_state_dict({**before, name: wrong})
    with pytest.raises(ValueError, match="state must have the keys"):
        plateau.load_state_dict({name: 1})
    assert plateau.state_dict() == before


def test_plateau_continues_from_its_state() -> None:
    losses = [3.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    whole, first, second = (Plateau(factor=0.5, patience=2) for _ in range(3))
    expected = [whole.update(loss) for loss in losses]
    seen = [first.update(loss) for loss in losses[:4]]
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert seen + [second.update(loss) for loss in losses[4:]] == expected
    assert min(expected) < 1


def test_expected_loss_is_the_mean_of_many_noisy_runs() -> None:
    generator = torch.Generator().manual_seed(3)
    curvatures, noise = torch.tensor([0.2, 1.0, 3.0]).double(), torch.tensor([1.0, 0.5, 2.0]).double()
    start, schedule = torch.tensor([2.0, -1.0, 0.5]).double(), cosine(total_steps=20)
    points = start.repeat(100_000, 1)
    seen = [(curvatures * points**2).sum(1).mean() / 2]
    for step in range(20):
        gradients = curvatures * points + noise.sqrt() * torch.randn(
            points.shape, generator=generator, dtype=torch.float64
        )
        points = points - 0.5 * schedule(step) * gradients
        seen.append((curvatures * points**2).sum(1).mean() / 2)
    found = expected_loss(curvatures, noise, start=start, lr=0.5, schedule=schedule, total_steps=20)
    # five standard errors of the mean, at most .006 of the loss each
    torch.testing.assert_close(found, torch.stack(seen), rtol=0.03, atol=0)


def test_a_constant_rate_ends_on_the_floor_of_the_closed_form() -> None:
    curvature, noise, lr = *torch.tensor([[2.0], [0.7]], dtype=torch.float64), 0.3
    losses = expected_loss(curvature, noise, start=torch.ones(1).double(), lr=lr, schedule=constant(), total_steps=300)
    floor = lr * 0.7 / (2 * (2 - lr * 2.0))
    assert float(losses[-1]) == pytest.approx(floor, rel=1e-12)


def test_expected_loss_refuses_what_it_cannot_compute() -> None:
    one = torch.ones(1)
    with pytest.raises(ValueError, match="curvatures and noise must have the same shape"):
        expected_loss(one, torch.ones(2), start=one, lr=0.1, schedule=constant(), total_steps=1)
    with pytest.raises(ValueError, match="noise must be >= 0"):
        expected_loss(one, -one, start=one, lr=0.1, schedule=constant(), total_steps=1)
    with pytest.raises(ValueError, match="lr must be >= 0"):
        expected_loss(one, one, start=one, lr=-0.1, schedule=constant(), total_steps=1)
    for wrong in (math.nan, -1.0, math.inf):
        with pytest.raises(ValueError, match=r"schedule\(2\) must be >= 0"):
            expected_loss(one, one, start=one, lr=0.1, schedule=[1.0, 1.0, wrong].__getitem__, total_steps=3)
    with pytest.raises(ValueError, match="start must be finite"):
        expected_loss(one, one, start=one * math.nan, lr=0.1, schedule=constant(), total_steps=1)


def quadratic() -> tuple[nn.Linear, list[tuple[torch.Tensor, torch.Tensor]]]:
    """Return a model whose loss is ½ w² with curvature 1: plain descent's edge is 2."""
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    return model, [(torch.ones(1, 1), torch.zeros(1, 1))]


def half_square(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return ((prediction - target) ** 2).mean() / 2


def test_the_range_test_finds_the_edge_and_leaves_the_model() -> None:
    model, data = quadratic()
    before = copy.deepcopy(model.state_dict())
    test = range_test(model, lambda p: torch.optim.SGD(p), half_square, data, lowest=1e-3, highest=100, smoothing=0.0)
    assert torch.equal(model.weight, before["weight"])
    # the loss turns between the best rate and some steps beyond the edge
    assert 1 < 10 * test.lr < 4
    assert len(test.rates) == len(test.losses) < 100
    assert test.rates[0] == 1e-3
    assert test.losses[-1] > 4 * min(test.losses)


@pytest.mark.parametrize("shift", [0.4, 100.0])
def test_losses_below_zero_change_no_suggestion(shift: float) -> None:
    model, data = quadratic()
    options: dict[str, Any] = {"lowest": 1e-3, "highest": 100, "smoothing": 0.5}
    plain = range_test(model, lambda p: torch.optim.SGD(p), half_square, data, **options)
    lower = range_test(model, lambda p: torch.optim.SGD(p), lambda p, t: half_square(p, t) - shift, data, **options)
    assert 0.5 < lower.lr / plain.lr < 2  # at the bottom a hundred hides what tells two rates apart
    assert len(plain.losses) <= len(lower.losses) < 100


def test_the_range_test_goes_to_the_end_where_nothing_breaks() -> None:
    model, data = quadratic()
    test = range_test(model, lambda p: torch.optim.SGD(p), half_square, data, lowest=1e-4, highest=1e-1, num_steps=20)
    assert test.rates[-1] == pytest.approx(1e-1)
    assert test.lr == pytest.approx(1e-2)


def test_the_range_test_survives_a_loss_that_is_no_number() -> None:
    model, data = quadratic()
    grown = lambda p, t: half_square(p, t) * (math.nan if float(p.detach().abs()) > 1.5 else 1.0)  # noqa: E731
    test = range_test(model, lambda p: torch.optim.SGD(p), grown, data, lowest=1e-3, highest=100, smoothing=0.0)
    assert math.isfinite(test.lr)
    with pytest.raises(FloatingPointError):
        range_test(model, lambda p: torch.optim.SGD(p), lambda p, t: half_square(p, t) * math.nan, data)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lowest": 0.0}, "lowest must be > 0"),
        ({"lowest": 1.0, "highest": 0.5}, "highest - lowest must be > 0"),
        ({"num_steps": 1}, "num_steps must be >= 2"),
        ({"smoothing": 1.0}, "smoothing must be in"),
        ({"blow_up": 1.0}, "blow_up - 1 must be > 0"),
    ],
)
def test_impossible_range_tests_are_refused(settings: dict[str, Any], message: str) -> None:
    model, data = quadratic()
    with pytest.raises(ValueError, match=message):
        range_test(model, lambda p: torch.optim.SGD(p), half_square, data, **settings)
