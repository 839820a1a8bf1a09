"""Merging units: the regression, the cut, the repair, and where it is exact."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nnopt.devices import available_devices
from nnopt.merging import choose_units, keep_units, merge_units, ridge_regression
from nnopt.models import convnet, mlp


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def perceptron(*sizes: int, seed: int = 0) -> nn.Sequential:
    return mlp(sizes, generator=torch.Generator().manual_seed(seed)).double()


def images(num: int = 60, channels: int = 2) -> Tensor:
    return random(num, channels, 8, 8, seed=7)


def convolutions(seed: int = 0) -> nn.Sequential:
    return convnet([6, 5], image_shape=(2, 8, 8), generator=torch.Generator().manual_seed(seed)).double()


def error_of(smaller: nn.Module, model: nn.Module, inputs: Tensor) -> float:
    with torch.no_grad():
        return float((smaller(inputs) - model(inputs)).square().mean())


def linear(model: nn.Sequential, place: int) -> nn.Linear:
    layer = model[place]
    assert isinstance(layer, nn.Linear)
    return layer


def copy_row(model: nn.Sequential, place: int, *, target: int, source: int, factor: float) -> None:
    """Make one unit or channel a multiple of another; ReLU keeps it one."""
    with torch.no_grad():
        for parameter in model[place].parameters():
            parameter[target] = factor * parameter[source]


def num_units(model: nn.Sequential, place: int) -> int:
    return len(next(model[place].parameters()))


# the regression


def test_by_hand_two_rows_and_a_line() -> None:
    weight, bias = ridge_regression(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [5.0]]), ridge=0.0)
    assert (weight.item(), bias.item()) == pytest.approx((2.0, 1.0))
    # variance 1, N = 2: (Σ a² + λ N) w = Σ a z with a = ±1, z = ±2: w = 4 / (2 + 2λ)
    weight, bias = ridge_regression(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [5.0]]), ridge=1.0)
    assert (weight.item(), bias.item()) == pytest.approx((1.0, 2.0))


@pytest.mark.parametrize("device", available_devices(), ids=str)
def test_without_ridge_it_equals_lstsq_of_torch_and_numpy(device: torch.device) -> None:
    features, targets = random(50, 7).to(device), random(50, 3, seed=1).to(device)
    weight, bias = ridge_regression(features, targets, ridge=0.0)
    with_ones = torch.cat([features, torch.ones(50, 1, dtype=torch.float64, device=device)], dim=1)
    by_torch = torch.linalg.lstsq(with_ones, targets).solution
    torch.testing.assert_close(torch.cat([weight.T, bias[None]]), by_torch, rtol=1e-12, atol=1e-12)
    by_numpy = np.linalg.lstsq(with_ones.cpu().numpy(), targets.cpu().numpy(), rcond=None)[0]
    np.testing.assert_allclose(torch.cat([weight.T, bias[None]]).cpu().numpy(), by_numpy, rtol=1e-12, atol=1e-12)


def test_with_ridge_it_equals_sklearns_ridge() -> None:
    from sklearn.linear_model import Ridge

    features, targets = random(40, 6) + 3, random(40, 2, seed=1)
    weight, bias = ridge_regression(features, targets, ridge=0.3)
    alpha = 0.3 * 40 * float((features - features.mean(0)).square().mean())
    other = Ridge(alpha=alpha).fit(features.numpy(), targets.numpy())
    np.testing.assert_allclose(weight.numpy(), other.coef_, rtol=1e-10)
    np.testing.assert_allclose(bias.numpy(), other.intercept_, rtol=1e-10)


@given(st.floats(1e-6, 1e3), st.floats(0.01, 100.0))
@settings(derandomize=True, deadline=None, max_examples=25)
def test_the_gradient_of_the_penalized_error_is_zero_and_units_of_measure_do_not_matter(
    ridge: float, unit: float
) -> None:
    features, targets = random(30, 4), random(30, 2, seed=1)
    weight, bias = ridge_regression(features, targets, ridge=ridge)
    residual = features @ weight.T + bias - targets
    scale = (features - features.mean(0)).square().mean()
    slope = residual.T @ features / 30 + ridge * scale * weight
    assert float(slope.abs().max()) < 1e-10
    assert float(residual.mean(0).abs().max()) < 1e-12
    scaled, same_bias = ridge_regression(unit * features, targets, ridge=ridge)
    torch.testing.assert_close(unit * scaled, weight, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(same_bias, bias, rtol=1e-9, atol=1e-12)


def test_an_infinite_ridge_leaves_the_mean_and_constant_features_are_harmless() -> None:
    features, targets = random(20, 3), random(20, 2, seed=1)
    weight, bias = ridge_regression(features, targets, ridge=1e12)
    assert float(weight.abs().max()) < 1e-10
    torch.testing.assert_close(bias, targets.mean(0))
    weight, bias = ridge_regression(torch.ones(20, 3), targets.float(), ridge=1e-3)
    assert torch.equal(weight, torch.zeros(2, 3))
    torch.testing.assert_close(bias, targets.mean(0).float())


def test_refusals_of_the_regression() -> None:
    a, z = random(5, 2), random(5, 1)
    with pytest.raises(ValueError, match="ridge must be >= 0, got -1"):
        ridge_regression(a, z, ridge=-1)
    with pytest.raises(ValueError, match=r"features must have two dimensions, got shape \(5,\)"):
        ridge_regression(a[:, 0], z, ridge=0)
    with pytest.raises(ValueError, match="features and targets must have as many rows, got 5 and 4"):
        ridge_regression(a, z[:4], ridge=0)
    with pytest.raises(ValueError, match="targets must be finite, got 1 of 5 values NaN"):
        ridge_regression(a, z.index_fill(0, torch.tensor([2]), math.nan), ridge=0)
    with pytest.raises(ValueError, match="features must not be empty"):
        ridge_regression(a[:0], z[:0], ridge=0)
    for dependent in (torch.cat([a, a[:, :1] - 2 * a[:, 1:]], dim=1), torch.ones(5, 2), random(3, 6)):
        with pytest.raises(ValueError, match="features must be linearly independent, got"):
            ridge_regression(dependent, random(len(dependent), 1), ridge=0)


# the cut


@pytest.mark.parametrize("layer", [1, 3])
def test_pruned_equals_masked(layer: int) -> None:
    model, inputs = perceptron(5, 8, 7, 3), random(20, 5)
    kept = torch.tensor([6, 0, 3])
    smaller = keep_units(model, layer, kept)
    masked = copy.deepcopy(model)
    mask = torch.zeros(num_units(model, layer), dtype=torch.float64)
    mask[kept] = 1.0
    masked.insert(layer + 2, Times(mask))
    torch.testing.assert_close(smaller(inputs), masked(inputs), rtol=1e-12, atol=1e-12)
    assert linear(smaller, layer).out_features == linear(smaller, layer + 2).in_features == 3


@pytest.mark.parametrize(("layer", "kept"), [(0, [4, 1, 2]), (3, [0, 3])])
def test_pruned_channels_equal_masked_channels_also_in_front_of_a_linear_layer(layer: int, kept: list[int]) -> None:
    model, inputs = convolutions(), images(9)
    smaller = keep_units(model, layer, torch.tensor(kept))
    masked = copy.deepcopy(model)
    mask = torch.zeros(num_units(model, layer), 1, 1, dtype=torch.float64)
    mask[kept] = 1.0
    masked.insert(layer + 2, Times(mask))
    torch.testing.assert_close(smaller(inputs), masked(inputs), rtol=1e-12, atol=1e-12)


class Times(nn.Module):
    """Multiply by a constant: a mask."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.mask


# the repair


@pytest.mark.parametrize("device", available_devices(), ids=str)
@pytest.mark.parametrize("ridge", [0.0, 1e-3])
def test_the_repair_is_the_regression_of_the_next_layers_outputs(device: torch.device, ridge: float) -> None:
    model, inputs, kept = perceptron(5, 8, 7, 3).to(device), random(40, 5).to(device), torch.tensor([1, 4, 6])
    merged = merge_units(model, 3, kept, inputs, ridge=ridge)
    hidden = model[:5](inputs).detach()
    weight, bias = ridge_regression(hidden[:, kept.to(device)], linear(model, 5)(hidden).detach(), ridge=ridge)
    torch.testing.assert_close(linear(merged, 5).weight.detach(), weight, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(linear(merged, 5).bias.detach(), bias, rtol=1e-9, atol=1e-12)
    assert torch.equal(linear(merged, 3).weight, linear(model, 3).weight[kept.to(device)])


def test_nothing_removed_means_nothing_changed() -> None:
    model, inputs = perceptron(5, 4, 3), random(40, 5)
    torch.testing.assert_close(merge_units(model, 1, torch.arange(4), inputs, ridge=0.0)(inputs), model(inputs))
    permuted = merge_units(model, 1, torch.tensor([2, 0, 3, 1]), inputs, ridge=0.0)
    torch.testing.assert_close(permuted(random(9, 5, seed=5)), model(random(9, 5, seed=5)))


def redundant() -> nn.Sequential:
    """A network whose last four units are, behind the ReLU, positive multiples of its first two."""
    model = perceptron(5, 6, 3)
    for unit, (source, factor) in enumerate([(0, 2.0), (1, 0.5), (0, 3.0), (1, 1.0)], start=2):
        copy_row(model, 1, target=unit, source=source, factor=factor)
    return model


def test_units_that_are_multiples_of_kept_ones_are_removed_exactly_and_pruning_alone_is_far_off() -> None:
    model, inputs, fresh = redundant(), random(40, 5), random(100, 5, seed=9)
    merged = merge_units(model, 1, torch.tensor([0, 1]), inputs, ridge=0.0)
    torch.testing.assert_close(merged(fresh), model(fresh), rtol=1e-10, atol=1e-10)
    # by hand: the outgoing weights add up, each times its factor
    outgoing = linear(model, 3).weight.detach()
    by_hand = torch.stack(
        [
            outgoing[:, 0] + 2 * outgoing[:, 2] + 3 * outgoing[:, 4],
            outgoing[:, 1] + 0.5 * outgoing[:, 3] + outgoing[:, 5],
        ],
        dim=1,
    )
    torch.testing.assert_close(linear(merged, 3).weight.detach(), by_hand, rtol=1e-10, atol=1e-10)
    assert error_of(keep_units(model, 1, torch.tensor([0, 1])), model, fresh) > 0.01


def test_collinear_kept_units_need_a_ridge_and_then_lose_next_to_nothing() -> None:
    model, inputs, fresh = redundant(), random(40, 5), random(100, 5, seed=9)
    with pytest.raises(ValueError, match="features must be linearly independent"):
        merge_units(model, 1, torch.tensor([0, 1, 2, 3]), inputs, ridge=0.0)
    merged = merge_units(model, 1, torch.tensor([0, 1, 2, 3]), inputs, ridge=1e-8)
    torch.testing.assert_close(merged(fresh), model(fresh), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", [0, 3])
def test_a_channel_that_is_a_multiple_of_another_is_removed_exactly(layer: int) -> None:
    model, inputs = convolutions(), images()
    copy_row(model, layer, target=4, source=1, factor=2.0)
    without_4 = [0, 1, 2, 3] + ([5] if layer == 0 else [])
    merged = merge_units(model, layer, torch.tensor(without_4), inputs, ridge=1e-12)
    fresh = random(10, 2, 8, 8, seed=3)
    torch.testing.assert_close(merged(fresh), model(fresh), rtol=1e-6, atol=1e-6)


@given(st.integers(1, 7), st.integers(0, 5))
@settings(derandomize=True, deadline=None, max_examples=20)
def test_the_repair_is_never_worse_than_the_cut_on_its_rows(num_kept: int, seed: int) -> None:
    model, inputs = perceptron(5, 8, 3, seed=seed), random(60, 5, seed=seed)
    kept = choose_units(model, 1, inputs, num_kept=num_kept, method="weight_norm")
    repaired = error_of(merge_units(model, 1, kept, inputs, ridge=1e-9), model, inputs)
    assert repaired <= error_of(keep_units(model, 1, kept), model, inputs) * (1 + 1e-6)


def test_inputs_model_and_global_state_are_untouched() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 3, bias=False)).train()
    rows = random(30, 5, dtype=torch.float32)
    kept_state = {name: value.clone() for name, value in model.state_dict().items()}
    kept_rows, state = rows.clone(), torch.get_rng_state()
    merged = merge_units(model, 0, torch.tensor([0, 5]), rows)
    assert all(torch.equal(value, kept_state[name]) for name, value in model.state_dict().items())
    assert torch.equal(rows, kept_rows)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert linear(merged, 3).weight.dtype == torch.float32
    assert linear(merged, 3).bias is not None  # the means of the removed units need one
    merged(rows).sum().backward()
    assert linear(merged, 3).weight.grad is not None


# the choice


def test_each_method_by_hand() -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)).double()
    with torch.no_grad():
        # units: x, 3x, −x (dead for x > 0), y
        linear(model, 0).weight.copy_(torch.tensor([[1.0, 0.0], [3.0, 0.0], [-9.0, 0.0], [0.0, 0.5]]))
        linear(model, 0).bias.zero_()
        linear(model, 2).weight.copy_(torch.tensor([[1.0, 1.0, 1.0, 40.0]]))
    rows = torch.rand(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert choose_units(model, 0, rows, num_kept=2, method="weight_norm").tolist() == [1, 2]
    assert choose_units(model, 0, rows, num_kept=2, method="activation").tolist() == [0, 1]
    # the fourth explains most; then any multiple of x, and the dead unit and further multiples explain nothing
    assert choose_units(model, 0, rows, num_kept=1, method="greedy").tolist() == [3]
    assert choose_units(model, 0, rows, num_kept=2, method="greedy").tolist() in ([0, 3], [1, 3])
    assert choose_units(model, 0, rows, num_kept=4, method="greedy").tolist() == [0, 1, 2, 3]


def test_greedy_takes_the_unit_that_a_full_search_takes() -> None:
    model, rows = perceptron(5, 7, 3), random(80, 5)
    first = int(choose_units(model, 1, rows, num_kept=1, method="greedy"))

    def error(kept: list[int]) -> float:
        merged = merge_units(model, 1, torch.tensor(kept), rows, ridge=1e-12)
        return error_of(merged, model, rows)

    assert first == min(range(7), key=lambda unit: error([unit]))
    both = choose_units(model, 1, rows, num_kept=2, method="greedy").tolist()
    second = min((u for u in range(7) if u != first), key=lambda unit: error([first, unit]))
    assert sorted([first, second]) == both


def test_random_choice_obeys_its_generator_and_covers_all_units() -> None:
    model, rows = perceptron(5, 8, 3), random(4, 5)

    def drawn(seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        units: list[int] = choose_units(model, 1, rows, num_kept=3, method="random", generator=generator).tolist()
        return units

    assert drawn(1) == drawn(1) == sorted(set(drawn(1)))
    assert set().union(*map(drawn, range(20))) == set(range(8))


@pytest.mark.parametrize("method", ["weight_norm", "activation", "greedy"])
@pytest.mark.parametrize("layer", [0, 3])
def test_channels_can_be_chosen_and_merged(method: str, layer: int) -> None:
    model, inputs = convolutions(), images()
    kept = choose_units(model, layer, inputs, num_kept=3, method=method)
    assert len(kept.unique()) == 3
    merged = merge_units(model, layer, kept, inputs)
    assert error_of(merged, model, inputs) < error_of(keep_units(model, layer, kept), model, inputs)


# refusals


def test_choices_out_of_range_are_refused() -> None:
    model, rows = perceptron(5, 8, 3), random(4, 5)
    with pytest.raises(ValueError, match="num_kept must be >= 1, got 0"):
        choose_units(model, 1, rows, num_kept=0)
    with pytest.raises(ValueError, match="num_kept must be <= 8, the units of layer 1, got 9"):
        choose_units(model, 1, rows, num_kept=9)
    with pytest.raises(ValueError, match="method must be one of 'random', 'weight_norm', 'activation', 'greedy', got"):
        choose_units(model, 1, rows, num_kept=2, method="taylor")
    with pytest.raises(ValueError, match="generator must be given for method 'random' only, got None"):
        choose_units(model, 1, rows, num_kept=2, method="random")
    with pytest.raises(ValueError, match="inputs must not be empty"):
        choose_units(model, 1, rows[:0], num_kept=2)


@pytest.mark.parametrize("call", [keep_units, lambda m, i, k: merge_units(m, i, k, random(4, 5))])
def test_units_that_do_not_exist_are_refused(call: object) -> None:
    assert callable(call)
    model = perceptron(5, 8, 3)
    for wrong in ([8], [-1], [2, 2]):
        with pytest.raises(ValueError, match=r"kept must be different units in \[0, 8\), got"):
            call(model, 1, torch.tensor(wrong))
    with pytest.raises(ValueError, match="kept must not be empty"):
        call(model, 1, torch.tensor([], dtype=torch.int64))
    with pytest.raises(TypeError, match=r"kept must be int64 of one dimension, got torch.bool of shape \(8,\)"):
        call(model, 1, torch.ones(8, dtype=torch.bool))


def test_models_of_another_form_are_refused() -> None:
    kept = torch.tensor([0])
    with pytest.raises(TypeError, match="model must be Sequential, got Linear"):
        keep_units(nn.Linear(2, 2), 0, kept)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="layer must be the place of a Linear or Conv2d, got ReLU"):
        keep_units(perceptron(5, 8, 3), 2, kept)
    with pytest.raises(ValueError, match="layer must be followed by another Linear or Conv2d, got 3 of 4 modules"):
        keep_units(perceptron(5, 8, 3), 3, kept)
    with pytest.raises(ValueError, match="layer must be < 4, the modules of the model, got 4"):
        keep_units(perceptron(5, 8, 3), 4, kept)
    with pytest.raises(
        ValueError, match="between two layers must stand activations, dropout, pooling or Flatten, got B"
    ):
        keep_units(nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), 0, kept)
    with pytest.raises(ValueError, match="convolutions must have groups = 1 and zero padding of given size"):
        keep_units(nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 2, 3)), 0, kept)
    with pytest.raises(ValueError, match="a Linear must be followed by a Linear, got Conv2d"):
        keep_units(nn.Sequential(nn.Linear(8, 4), nn.Conv2d(4, 2, 3)), 0, kept)
    with pytest.raises(ValueError, match="ridge must be >= 0, got -1"):
        merge_units(perceptron(5, 8, 3), 1, kept, random(4, 5), ridge=-1.0)
