"""Dropout and stochastic depth: their whole law, the libraries, the two modes, and where randomness comes from."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from torch import Tensor, nn

from nnopt.data import batches
from nnopt.devices import available_devices
from nnopt.measurement import cost
from nnopt.models import mlp
from nnopt.regularization import Dropout, DropPath, apply_keep_mask, drop_path, dropout, keep_mask
from nnopt.seeding import seeds
from nnopt.training import evaluation_mode, fit, sweep

# each test of a distribution refuses a right implementation for one seed of a million
FALSE_ALARM = 1e-6

Dropping = Callable[[Tensor, float, torch.Generator], Tensor]


def seeded(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def torchs(function: Callable[[Tensor], Tensor]) -> Dropping:
    """Run a function of torch's global randomness from the state of a generator."""

    def run(inputs: Tensor, p: float, generator: torch.Generator) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(generator.get_state())
            return function(inputs)

    return run


def torch_dropout(inputs: Tensor, p: float, generator: torch.Generator) -> Tensor:
    return torchs(lambda x: nn.functional.dropout(x, p))(inputs, p, generator)


def torchvision_depth(inputs: Tensor, p: float, generator: torch.Generator) -> Tensor:
    return torchs(lambda x: torchvision.ops.stochastic_depth(x, p, "row"))(inputs, p, generator)


def our_dropout(inputs: Tensor, p: float, generator: torch.Generator) -> Tensor:
    return dropout(inputs, p, generator=generator)


def our_drop_path(inputs: Tensor, p: float, generator: torch.Generator) -> Tensor:
    return drop_path(inputs, p, generator=generator)


def law_is_right(patterns: Tensor, p: float) -> bool:
    """Whether rows of 4 kept-or-dropped values follow the product law, by Pearson's statistic on all 16 patterns."""
    codes = (patterns.long() * torch.tensor([1, 2, 4, 8])).sum(1)
    counts = codes.bincount(minlength=16).double()
    num_kept = torch.tensor([bin(code).count("1") for code in range(16)])
    expected = len(patterns) * (1 - p) ** num_kept.double() * p ** (4 - num_kept).double()
    statistic = float(((counts - expected).square() / expected).sum())
    return statistic <= float(chi2.ppf(1 - FALSE_ALARM, 15))


def unit_patterns(drop: Dropping, p: float) -> Tensor:
    """Two units of two examples: dependence between units or between rows changes the frequencies."""
    outputs = drop(torch.ones(40_000, 2), p, seeded(11))
    return (outputs != 0).view(20_000, 4)


def row_patterns(drop: Dropping, p: float) -> Tensor:
    """Four examples, and every one is dropped or kept as a whole."""
    outputs = drop(torch.ones(80_000, 3, 2), p, seeded(12)).flatten(1)
    assert ((outputs == outputs[:, :1]).all(dim=1)).all()
    return (outputs[:, 0] != 0).view(20_000, 4)


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("drop", [our_dropout, torch_dropout])
def test_units_are_dropped_by_the_same_law_as_torchs(drop: Dropping, p: float) -> None:
    assert law_is_right(unit_patterns(drop, p), p)


@pytest.mark.parametrize("p", [0.2, 0.5])
@pytest.mark.parametrize("drop", [our_drop_path, torchvision_depth])
def test_rows_are_dropped_by_the_same_law_as_torchvisions(drop: Dropping, p: float) -> None:
    assert law_is_right(row_patterns(drop, p), p)


def one_mask_for_the_batch(inputs: Tensor, p: float, generator: torch.Generator) -> Tensor:
    return inputs * keep_mask(inputs[:1], p, generator=generator)


def one_mask_for_a_row(inputs: Tensor, p: float, generator: torch.Generator) -> Tensor:
    return inputs * keep_mask(inputs, p, per_row=True, generator=generator)


def a_little_too_often(inputs: Tensor, p: float, generator: torch.Generator) -> Tensor:
    return dropout(inputs, p + 0.02, generator=generator)


@pytest.mark.parametrize("wrong", [one_mask_for_the_batch, one_mask_for_a_row, a_little_too_often])
def test_planted_wrong_laws_are_seen(wrong: Dropping) -> None:
    assert not law_is_right(unit_patterns(wrong, 0.3), 0.3)


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.77])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-15), (torch.float32, 1e-6)])
def test_from_the_same_state_the_outputs_are_torchs(p: float, dtype: torch.dtype, tolerance: float) -> None:
    inputs = random(9, 5, 3, dtype=dtype)
    ours, theirs = dropout(inputs, p, generator=seeded(3)), torch_dropout(inputs, p, seeded(3))
    assert torch.equal(ours == 0, theirs == 0)
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=0)
    ours, theirs = drop_path(inputs, p, generator=seeded(4)), torchvision_depth(inputs, p, seeded(4))
    assert torch.equal(ours == 0, theirs == 0)
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=0)


@pytest.mark.parametrize("device", available_devices(), ids=str)
def test_given_torchs_own_mask_the_outputs_and_gradients_are_torchs(device: torch.device) -> None:
    inputs = random(6, 4, 5).to(device).requires_grad_()
    with torch.random.fork_rng():
        theirs, mask = torch.native_dropout(inputs, 0.3, True)
    ours = apply_keep_mask(inputs, mask, 0.3)
    torch.testing.assert_close(ours, theirs, rtol=1e-15, atol=0)
    weights = random(6, 4, 5, seed=1).to(device)
    for outputs in (ours, theirs):
        (gradient,) = torch.autograd.grad((outputs * weights).sum(), inputs)
        torch.testing.assert_close(gradient, weights * mask / 0.7, rtol=1e-14, atol=0)


def test_the_functions_follow_the_scalar_rule_with_their_mask() -> None:
    inputs = random(4, 3)
    mask = keep_mask(inputs, 0.4, generator=seeded(5))
    outputs = dropout(inputs, 0.4, generator=seeded(5))
    for i in range(4):
        for j in range(3):
            expected = inputs[i, j].item() / 0.6 if mask[i, j] else 0.0
            assert outputs[i, j].item() == pytest.approx(expected, rel=1e-15)


def test_one_case_by_hand() -> None:
    inputs = torch.tensor([[3.0, -1.0], [2.0, 8.0]])
    mask = torch.tensor([[True, False], [False, True]])
    assert apply_keep_mask(inputs, mask, 0.75).tolist() == [[12.0, 0.0], [0.0, 32.0]]
    assert apply_keep_mask(inputs, mask[:, :1], 0.75).tolist() == [[12.0, -4.0], [0.0, 0.0]]


@given(st.floats(0.01, 0.99), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**32))
@settings(derandomize=True, deadline=None, max_examples=30)
def test_the_mean_over_all_masks_is_the_input_and_the_variance_is_known(
    p: float, num_rows: int, num_units: int, seed: int
) -> None:
    inputs = random(num_rows, num_units, seed=seed)
    size = inputs.numel()
    first, second = torch.zeros_like(inputs), torch.zeros_like(inputs)
    for code in range(2**size):
        mask = torch.tensor([bool(code >> place & 1) for place in range(size)]).view_as(inputs)
        probability = (1 - p) ** int(mask.sum()) * p ** int((~mask).sum())
        outputs = apply_keep_mask(inputs, mask, p)
        first += probability * outputs
        second += probability * outputs.square()
    torch.testing.assert_close(first, inputs, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(second - first.square(), p / (1 - p) * inputs.square(), rtol=1e-6, atol=1e-9)


def test_the_planted_fault_without_the_scale_shifts_the_mean() -> None:
    inputs = torch.ones(100_000)
    right = dropout(inputs, 0.5, generator=seeded(0)).mean()
    wrong = (inputs * keep_mask(inputs, 0.5, generator=seeded(0))).mean()
    assert abs(float(right) - 1) < 0.02
    assert abs(float(wrong) - 1) > 0.4


@pytest.mark.parametrize("drop", [our_dropout, our_drop_path])
def test_at_zero_nothing_is_drawn_and_at_one_everything_is_dropped(drop: Dropping) -> None:
    inputs, generator = random(5, 4), seeded(1)
    state = generator.get_state()
    assert drop(inputs, 0.0, generator) is inputs
    assert torch.equal(generator.get_state(), state)
    leaf = inputs.clone().requires_grad_()
    nothing = drop(leaf, 1.0, generator)
    assert torch.equal(nothing, torch.zeros_like(inputs))
    nothing.sum().backward()
    assert leaf.grad is not None
    assert torch.equal(leaf.grad, torch.zeros_like(inputs))


def test_masks_of_all_or_nothing() -> None:
    inputs = random(3, 4)
    assert keep_mask(inputs, 0.0).all()
    assert not keep_mask(inputs, 1.0).any()
    assert keep_mask(inputs, 0.5, per_row=True).shape == (3, 1)
    assert keep_mask(random(3, 2, 4, 5), 0.5, per_row=True).shape == (3, 1, 1, 1)


@pytest.mark.parametrize("drop", [our_dropout, our_drop_path])
def test_gradients_are_those_of_the_masked_function(drop: Dropping) -> None:
    inputs = random(4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: drop(x.sin(), 0.4, seeded(8)), (inputs,))


def test_inputs_and_global_state_stay_as_they_are() -> None:
    inputs, state = random(5, 2), torch.get_rng_state()
    kept = inputs.clone()
    dropout(inputs, 0.5, generator=seeded(0))
    drop_path(inputs, 0.5, generator=seeded(0))
    assert torch.equal(inputs, kept)
    assert torch.equal(torch.get_rng_state(), state)


def test_without_a_generator_the_global_one_is_drawn_from() -> None:
    inputs = random(20, 6)
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(seeded(4).get_state())
        outputs = dropout(inputs, 0.5)
    assert torch.equal(outputs, dropout(inputs, 0.5, generator=seeded(4)))


@pytest.mark.parametrize("device", available_devices(), ids=str)
def test_a_generator_of_the_cpu_gives_every_device_the_same_mask(device: torch.device) -> None:
    inputs = random(7, 3)
    here = keep_mask(inputs.to(device), 0.5, generator=seeded(2))
    assert here.device.type == device.type
    assert torch.equal(here.cpu(), keep_mask(inputs, 0.5, generator=seeded(2)))


@pytest.mark.parametrize("device", available_devices(), ids=str)
def test_a_generator_of_the_device_is_drawn_from_there(device: torch.device) -> None:
    inputs = torch.ones(4000, 5, device=device)
    generator = torch.Generator(device=device).manual_seed(3)
    outputs = dropout(inputs, 0.5, generator=generator)
    again = dropout(inputs, 0.5, generator=torch.Generator(device=device).manual_seed(3))
    assert torch.equal(outputs, again)
    assert 0.9 < float(outputs.mean()) < 1.1


@pytest.mark.parametrize("device", available_devices(), ids=str)
@pytest.mark.parametrize(
    ("layer", "function"),
    [
        (lambda g: Dropout(0.4, generator=g), our_dropout),
        (lambda g: DropPath(0.4, generator=g), our_drop_path),
    ],
)
def test_layers_equal_their_functions_in_training_and_return_the_input_itself_in_evaluation(
    layer: Callable[[torch.Generator], nn.Module], function: Dropping, device: torch.device
) -> None:
    inputs = random(6, 5).to(device)
    module = layer(seeded(9))
    generator = seeded(9)
    for _ in range(3):
        assert torch.equal(module(inputs), function(inputs, 0.4, generator))
    module.eval()
    assert module(inputs) is inputs


def test_layers_work_inside_a_sequence_and_add_nothing_to_its_state() -> None:
    first, second = mlp((4, 9), generator=seeded(1)), mlp((9, 2), generator=seeded(2))
    model = nn.Sequential(first, Dropout(0.5, generator=seeded(0)), second)
    inputs = random(3, 4, dtype=torch.float32)
    assert set(model.state_dict()) == {"0.1.weight", "0.1.bias", "2.1.weight", "2.1.bias"}
    assert not torch.equal(model(inputs), model(inputs))
    with evaluation_mode(model):
        assert torch.equal(model(inputs), model(inputs))
    assert repr(model[1]) == "Dropout(drop_probability=0.5)"


def test_a_copied_layer_continues_as_the_first_one_would() -> None:
    layer, inputs = Dropout(0.5, generator=seeded(3)), random(8, 8)
    layer(inputs)
    twin = copy.deepcopy(layer)
    assert torch.equal(layer(inputs), twin(inputs))


def test_fit_seeds_a_layer_without_a_generator_of_its_own() -> None:
    inputs, targets = random(40, 3, dtype=torch.float32), random(40, 1, seed=1, dtype=torch.float32)

    def losses(seed: int) -> list[float]:
        first, second = mlp((3, 8), generator=seeded(1)), mlp((8, 1), generator=seeded(2))
        model = nn.Sequential(first, Dropout(0.5), second)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        loader = batches(inputs, targets, batch_size=10, generator=seeded(5))
        run = fit(model, optimizer, nn.functional.mse_loss, loader, num_epochs=2, generator=seeded(seed))
        return list(run.losses)

    state = torch.get_rng_state()
    assert losses(1) == losses(1)
    assert losses(1) != losses(2)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("layer", [Dropout, DropPath])
def test_a_sweep_gives_every_copy_masks_of_its_own(layer: type[nn.Module]) -> None:
    def make(generator: torch.Generator) -> nn.Module:
        return nn.Sequential(layer(0.5), mlp((6, 1), generator=seeded(1)))

    def step(parameter: Tensor, gradient: Tensor, *, lr: float | Tensor) -> Tensor:
        return parameter - lr * gradient

    data = random(8, 6, dtype=torch.float32), torch.zeros(8, 1)
    losses = sweep(
        make, step, lambda z, y: z.mean(), data,
        settings=[{"lr": 0.0}], seeds=seeds("test dropout", 20), total_steps=2, batch_size=8,
    ).losses  # fmt: skip
    assert len(losses.unique()) > 30


def test_autograd_keeps_a_byte_a_value_where_torch_keeps_a_number() -> None:
    inputs = torch.ones(10, 100)
    ours = cost.activation_bytes(nn.Sequential(nn.Linear(100, 100), Dropout(0.5)), inputs)
    theirs = cost.activation_bytes(nn.Sequential(nn.Linear(100, 100), nn.Dropout(0.5)), inputs)
    assert theirs - ours == 10 * 100 * 3


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan, math.inf])
def test_a_probability_outside_its_range_is_refused(p: float) -> None:
    message = r"drop_probability must be in \[0, 1\], got"
    inputs = torch.ones(3, 2)
    for call in (
        lambda: keep_mask(inputs, p),
        lambda: apply_keep_mask(inputs, torch.ones(3, 2, dtype=torch.bool), p),
        lambda: dropout(inputs, p),
        lambda: drop_path(inputs, p),
        lambda: Dropout(p),
        lambda: DropPath(p),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_bad_arguments_are_refused_by_name() -> None:
    inputs = torch.ones(3, 2)
    for drop in (dropout, drop_path):
        with pytest.raises(TypeError, match=r"inputs must be floating point, got torch\.int64"):
            drop(torch.ones(3, 2, dtype=torch.long), 0.5)
        with pytest.raises(TypeError, match="inputs must be Tensor, got list"):
            drop([1.0], 0.5)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="generator must be Generator or NoneType, got int"):
            drop(inputs, 0.5, generator=0)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="drop_probability must be a number, got str"):
            drop(inputs, "half")  # type: ignore[arg-type]
    for layer in (Dropout, DropPath):
        with pytest.raises(TypeError, match="generator must be Generator or NoneType, got int"):
            layer(0.5, generator=0)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="drop_probability must be a number, got bool"):
            layer(True)
    with pytest.raises(ValueError, match="inputs must have rows, got a single number"):
        drop_path(torch.tensor(1.0), 0.5)
    with pytest.raises(ValueError, match="inputs must have rows, got a single number"):
        keep_mask(torch.tensor(1.0), 0.5, per_row=True)
    with pytest.raises(TypeError, match=r"mask must be bool, got torch\.float32"):
        apply_keep_mask(inputs, torch.ones(3, 2), 0.5)
    with pytest.raises(TypeError, match="mask must be Tensor, got list"):
        apply_keep_mask(inputs, [True], 0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"mask must have the shape of inputs, \(3, 2\), or 1 .*, got \(2,\)"):
        apply_keep_mask(inputs, torch.ones(2, dtype=torch.bool), 0.5)
