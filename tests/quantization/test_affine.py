"""Affine quantization: bits of torch, bounds of the mathematics, and the formulas that only look right."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nnopt.devices import available_devices
from nnopt.quantization import Quantized, choose_grid, quantize, quantize_weights

BITS = range(1, 9)
FIXED = settings(derandomize=True, deadline=None, max_examples=60)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_three_values_on_four_levels_by_hand() -> None:
    found = quantize(torch.tensor([-1.0, 0.4, 0.6, 2.0]), 2)
    assert found.codes.tolist() == [0, 1, 2, 3]
    assert found.scale.tolist() == [1.0]
    assert found.zero_point.tolist() == [1]
    assert found.dequantize().tolist() == [-1.0, 0.0, 1.0, 2.0]


def test_symmetric_codes_by_hand() -> None:
    found = quantize(torch.tensor([-1.0, 0.2, 3.0]), 3, symmetric=True)
    assert found.codes.tolist() == [-1, 0, 3]
    assert found.codes.dtype == torch.int8


def test_each_value_goes_to_the_nearest_level_of_its_grid() -> None:
    values = random(200, dtype=torch.float64)
    for num_bits in BITS:
        found = quantize(values, num_bits)
        levels = [float(found.scale) * (code - int(found.zero_point)) for code in range(2**num_bits)]
        for value, restored in zip(values.tolist(), found.dequantize().tolist(), strict=True):
            nearest = min(levels, key=lambda level: abs(level - value))
            assert math.isclose(abs(restored - value), abs(nearest - value), abs_tol=1e-12)


@pytest.mark.parametrize("device", available_devices(), ids=str)
@pytest.mark.parametrize("num_bits", BITS)
def test_affine_is_bit_equal_to_torch_per_tensor_and_per_channel(device: torch.device, num_bits: int) -> None:
    values, top = random(6, 5, 3, seed=num_bits).to(device), 2**num_bits - 1
    whole = quantize(values, num_bits)
    theirs = torch.fake_quantize_per_tensor_affine(values, float(whole.scale), int(whole.zero_point), 0, top)
    assert torch.equal(whole.dequantize(), theirs)
    rows = quantize(values, num_bits, granularity="channel")
    theirs = torch.fake_quantize_per_channel_affine(values, rows.scale, rows.zero_point, 0, 0, top)
    assert torch.equal(rows.dequantize(), theirs)
    assert rows.codes.device == values.device


@pytest.mark.parametrize("num_bits", range(2, 9))
def test_symmetric_is_bit_equal_to_torch_per_tensor_and_per_channel(num_bits: int) -> None:
    values, top = random(6, 15, seed=num_bits), 2 ** (num_bits - 1) - 1
    whole = quantize(values, num_bits, symmetric=True)
    theirs = torch.fake_quantize_per_tensor_affine(values, float(whole.scale), 0, -top, top)
    assert torch.equal(whole.dequantize(), theirs)
    rows = quantize(values, num_bits, symmetric=True, granularity="channel")
    theirs = torch.fake_quantize_per_channel_affine(values, rows.scale, rows.zero_point, 0, -top, top)
    assert torch.equal(rows.dequantize(), theirs)


@pytest.mark.parametrize("symmetric", [False, True])
def test_groups_and_channels_are_tensors_of_their_own(symmetric: bool) -> None:
    values = random(4, 12)
    rows = quantize(values, 3, symmetric=symmetric, granularity="channel").dequantize()
    groups = quantize(values, 3, symmetric=symmetric, granularity=6).dequantize()
    for i in range(4):
        assert torch.equal(rows[i], quantize(values[i], 3, symmetric=symmetric).dequantize())
        for start in (0, 6):
            alone = quantize(values[i, start : start + 6], 3, symmetric=symmetric).dequantize()
            assert torch.equal(groups[i, start : start + 6], alone)


@FIXED
@given(
    values=st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1, max_size=24),
    num_bits=st.integers(2, 8),
    symmetric=st.booleans(),
)
def test_no_value_moves_by_more_than_half_a_scale(values: list[float], num_bits: int, symmetric: bool) -> None:
    tensor = torch.tensor(values, dtype=torch.float64)
    found = quantize(tensor, num_bits, symmetric=symmetric)
    error = (found.dequantize() - tensor).abs().max()
    assert float(error) <= float(found.scale) * (0.5 + 1e-9)
    low, high = (-(2 ** (num_bits - 1)) + 1, 2 ** (num_bits - 1) - 1) if symmetric else (0, 2**num_bits - 1)
    assert int(found.codes.min()) >= low
    assert int(found.codes.max()) <= high


@FIXED
@given(seed=st.integers(0, 999), num_bits=st.integers(2, 8), symmetric=st.booleans())
def test_quantizing_again_on_the_same_grid_changes_nothing(seed: int, num_bits: int, symmetric: bool) -> None:
    once = quantize(random(30, seed=seed), num_bits, symmetric=symmetric)
    grid = once.scale, once.zero_point
    again = quantize(once.dequantize(), num_bits, symmetric=symmetric, grid=grid)
    assert torch.equal(again.codes, once.codes)


@pytest.mark.parametrize("num_bits", BITS)
def test_zero_is_a_level(num_bits: int) -> None:
    for values in (random(20), random(20).abs() + 1, -random(20).abs() - 1):
        values[3] = 0.0
        assert float(quantize(values, num_bits).dequantize()[3]) == 0.0


@pytest.mark.parametrize("value", [0.0, 0.7, -3.0, 1e-42, 3e38])
@pytest.mark.parametrize("symmetric", [False, True])
def test_equal_values_come_back_nearly_as_they_were(value: float, symmetric: bool) -> None:
    restored = quantize(torch.full((4,), value), 4, symmetric=symmetric).dequantize()
    torch.testing.assert_close(restored, torch.full((4,), value), rtol=1e-6, atol=1e-41)


def test_values_outside_a_given_grid_go_to_its_ends() -> None:
    grid = torch.tensor([0.5]), torch.tensor([1], dtype=torch.int32)
    found = quantize(torch.tensor([-9.0, 0.5, 9.0]), 2, grid=grid)
    assert found.dequantize().tolist() == [-0.5, 0.5, 1.0]


def test_the_popular_formula_has_four_times_the_squared_error_and_moves_up() -> None:
    values = random(20_000, dtype=torch.float64)
    low, step = values.min(), (values.max() - values.min()) / 15
    popular = low + step * torch.round((values - low) / step + 0.5)
    nearest = low + step * torch.round((values - low) / step)
    ratio = (popular - values).square().mean() / (nearest - values).square().mean()
    assert 3.8 < float(ratio) < 4.2
    assert 0.48 < float((popular - values).mean() / step) < 0.52


def test_bytes_count_codes_scales_and_zero_points() -> None:
    values = random(3, 10)
    assert quantize(values, 8).num_bytes == 30 + 5
    assert quantize(values, 3).num_bytes == 12 + 5
    assert quantize(values, 3, symmetric=True).num_bytes == 12 + 4
    assert quantize(values, 4, granularity="channel").num_bytes == 15 + 3 * 5
    assert quantize(values, 4, granularity=5).num_bytes == 15 + 6 * 5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_grid_has_at_least_single_precision(dtype: torch.dtype) -> None:
    values = random(8).to(dtype)
    scale, zero_point = choose_grid(values, 8)
    assert scale.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert zero_point.dtype == torch.int32
    assert float((quantize(values, 8).dequantize() - values).abs().max()) <= 0.51 * float(scale)


@pytest.mark.parametrize("device", available_devices(), ids=str)
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_a_model_comes_back_as_a_copy_with_its_weights_on_grids(device: torch.device, granularity: str) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3)).to(device)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    small = quantize_weights(model, 3, granularity="channel" if granularity == "channel" else "tensor")
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    for name, value in small.state_dict().items():
        if name in ("0.weight", "3.weight"):
            expected = quantize(kept[name], 3, granularity="channel" if granularity == "channel" else "tensor")
            assert torch.equal(value, expected.dequantize())
        else:
            assert torch.equal(value, kept[name])
    assert small(torch.zeros(2, 1, 4, 4, device=device)).shape == (2, 3)


def test_nothing_is_changed_in_place_and_no_gradient_is_asked_for() -> None:
    values = random(5).requires_grad_()
    kept = values.detach().clone()
    found = quantize(values, 2)
    assert isinstance(found, Quantized)
    assert not found.dequantize().requires_grad
    assert torch.equal(values, kept)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((torch.ones(3, dtype=torch.int64), 4), {}, TypeError, "values must be floating point, got torch.int64"),
        (([1.0], 4), {}, TypeError, "values must be"),
        ((torch.ones(0), 4), {}, ValueError, "values must not be empty"),
        ((torch.tensor([1.0, math.nan]), 4), {}, ValueError, "values must be finite"),
        ((torch.tensor([1.0, math.inf]), 4), {}, ValueError, "values must be finite"),
        ((torch.ones(3), 0), {}, ValueError, "num_bits must be >= 1, got 0"),
        ((torch.ones(3), 9), {}, ValueError, "num_bits must be <= 8, got 9"),
        ((torch.ones(3), 4.0), {}, TypeError, "num_bits must be an integer"),
        ((torch.ones(3), 1), {"symmetric": True}, ValueError, "num_bits must be >= 2, got 1"),
        ((torch.ones(3), 4), {"granularity": "row"}, ValueError, "granularity must be one of"),
        ((torch.ones(3), 4), {"granularity": 2}, ValueError, "granularity must divide the last dimension"),
        ((torch.ones(3), 4), {"granularity": 0}, ValueError, "granularity must be >= 1, got 0"),
        ((torch.tensor(1.0), 4), {"granularity": "channel"}, ValueError, "values must have a first dimension"),
        ((torch.tensor(1.0), 4), {"granularity": 1}, ValueError, "granularity must divide the last dimension"),
        (
            (torch.ones(3), 4),
            {"grid": (torch.ones(2), torch.zeros(1))},
            ValueError,
            r"scale of grid must have shape \(1,\), got \(2,\)",
        ),
        (
            (torch.ones(3), 4),
            {"grid": (torch.zeros(1), torch.zeros(1))},
            ValueError,
            "scale of grid must be > 0 and finite",
        ),
    ],
)
def test_bad_arguments_are_refused(
    arguments: tuple[object, ...], options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        quantize(*arguments, **options)  # type: ignore[arg-type]


def test_a_model_without_weights_or_with_a_broken_one_is_refused() -> None:
    with pytest.raises(ValueError, match="model must have a linear or convolutional layer, got none"):
        quantize_weights(nn.Sequential(nn.ReLU()), 4)
    broken = nn.Linear(2, 2)
    nn.init.constant_(broken.weight, math.nan)
    with pytest.raises(ValueError, match="values must be finite"):
        quantize_weights(broken, 4)
    with pytest.raises(TypeError, match="model must be"):
        quantize_weights("model", 4)  # type: ignore[arg-type]
