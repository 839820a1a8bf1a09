"""Magnitude pruning: exact counts, torch's own masks, and zeros that stay zero while the rest trains."""

import copy
import math
from collections.abc import Callable, Iterable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune

from nnopt.devices import available_devices
from nnopt.pruning import (
    apply_masks,
    global_masks,
    keep_masks,
    magnitude_mask,
    n_m_mask,
    prunable_weights,
    random_mask,
)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def network(device: torch.device | str = "cpu") -> nn.Sequential:
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).double()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(random(*parameter.shape, seed=number))
    return model.to(device)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, num_steps: int) -> None:
    device = next(model.parameters()).device
    inputs, targets = random(16, 6, seed=8).to(device), random(16, 4, seed=9).to(device)
    for _ in range(num_steps):
        optimizer.zero_grad()
        (model(inputs) - targets).square().mean().backward()
        optimizer.step()


OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]] = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1),
}


def test_a_mask_by_hand() -> None:
    weight = torch.tensor([[0.1, -5.0, 0.0], [2.0, -0.3, 1.0]])
    assert magnitude_mask(weight, sparsity=0.5).tolist() == [[False, True, False], [True, False, True]]


def test_a_global_mask_by_hand_takes_more_from_the_layer_of_small_weights() -> None:
    masks = global_masks({"a": torch.tensor([0.1, 0.2, 0.9]), "b": torch.tensor([[-3.0], [0.5], [2.0]])}, sparsity=0.5)
    assert masks["a"].tolist() == [False, False, True]
    assert masks["b"].tolist() == [[True], [False], [True]]


@pytest.mark.parametrize("sparsity", [0.0, 0.13, 0.5, 0.77, 1.0])
def test_what_is_removed_is_the_smallest_by_definition(sparsity: float) -> None:
    weight = random(7, 5)
    mask = magnitude_mask(weight, sparsity=sparsity)
    ranked = sorted(range(35), key=lambda place: abs(weight.flatten()[place].item()))
    removed = {place for place in range(35) if not mask.flatten()[place]}
    assert removed == set(ranked[: round(sparsity * 35)])


@pytest.mark.parametrize("device", available_devices(), ids=str)
@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.333, 0.8, 1.0])
def test_masks_equal_those_of_torch_by_layer(device: torch.device, sparsity: float) -> None:
    layer = nn.Linear(9, 7).double().to(device)
    mask = magnitude_mask(layer.weight, sparsity=sparsity)
    prune.l1_unstructured(layer, "weight", amount=sparsity)
    if sparsity:
        assert torch.equal(mask, layer.get_buffer("weight_mask").bool())
    else:
        assert bool(mask.all())


@pytest.mark.parametrize("device", available_devices(), ids=str)
@pytest.mark.parametrize("sparsity", [0.1, 0.333, 0.8])
def test_masks_equal_those_of_torch_over_all_layers(device: torch.device, sparsity: float) -> None:
    model = network(device)
    masks = global_masks(prunable_weights(model), sparsity=sparsity)
    pairs = [(model[0], "weight"), (model[2], "weight")]
    prune.global_unstructured(pairs, pruning_method=prune.L1Unstructured, amount=sparsity)
    for place in (0, 2):
        assert torch.equal(masks[f"{place}.weight"], model[place].get_buffer("weight_mask").bool())


@pytest.mark.parametrize("sparsity", [0.1, 0.25, 0.5, 0.9])
def test_counts_equal_those_of_torch_also_where_one_half_is_rounded(sparsity: float) -> None:
    layer = nn.Linear(10, 5)
    generator = torch.Generator().manual_seed(3)
    ours = random_mask(layer.weight, sparsity=sparsity, generator=generator)
    prune.random_unstructured(layer, "weight", amount=sparsity)
    assert int((~ours).sum()) == int((layer.get_buffer("weight_mask") == 0).sum()) == round(sparsity * 50)


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=4),
    st.floats(0, 1),
    st.integers(0, 3),
)
@settings(derandomize=True, deadline=None, max_examples=100)
def test_the_global_count_is_exact_also_with_ties(sizes: list[int], sparsity: float, num_values: int) -> None:
    generator = torch.Generator().manual_seed(len(sizes))
    weights = {
        str(place): torch.randint(-num_values, num_values + 1, (size, 3), generator=generator).float()
        for place, size in enumerate(sizes)
    }
    masks = global_masks(weights, sparsity=sparsity)
    total = sum(3 * size for size in sizes)
    assert sum(int((~mask).sum()) for mask in masks.values()) == round(sparsity * total)
    kept = [weights[name][mask].abs() for name, mask in masks.items()]
    removed = [weights[name][~mask].abs() for name, mask in masks.items()]
    smallest_kept = torch.cat(kept).min() if sum(map(len, kept)) else torch.tensor(math.inf)
    largest_removed = torch.cat(removed).max() if sum(map(len, removed)) else torch.tensor(0.0)
    assert smallest_kept >= largest_removed


def test_the_planted_fault_of_a_threshold_miscounts_ties() -> None:
    """The usual shortcut, |w| > the k-th smallest, removes all weights that are equal to it."""
    weight = torch.tensor([1.0, 1.0, 1.0, 2.0])
    by_threshold = weight.abs() > weight.abs().kthvalue(2).values
    assert int((~by_threshold).sum()) == 3
    assert magnitude_mask(weight, sparsity=0.5).tolist() == [False, False, True, True]


@given(st.floats(0, 1), st.floats(0, 1))
@settings(derandomize=True, deadline=None, max_examples=50)
def test_a_sparser_mask_keeps_a_part_of_the_denser_one(first: float, second: float) -> None:
    weight = random(6, 4).round(decimals=1)
    dense, sparse = (magnitude_mask(weight, sparsity=s) for s in sorted((first, second)))
    assert not bool((sparse & ~dense).any())


def test_pruning_what_is_pruned_changes_nothing() -> None:
    weight = random(6, 4)
    mask = magnitude_mask(weight, sparsity=0.7)
    assert torch.equal(magnitude_mask(weight * mask, sparsity=0.7), mask)


def test_a_random_mask_depends_on_its_generator_alone() -> None:
    first, again, other = (
        random_mask(random(8, 8, seed=seed), sparsity=0.5, generator=torch.Generator().manual_seed(number))
        for seed, number in ((0, 1), (2, 1), (0, 2))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("device", available_devices(), ids=str)
@pytest.mark.parametrize(("num_kept", "group_size"), [(2, 4), (1, 4), (0, 2), (3, 3), (1, 1)])
def test_every_group_keeps_its_largest(device: torch.device, num_kept: int, group_size: int) -> None:
    weight = random(5, 12, 3, 2).to(device)
    mask = n_m_mask(weight, num_kept=num_kept, group_size=group_size)
    assert mask.shape == weight.shape
    for out in range(5):
        for row in range(3):
            for column in range(2):
                for start in range(0, 12, group_size):
                    group = weight[out, start : start + group_size, row, column].abs().tolist()
                    kept = mask[out, start : start + group_size, row, column].tolist()
                    least = sorted(group, reverse=True)[num_kept - 1] if num_kept else math.inf
                    assert [value >= least for value in group] == kept


def test_equal_neighbors_are_counted_too() -> None:
    assert n_m_mask(torch.ones(3, 8)).sum(dim=1).tolist() == [4, 4, 4]


def test_prunable_weights_are_those_of_linear_and_convolutional_layers_once() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 4), nn.Linear(8, 4))
    model[4].weight = model[3].weight
    weights = prunable_weights(model)
    assert list(weights) == ["0.weight", "3.weight"]
    assert weights["0.weight"] is model[0].weight


def test_masks_do_not_touch_weights_until_they_are_applied() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    masks = global_masks(prunable_weights(model), sparsity=0.6)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    apply_masks(model, masks)
    for name, value in model.state_dict().items():
        expected = before[name] * masks[name] if name in masks else before[name]
        assert torch.equal(value, expected)
    assert model.state_dict().keys() == before.keys()


@pytest.mark.parametrize("device", available_devices(), ids=str)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_zeros_stay_zero_and_the_rest_trains_also_with_an_old_buffer(device: torch.device, name: str) -> None:
    model = network(device)
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer, 5)  # the optimizer now remembers gradients of weights that will be removed
    masks = global_masks(prunable_weights(model), sparsity=0.6)
    before = copy.deepcopy(model.state_dict())
    with keep_masks(model, masks, optimizer):
        train(model, optimizer, 10)
    for parameter, mask in masks.items():
        value = model.state_dict()[parameter]
        assert int((value == 0).sum()) == int((~mask).sum())
        # a unit whose outgoing weights are all removed gets no gradient
        assert float((value[mask] != before[parameter][mask]).double().mean()) > 0.5


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_planted_fault_of_masking_once_is_seen(name: str) -> None:
    model = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    masks = global_masks(prunable_weights(model), sparsity=0.6)
    apply_masks(model, masks)
    train(model, optimizer, 1)
    assert sum(int((model.state_dict()[n][~m] != 0).sum()) for n, m in masks.items()) > 20


def test_the_planted_fault_of_masking_only_gradients_is_seen() -> None:
    model = network()
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    train(model, optimizer, 5)
    masks = global_masks(prunable_weights(model), sparsity=0.6)
    apply_masks(model, masks)
    for name, parameter in model.named_parameters():
        if name in masks:
            parameter.register_hook(masks[name].mul)
    train(model, optimizer, 1)
    assert sum(int((model.state_dict()[n][~m] != 0).sum()) for n, m in masks.items()) > 20


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fifty_steps_equal_those_of_torch_with_its_parametrization(name: str) -> None:
    ours, theirs = network(), network()
    masks = global_masks(prunable_weights(ours), sparsity=0.6)
    pairs = [(theirs[0], "weight"), (theirs[2], "weight")]
    prune.global_unstructured(pairs, pruning_method=prune.L1Unstructured, amount=0.6)
    optimizer = OPTIMIZERS[name](ours.parameters())
    with keep_masks(ours, masks, optimizer):
        train(ours, optimizer, 50)
    train(theirs, OPTIMIZERS[name](theirs.parameters()), 50)
    for place in (0, 2):
        # torch's own .weight is that of the last forward pass: one step old
        masked = theirs[place].get_parameter("weight_orig") * theirs[place].get_buffer("weight_mask")
        torch.testing.assert_close(ours[place].weight, masked, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(ours[place].bias, theirs[place].bias, rtol=1e-12, atol=1e-12)


def test_removed_weights_are_left_out_of_the_norm_of_the_gradient() -> None:
    model = network()
    optimizer = OPTIMIZERS["SGD"](model.parameters())
    masks = global_masks(prunable_weights(model), sparsity=0.9)
    with keep_masks(model, masks, optimizer):
        train(model, optimizer, 1)
        for name, mask in masks.items():
            gradient = model.get_parameter(name).grad
            assert gradient is not None
            assert bool((gradient[~mask] == 0).all())


def test_after_the_block_the_hooks_are_gone_and_the_zeros_move_again() -> None:
    model = network()
    optimizer = OPTIMIZERS["SGD"](model.parameters())
    masks = global_masks(prunable_weights(model), sparsity=0.6)
    with pytest.raises(RuntimeError, match="stop"), keep_masks(model, masks, optimizer):
        raise RuntimeError("stop")
    train(model, optimizer, 1)
    assert sum(int((model.state_dict()[n][~m] != 0).sum()) for n, m in masks.items()) > 20


def test_frozen_weights_are_masked_too() -> None:
    model = network()
    model[0].weight.requires_grad_(False)
    optimizer = OPTIMIZERS["SGD"](model.parameters())
    with keep_masks(model, global_masks(prunable_weights(model), sparsity=0.5), optimizer):
        train(model, optimizer, 2)
    assert int((torch.cat([w.flatten() for w in prunable_weights(model).values()]) == 0).sum()) == 25


@pytest.mark.parametrize("sparsity", [-0.1, 1.1, math.nan])
def test_a_sparsity_outside_its_range_is_refused(sparsity: float) -> None:
    with pytest.raises(ValueError, match=r"sparsity must be in \[0, 1\], got"):
        magnitude_mask(torch.ones(3), sparsity=sparsity)
    with pytest.raises(ValueError, match=r"sparsity must be in \[0, 1\], got"):
        random_mask(torch.ones(3), sparsity=sparsity, generator=torch.Generator())


def test_weights_without_an_order_are_refused() -> None:
    bad = torch.tensor([[1.0, math.nan], [1.0, 2.0]])
    with pytest.raises(ValueError, match="weight must be finite, got 1 of 4"):
        magnitude_mask(bad, sparsity=0.5)
    with pytest.raises(ValueError, match="weight must be finite, got 1 of 4"):
        n_m_mask(bad, num_kept=1, group_size=2)
    with pytest.raises(ValueError, match="weights must not be empty"):
        global_masks({}, sparsity=0.5)


def test_groups_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match=r"weight must have a second dimension that is a multiple of 4, got \(3, 6\)"):
        n_m_mask(torch.ones(3, 6))
    with pytest.raises(ValueError, match=r"weight must have a second dimension that is a multiple of 4, got \(4,\)"):
        n_m_mask(torch.ones(4))
    with pytest.raises(ValueError, match="num_kept must be <= group_size = 4, got 5"):
        n_m_mask(torch.ones(3, 8), num_kept=5)
    with pytest.raises(ValueError, match="num_kept must be >= 0, got -1"):
        n_m_mask(torch.ones(3, 8), num_kept=-1)
    with pytest.raises(ValueError, match="group_size must be >= 1, got 0"):
        n_m_mask(torch.ones(3, 8), group_size=0)
    with pytest.raises(TypeError, match="num_kept must be an integer, got float"):
        n_m_mask(torch.ones(3, 8), num_kept=2.0)  # type: ignore[arg-type]


def test_masks_that_do_not_fit_are_refused_before_anything_changes() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    none = torch.zeros(5, 6, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"masks must name parameters of the model, got '1.weight'"):
        apply_masks(model, {"0.weight": none, "1.weight": none})
    with pytest.raises(TypeError, match=r"the mask of 0.weight must be bool, got torch.float32"):
        apply_masks(model, {"0.weight": none.float()})
    with pytest.raises(ValueError, match=r"0.weight and its mask must have the same shape, got \(5, 6\) and \(6, 5\)"):
        apply_masks(model, {"0.weight": none.T})
    other = OPTIMIZERS["SGD"](network().parameters())
    with (
        pytest.raises(ValueError, match=r"optimizer must hold the parameter '0.weight': make it after the model"),
        keep_masks(model, {"0.weight": none}, other),
    ):
        pass
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
