import copy
import io
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nnopt.devices import available_devices
from nnopt.measurement import cost
from nnopt.models import convnet, mlp, resnet, transformer


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def count_taps(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Count the positions of a kernel along one axis, by walking."""
    num = 0
    start = -padding
    while start + dilation * (kernel - 1) < size + padding:
        num += 1
        start += stride
    return num


def looped_macs(layer: nn.Conv2d, shape: tuple[int, int, int, int]) -> int:
    """Count one multiplication after the other: the definition."""
    batch_size, channels_in, height, width = shape
    assert isinstance(layer.padding, tuple)
    rows, columns = (
        count_taps(size, layer.kernel_size[i], layer.stride[i], layer.padding[i], layer.dilation[i])
        for i, size in enumerate((height, width))
    )
    num = 0
    for _ in product(range(batch_size), range(layer.out_channels), range(rows), range(columns)):
        for _ in range(channels_in // layer.groups):
            for _ in product(range(layer.kernel_size[0]), range(layer.kernel_size[1])):
                num += 1
    return num


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    batch_size=st.integers(1, 2),
    groups=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    size=st.tuples(st.integers(7, 10), st.integers(7, 10)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_convolutions_of_every_stride_group_and_dilation_are_counted_as_a_loop_counts(
    batch_size: int,
    groups: int,
    channels: tuple[int, int],
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> None:
    layer = nn.Conv2d(
        groups * channels[0],
        groups * channels[1],
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )
    shape = (batch_size, groups * channels[0], *size)
    assert cost.macs(layer, torch.zeros(shape)) == looped_macs(layer, shape)


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        # 3×3, stride 2 on 7×10 without padding: 3×4 places
        (nn.Conv2d(2, 5, 3, stride=2), (1, 2, 7, 10), 3 * 4 * 5 * 2 * 9),
        # two groups of 2 -> 3 channels, stride (2, 3), padding 1: (7+2-3)/2+1 = 4 by (8+2-3)/3+1 = 3
        (nn.Conv2d(4, 6, 3, stride=(2, 3), padding=1, groups=2), (2, 4, 7, 8), 2 * 4 * 3 * 6 * 2 * 9),
        # dilation 2 spreads 3 taps over 5: 7-4 = 3 places a side
        (nn.Conv2d(1, 1, 3, dilation=2), (1, 1, 7, 7), 9 * 9),
        # depthwise: every channel by itself
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), (1, 8, 5, 5), 25 * 8 * 9),
        # a transposed convolution multiplies every input value with every tap of its group
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (1, 4, 5, 5), 25 * 4 * 3 * 9),
        (nn.Conv1d(3, 5, 4, stride=3), (2, 3, 11), 2 * 3 * 5 * 3 * 4),
        (nn.Linear(5, 7), (2, 3, 5), 2 * 3 * 5 * 7),
        (nn.BatchNorm2d(4), (2, 4, 3, 3), 0),
    ],
)
def test_macs_of_single_layers_worked_by_hand(layer: nn.Module, shape: tuple[int, ...], expected: int) -> None:
    assert cost.macs(layer, torch.zeros(shape)) == expected


def test_forgetting_the_groups_would_be_seen() -> None:
    layer = nn.Conv2d(4, 6, 3, groups=2)
    ungrouped = copy.deepcopy(layer)
    ungrouped.groups = 1
    assert looped_macs(ungrouped, (1, 4, 6, 6)) == 2 * cost.macs(layer, torch.zeros(1, 4, 6, 6))


def test_macs_of_a_transformer_worked_by_hand() -> None:
    model = transformer(8, 3, generator=seeded(), num_heads=2, context=5, vocabulary_size=11)
    length, width = 5, 8
    block = length * width * 3 * width + 2 * length * length * width + length * width * width
    block += 2 * length * width * 4 * width
    assert cost.macs(model, torch.zeros(1, 5, dtype=torch.int64)) == 3 * block + length * width * 11


def test_torchs_fused_encoder_layer_is_counted_too() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0).eval()
    tokens, width = 2 * 3, 8
    expected = tokens * width * 3 * width + 2 * (2 * 3 * 3 * width) + tokens * width * width
    expected += 2 * tokens * width * 16
    assert cost.macs(model, torch.zeros(2, 3, 8)) == expected


def test_macs_grow_with_the_batch_and_a_tuple_gives_several_inputs() -> None:
    class Product(nn.Module):
        def forward(self, first: Tensor, second: Tensor) -> Tensor:
            return first @ second

    assert cost.macs(Product(), (torch.zeros(3, 4), torch.zeros(4, 5))) == 60
    model = convnet([4, 6], generator=seeded())
    single = cost.macs(model, torch.zeros(1, 1, 8, 8))
    assert cost.macs(model, torch.zeros(7, 1, 8, 8)) == 7 * single


@pytest.mark.parametrize("layer", [nn.LSTM(5, 7), nn.Sequential(nn.Linear(5, 5), nn.LSTM(5, 7))])
def test_a_layer_that_the_counter_does_not_see_is_refused_instead_of_counted_as_free(
    layer: nn.Module,
) -> None:
    with pytest.raises(ValueError, match="model must have layers that torch's counter knows, got LSTM"):
        cost.macs(layer, torch.zeros(3, 2, 5))


def test_parameters_are_counted_once_with_and_without_zeros() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    model = nn.Sequential(first, second)
    with torch.no_grad():
        first.weight[0] = 0
        first.bias.fill_(1)
        second.bias.zero_()
    assert cost.num_parameters(model) == 9 + 3 + 3
    assert cost.num_parameters(model, nonzero=True) == 6 + 3


def test_file_bytes_are_those_that_torch_writes_and_zeros_are_not_smaller() -> None:
    model = mlp([20, 30, 10], generator=seeded())
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    before = cost.file_bytes(model)
    assert before == len(buffer.getvalue())
    with torch.no_grad():
        for p in model.parameters():
            p[torch.rand(p.shape, generator=seeded()) < 0.9] = 0
    assert cost.file_bytes(model) == before
    assert before - 4 * cost.num_parameters(model) < 4096


def test_file_bytes_see_a_tied_weight_once_and_halve_in_half_precision() -> None:
    tied = nn.Sequential(nn.Linear(100, 100), nn.Linear(100, 100))
    free = cost.file_bytes(tied)
    halved = cost.file_bytes(copy.deepcopy(tied).half())
    assert free - halved == pytest.approx(2 * 20_200, abs=300)
    tied[1].weight = tied[0].weight
    assert free - cost.file_bytes(tied) == pytest.approx(40_000, abs=300)


def test_saved_activations_worked_by_hand() -> None:
    # a linear layer saves its input, ReLU its output, which is the next layer's input: once
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
    assert cost.activation_bytes(model, torch.zeros(4, 5)) == 4 * 4 * (5 + 7)
    # tanh the same; softmax its output
    other = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3), nn.Softmax(dim=1))
    assert cost.activation_bytes(other, torch.zeros(4, 5)) == 4 * 4 * (5 + 7 + 3)
    # a convolution saves its input; max-pooling its input and int64 places of the maxima
    conv = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.MaxPool2d(2))
    assert cost.activation_bytes(conv, torch.zeros(3, 1, 8, 8)) == 3 * (64 + 128) * 4 + 3 * 32 * 8


def test_a_batch_that_is_a_view_of_a_dataset_counts_as_much_as_its_copy() -> None:
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
    dataset = torch.zeros(1000, 5)
    assert cost.report(model, dataset[:2]).rows == cost.report(model, dataset[:2].clone()).rows
    assert cost.report(model, (dataset[10:12],)).rows[0]["activation_bytes"] == 4 * 2 * (5 + 7)
    # what the model itself takes a view of stays in memory as a whole
    halves = nn.Sequential(nn.Linear(5, 8), nn.GLU())
    assert cost.activation_bytes(halves, dataset[:2]) == 4 * 2 * (5 + 8)


def test_saved_activations_are_proportional_to_the_batch_size() -> None:
    model = convnet([4, 6], generator=seeded())
    single = cost.activation_bytes(model, torch.zeros(1, 1, 8, 8))
    assert cost.activation_bytes(model, torch.zeros(9, 1, 8, 8)) == 9 * single


def test_forward_bytes_are_the_largest_input_and_output_of_a_layer() -> None:
    model = nn.Sequential(nn.Linear(5, 90), nn.ReLU(), nn.Linear(90, 3))
    assert cost.forward_bytes(model, torch.zeros(2, 5)) == 4 * 2 * 180
    # in place and views need no second tensor
    flat = nn.Sequential(nn.Linear(5, 90), nn.ReLU(inplace=True), nn.Flatten())
    assert cost.forward_bytes(flat, torch.zeros(2, 5)) == 4 * 2 * 95


def test_the_peak_of_a_training_step_on_a_cpu_is_its_formula() -> None:
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7))
    example = torch.zeros(4, 5)
    weights = 4 * (35 + 7 + 14)
    buffers = 4 * 14 + 8
    for copies in (0, 2):
        expected = weights * (2 + copies) + buffers + cost.activation_bytes(model, example)
        assert cost.peak_bytes(model, example, state_copies=copies) == expected


@pytest.mark.parametrize("device", available_devices(), ids=str)
def test_counts_do_not_depend_on_the_device_and_the_peak_is_at_least_the_formulas_parts(
    device: torch.device,
) -> None:
    model = convnet([4, 6], generator=seeded())
    example = torch.zeros(8, 1, 8, 8)
    reference = cost.report(model, example).rows[0]
    moved = copy.deepcopy(model).to(device)
    row = cost.report(moved, example.to(device)).rows[0]
    for key in ("parameters", "nonzero_parameters", "file_bytes", "macs", "forward_bytes"):
        assert row[key] == reference[key]
    assert cost.peak_bytes(moved, example.to(device)) >= 2 * 4 * cost.num_parameters(model)


@pytest.mark.parametrize("measure", [cost.macs, cost.activation_bytes, cost.forward_bytes, cost.peak_bytes])
def test_measuring_leaves_modes_buffers_gradients_hooks_and_randomness_alone(measure: object) -> None:
    assert callable(measure)
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Dropout(0.5), nn.Linear(7, 3))
    model[1].eval()
    model(torch.ones(4, 5)).sum().backward()
    before = copy.deepcopy(model)
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    state = torch.get_rng_state()
    measure(model, torch.randn(4, 5, generator=seeded()))
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    for a, b in zip(model.state_dict().values(), before.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    for p, gradient in zip(model.parameters(), gradients, strict=True):
        assert p.grad is not None
        assert gradient is not None
        assert torch.equal(p.grad, gradient)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


def test_a_failing_forward_pass_leaves_no_hooks_behind() -> None:
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(6, 2)).train()
    with pytest.raises(RuntimeError):
        cost.macs(model, torch.zeros(1, 5))
    assert model.training
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


def test_layers_add_up_to_the_model() -> None:
    model = resnet([4, 6], generator=seeded(), in_channels=1)
    example = torch.zeros(2, 1, 8, 8)
    rows = cost.by_layer(model, example).rows
    assert sum(int(row["macs"] or 0) for row in rows) == cost.macs(model, example)
    assert sum(int(row["parameters"] or 0) for row in rows) == cost.num_parameters(model)
    assert rows[0] == {"layer": "0", "kind": "Conv2d", "parameters": 36, "macs": 4608, "output_bytes": 2048}


def test_a_layer_called_twice_counts_twice() -> None:
    layer = nn.Linear(4, 4)
    rows = cost.by_layer(nn.Sequential(layer, nn.ReLU(), layer), torch.zeros(3, 4)).rows
    assert [(row["layer"], row["macs"], row["output_bytes"]) for row in rows] == [
        ("0", 2 * 48, 2 * 48),
        ("1", 0, 48),
    ]


def test_a_report_has_a_row_for_each_model_and_displays_as_text_table_and_numbers() -> None:
    models = {"small": mlp([5, 4, 3], generator=seeded()), "large <b>": mlp([5, 40, 3], generator=seeded())}
    quality: dict[str, float | tuple[float, float, float]] = {
        "small": (0.9123, 0.9, 0.925),
        "large <b>": 0.95,
    }
    report = cost.report(models, torch.zeros(1, 5), quality=quality, quality_name="accuracy")
    bundle = report._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html", "application/vnd.nnopt.cost+json"}
    assert bundle["application/vnd.nnopt.cost+json"][0] == {
        "model": "small",
        "quality": 0.9123,
        "quality_low": 0.9,
        "quality_high": 0.925,
        "parameters": 39,
        "nonzero_parameters": 39,
        "file_bytes": cost.file_bytes(models["small"]),
        "macs": 32,
        "activation_bytes": 4 * 9,
        "forward_bytes": 4 * 9,
    }
    assert '<table class="nnopt-cost">' in bundle["text/html"]
    assert "large &lt;b&gt;" in bundle["text/html"]
    assert "0.912 [0.9, 0.925]" in bundle["text/plain"]
    assert bundle["text/plain"].split("\n")[0] == "Cost, for an input of (1, 5)"
    again = cost.report(models, torch.zeros(1, 5), quality=quality, quality_name="accuracy")
    assert again._repr_mimebundle_() == bundle


def test_a_report_without_quality_has_no_such_column_and_names_a_single_model_by_its_class() -> None:
    report = cost.report(mlp([5, 3], generator=seeded()), torch.zeros(1, 5))
    assert report.rows[0]["model"] == "Sequential"
    assert report.rows[0]["quality"] is None
    assert "quality" not in str(report)


def test_the_table_of_layers_is_not_taken_for_a_row_of_the_books_list() -> None:
    bundle = cost.by_layer(mlp([5, 3], generator=seeded()), torch.zeros(1, 5))._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html"}


def test_what_is_no_model_or_has_other_names_is_refused() -> None:
    model = mlp([5, 3], generator=seeded())
    for measure in (cost.macs, cost.activation_bytes, cost.forward_bytes, cost.peak_bytes):
        with pytest.raises(TypeError, match="model must be Module, got str"):
            measure("model", torch.zeros(1))  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="example must be Tensor, got list"):
            measure(model, [1.0, 2.0])  # type: ignore[arg-type]
    for count in (cost.num_parameters, cost.file_bytes):
        with pytest.raises(TypeError, match="model must be Module, got NoneType"):
            count(None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="models must not be empty"):
        cost.report({}, torch.zeros(1, 5))
    with pytest.raises(ValueError, match=r"quality must have the names \['a'\], got \['b'\]"):
        cost.report({"a": model}, torch.zeros(1, 5), quality={"b": 1.0})
    with pytest.raises(ValueError, match="state_copies must be >= 0, got -1"):
        cost.peak_bytes(model, torch.zeros(1, 5), state_copies=-1)
