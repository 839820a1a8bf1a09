"""Batch sizes: the noise scale against slow twins, its interval against its promise, accumulation against one batch."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special
from torch import Tensor, nn

from nnopt.devices import available_devices
from nnopt.optimizers import accumulate, gradient_noise_scale, per_example_noise_scale, scale_lr

cross_entropy = nn.functional.cross_entropy


def network(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).to(dtype)


def rows(count: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 5, generator=generator, dtype=dtype)
    return inputs, torch.randint(3, (count,), generator=generator)


def flat_gradient(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    learned = [p for p in model.parameters() if p.requires_grad]
    return torch.cat([g.flatten() for g in torch.autograd.grad(cross_entropy(model(batch[0]), batch[1]), learned)])


def slow_noise_scale(model: nn.Module, batch: tuple[Tensor, Tensor]) -> float:
    each = [flat_gradient(model, (batch[0][i : i + 1], batch[1][i : i + 1])) for i in range(len(batch[0]))]
    mean = torch.stack(each).mean(dim=0)
    return float(sum((g - mean).square().sum() for g in each) / len(each) / mean.square().sum())


@pytest.mark.parametrize("chunk_size", [1, 4, 11, 100])
def test_the_exact_noise_scale_is_that_of_a_loop_over_rows(chunk_size: int) -> None:
    model, batch = network(), rows(11)
    found = per_example_noise_scale(cross_entropy, model, batch, chunk_size=chunk_size)
    assert found == pytest.approx(slow_noise_scale(model, batch), rel=1e-12)


def test_only_what_learns_counts_and_the_model_is_left_alone() -> None:
    model, batch = network(), rows(9)
    model[0].weight.requires_grad_(False)
    model[2].bias.grad = torch.ones(3, dtype=torch.float64)
    before = copy.deepcopy(model.state_dict())
    assert per_example_noise_scale(cross_entropy, model, batch) == pytest.approx(slow_noise_scale(model, batch))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model[2].bias.grad, torch.ones(3, dtype=torch.float64))
    assert model[0].bias.grad is None


def test_tied_weights_are_counted_once() -> None:
    first = nn.Linear(5, 5, bias=False).double()
    nn.init.orthogonal_(first.weight, generator=torch.Generator().manual_seed(1))
    second = nn.Linear(5, 5, bias=False).double()
    second.weight = first.weight
    model, (inputs, targets) = nn.Sequential(first, nn.Tanh(), second), rows(8)
    batch = inputs, targets
    assert per_example_noise_scale(cross_entropy, model, batch) == pytest.approx(slow_noise_scale(model, batch))


def test_rows_that_agree_have_no_noise_and_rows_that_cancel_have_infinite_noise() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    half_square: Callable[[Tensor, Tensor], Tensor] = lambda p, y: ((p - y) ** 2 / 2).mean()  # noqa: E731
    ones = torch.ones(2, 1)
    assert per_example_noise_scale(half_square, model, (ones, ones)) == 0
    assert per_example_noise_scale(half_square, model, (ones, torch.tensor([[1.0], [-1.0]]))) == math.inf


def test_batch_normalization_in_training_mode_is_refused_and_in_evaluation_mode_not() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).double()
    with pytest.raises(ValueError, match="model must not mix rows, got BatchNorm1d '1' in training mode"):
        per_example_noise_scale(cross_entropy, model, rows(6))
    found = per_example_noise_scale(cross_entropy, model.eval(), rows(6))
    assert found == pytest.approx(slow_noise_scale(model, rows(6)))
    without = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4, track_running_stats=False)).double().eval()
    with pytest.raises(ValueError, match="must not mix rows"):
        per_example_noise_scale(cross_entropy, without, rows(6))


def test_what_the_exact_noise_scale_cannot_take_is_refused() -> None:
    model, (inputs, targets) = network(), rows(4)
    with pytest.raises(ValueError, match="batch must have as many targets as inputs, at least 1, got 4, 3"):
        per_example_noise_scale(cross_entropy, model, (inputs, targets[:3]))
    with pytest.raises(ValueError, match="at least 1, got 0, 0"):
        per_example_noise_scale(cross_entropy, model, (inputs[:0], targets[:0]))
    with pytest.raises(ValueError, match="chunk_size must be >= 1"):
        per_example_noise_scale(cross_entropy, model, (inputs, targets), chunk_size=0)
    with pytest.raises(ValueError, match="gradients must be finite"):
        per_example_noise_scale(cross_entropy, model, (inputs * math.nan, targets))
    with pytest.raises(ValueError, match="parameters that require gradients must not be empty"):
        per_example_noise_scale(cross_entropy, model.requires_grad_(False), (inputs, targets))
    with pytest.raises(RuntimeError, match="random"):
        per_example_noise_scale(cross_entropy, nn.Sequential(network(), nn.Dropout(0.5)), (inputs, targets))


def gaussian_norms(noise_scale: float, size: int, count: int, seed: int, dimensions: int = 50) -> Tensor:
    """Return lengths of means of ``size`` rows whose true gradient has length 1."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, dimensions, generator=generator, dtype=torch.float64)
    gradients = noise * math.sqrt(noise_scale / dimensions / size)
    gradients[:, 0] += 1
    return gradients.square().sum(dim=1).sqrt()


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    covered = infinite = 0
    for trial in range(400):
        small, big = (gaussian_norms(30.0, size, 20, 2 * trial + k) for k, size in enumerate((4, 64)))
        _, low, high = gradient_noise_scale(small, big, small=4, big=64)
        covered += low <= 30 <= high
        infinite += math.isinf(high)
    # 95 % of 400, give or take three standard errors of 1.1 %
    assert 367 <= covered <= 393
    assert infinite == 0


def test_the_estimate_comes_close_with_many_pairs() -> None:
    small, big = (gaussian_norms(30.0, size, 20_000, seed) for seed, size in enumerate((4, 64)))
    estimate, low, high = gradient_noise_scale(small, big, small=4, big=64)
    assert estimate == pytest.approx(30, rel=0.02)
    assert low < 30 < high
    assert high / low < 1.05


def slow_interval(top: Tensor, bottom: Tensor, confidence: float) -> tuple[float, float]:
    """Search the ratios that a t test of top - ratio · bottom does not refuse."""
    quantile = float(special.stdtrit(len(top) - 1, (1 + confidence) / 2))

    def refused(ratio: float) -> float:
        rest = top - ratio * bottom
        return float(rest.mean().abs() / (rest.std() / len(rest) ** 0.5)) - quantile

    middle = float(top.mean() / bottom.mean())
    return optimize.brentq(refused, 0, middle), optimize.brentq(refused, middle, 100 * middle)


@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_the_interval_is_that_of_a_search_over_ratios(confidence: float) -> None:
    small, big = gaussian_norms(12.0, 2, 15, 5), gaussian_norms(12.0, 16, 15, 6)
    noise = (small**2 - big**2) / (1 / 2 - 1 / 16)
    signal = (16 * big**2 - 2 * small**2) / 14
    found = gradient_noise_scale(small, big, small=2, big=16, confidence=confidence)
    assert found[1:] == pytest.approx(slow_interval(noise, signal, confidence), rel=1e-9)
    assert found[0] == pytest.approx(float(noise.mean() / signal.mean()), rel=1e-12)


def test_where_no_gradient_is_seen_the_interval_has_no_upper_end() -> None:
    small, big = gaussian_norms(1e6, 4, 8, 1), gaussian_norms(1e6, 64, 8, 2)
    estimate, low, high = gradient_noise_scale(small, big, small=4, big=64)
    assert high == math.inf
    assert 0 <= low <= estimate


def test_where_no_noise_is_seen_the_interval_begins_at_zero() -> None:
    generator = torch.Generator().manual_seed(0)
    small, big = 1 + 0.01 * torch.randn(2, 10, generator=generator)
    estimate, low, high = gradient_noise_scale(small, big, small=4, big=64)
    assert low == 0
    assert estimate <= high < 1


def test_pairs_of_one_step_give_a_narrower_interval_than_the_same_pairs_mixed() -> None:
    generator = torch.Generator().manual_seed(3)
    size = 1 + torch.rand(30, generator=generator, dtype=torch.float64)
    small, big = size * gaussian_norms(30.0, 4, 30, 1), size * gaussian_norms(30.0, 64, 30, 2)
    _, low, high = gradient_noise_scale(small, big, small=4, big=64)
    _, mixed_low, mixed_high = gradient_noise_scale(small, big.flip(0), small=4, big=64)
    assert high / low < mixed_high / mixed_low


@given(st.integers(2, 12), st.integers(1, 20), st.integers(1, 100), st.floats(1e-3, 1e3), st.integers(0, 1000))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_the_interval_is_ordered_and_has_no_unit(count: int, small: int, more: int, unit: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.rand(2, count, generator=generator, dtype=torch.float64) + 0.1
    found = gradient_noise_scale(*lengths, small=small, big=small + more)
    assert 0 <= found[1] <= found[2]
    if math.isfinite(found[0]):
        assert found[1] <= found[0] * (1 + 1e-9)
        assert found[0] <= found[2] * (1 + 1e-9)
    assert gradient_noise_scale(*(unit * lengths), small=small, big=small + more) == pytest.approx(found, rel=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"small_norms": torch.ones(3)}, "must have the same shape"),
        ({"small_norms": torch.ones(1), "big_norms": torch.ones(1)}, "at least 2 lengths, got 1"),
        ({"small_norms": torch.ones(2, 2), "big_norms": torch.ones(2, 2)}, "small_norms must be"),
        ({"small_norms": torch.tensor([1.0, math.nan])}, "small_norms must be finite"),
        ({"big_norms": torch.tensor([1.0, -1.0])}, "big_norms must be >= 0"),
        ({"small": 0}, "small must be >= 1"),
        ({"big": 4}, "big must be >= 5"),
        ({"confidence": 1.0}, "confidence must be < 1"),
        ({"confidence": math.nan}, "confidence must be > 0"),
    ],
)
def test_impossible_estimates_are_refused(change: dict[str, Any], message: str) -> None:
    form: dict[str, Any] = {"small_norms": torch.ones(2), "big_norms": torch.ones(2), "small": 4, "big": 64}
    with pytest.raises(ValueError, match=message):
        gradient_noise_scale(**{**form, **change})
    with pytest.raises(TypeError, match="big_norms must be Tensor, got list"):
        gradient_noise_scale(**{**form, "big_norms": [1.0, 2.0]})


def test_rates_are_carried_by_hand_worked_rules() -> None:
    assert scale_lr(0.1, batch_size=8, reference=32) == 0.025
    assert scale_lr(0.1, batch_size=128, reference=32, rule="square_root") == pytest.approx(0.2)
    # (1 + 30/10) / (1 + 30/30)
    assert scale_lr(0.1, batch_size=30, reference=10, rule="noise_scale", noise_scale=30) == pytest.approx(0.2)
    assert scale_lr(0.0, batch_size=8, reference=4) == 0


def test_the_rule_of_the_noise_scale_is_linear_below_it_and_constant_above() -> None:
    below = scale_lr(1.0, batch_size=8, reference=1, rule="noise_scale", noise_scale=1e6)
    assert below == pytest.approx(scale_lr(1.0, batch_size=8, reference=1), rel=1e-4)
    above = scale_lr(1.0, batch_size=8000, reference=1000, rule="noise_scale", noise_scale=1e-2)
    assert above == pytest.approx(1, rel=1e-4)


@given(
    st.integers(1, 500), st.integers(1, 500), st.integers(1, 500),
    st.sampled_from([("linear", None), ("square_root", None), ("noise_scale", 20.0)]),
)  # fmt: skip
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_rate_carried_in_two_stages_is_the_rate_carried_in_one(
    first: int, second: int, third: int, rule: tuple[str, float | None]
) -> None:
    name, scale = rule
    halfway = scale_lr(0.3, batch_size=second, reference=first, rule=name, noise_scale=scale)
    whole = scale_lr(0.3, batch_size=third, reference=first, rule=name, noise_scale=scale)
    arrived = scale_lr(halfway, batch_size=third, reference=second, rule=name, noise_scale=scale)
    assert arrived == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"lr": -0.1}, ValueError, "lr must be >= 0"),
        ({"lr": math.nan}, ValueError, "lr must be >= 0"),
        ({"batch_size": 0}, ValueError, "batch_size must be >= 1"),
        ({"reference": 2.5}, TypeError, "reference must be an integer"),
        ({"rule": "cubic"}, ValueError, "rule must be one of"),
        ({"rule": "noise_scale"}, ValueError, "noise_scale must be given for the rule 'noise_scale' only, got None"),
        ({"noise_scale": 3.0}, ValueError, "only, got 3.0 for 'linear'"),
        ({"rule": "noise_scale", "noise_scale": 0.0}, ValueError, "noise_scale must be > 0"),
    ],
)
def test_impossible_rules_are_refused(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        scale_lr(**{"lr": 0.1, "batch_size": 8, "reference": 4, **change})


Accumulate = Callable[[nn.Module, Any, list[tuple[Tensor, Tensor]]], object]


def mean_of_means(model: nn.Module, loss_fn: Any, parts: list[tuple[Tensor, Tensor]]) -> None:
    for inputs, targets in parts:
        (loss_fn(model(inputs), targets) / len(parts)).backward()


def forgotten_division(model: nn.Module, loss_fn: Any, parts: list[tuple[Tensor, Tensor]]) -> None:
    for inputs, targets in parts:
        loss_fn(model(inputs), targets).backward()


def gradient_of(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def error_of(accumulated: Accumulate, sizes: list[int], device: torch.device | str = "cpu") -> float:
    """Return the largest difference between the accumulated gradient and that of all rows at once."""
    model, (inputs, targets) = network().to(device), rows(sum(sizes))
    inputs, targets = inputs.to(device), targets.to(device)
    accumulated(model, cross_entropy, list(zip(inputs.split(sizes), targets.split(sizes), strict=True)))
    return float((gradient_of(model) - flat_gradient(model, (inputs, targets))).abs().max())


@pytest.mark.parametrize("device", available_devices(), ids=str)
@pytest.mark.parametrize("sizes", [[6], [3, 3], [5, 1, 2], [1] * 7], ids=str)
def test_accumulated_gradients_are_those_of_the_large_batch(sizes: list[int], device: torch.device) -> None:
    assert error_of(accumulate, sizes, device) < 1e-15


def test_the_classic_mistakes_are_seen() -> None:
    assert error_of(mean_of_means, [4, 4]) < 1e-15
    assert error_of(mean_of_means, [5, 1, 2]) > 1e-3
    assert error_of(forgotten_division, [4, 4]) > 1e-3


def test_accumulation_returns_the_mean_loss_and_adds_to_what_is_there() -> None:
    model, (inputs, targets) = network(), rows(5)
    loss = accumulate(model, cross_entropy, iter([(inputs[:4], targets[:4]), (inputs[4:], targets[4:])]))
    once = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    whole = cross_entropy(model(inputs), targets).detach()
    assert float(loss) == pytest.approx(float(whole), rel=1e-14)
    assert not loss.requires_grad
    accumulate(model, cross_entropy, [(inputs, targets)])
    for parameter, gradient in zip(model.parameters(), once, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * gradient, rtol=1e-12, atol=1e-15)


def test_accumulation_refuses_before_it_changes_anything() -> None:
    model, (inputs, targets) = network(), rows(4)
    with pytest.raises(ValueError, match="batches must not be empty"):
        accumulate(model, cross_entropy, [])
    with pytest.raises(ValueError, match=r"batches\[1\] must have as many targets as inputs, at least 1, got 2, 1"):
        accumulate(model, cross_entropy, [(inputs[:2], targets[:2]), (inputs[2:], targets[3:])])
    assert all(p.grad is None for p in model.parameters())


def test_batch_normalization_sees_the_parts() -> None:
    inputs, targets = rows(8)
    gradients: dict[tuple[bool, int], Tensor] = {}
    for training in (True, False):
        for parts in ([8], [4, 4]):
            with torch.random.fork_rng():
                torch.manual_seed(0)
                model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).double().train(training)
            accumulate(model, cross_entropy, zip(inputs.split(parts), targets.split(parts)))
            gradients[training, len(parts)] = gradient_of(model)
    assert float((gradients[True, 1] - gradients[True, 2]).abs().max()) > 1e-3
    torch.testing.assert_close(gradients[False, 1], gradients[False, 2], rtol=1e-12, atol=1e-15)
