import math

import pytest
import torch
from torch import nn

from nnopt.models import mlp


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def test_equal_generators_give_torchs_own_weights_bit_for_bit() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        theirs = nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.Tanh(), nn.Linear(7, 3))
    ours = mlp([12, 7, 3], generator=seeded(5), activation="tanh")
    assert [type(layer) for layer in ours] == [type(layer) for layer in theirs]
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)


def test_another_seed_gives_other_weights_and_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    first, second = (mlp([4, 5, 2], generator=seeded(n)) for n in (0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first.get_parameter("1.weight"), second.get_parameter("1.weight"))


def test_parameters_are_counted_by_hand() -> None:
    # 64·32 + 32 and 32·10 + 10
    model = mlp([64, 32, 10], generator=seeded())
    assert [p.numel() for p in model.parameters()] == [2048, 32, 320, 10]


def test_it_flattens_images_and_no_activation_follows_the_last_layer() -> None:
    model = mlp([6, 4, 3], generator=seeded(2))
    images = torch.randn(50, 1, 2, 3, generator=seeded(3))
    outputs = model(images)
    assert outputs.shape == (50, 3)
    assert bool((outputs < 0).any())
    by_hand = torch.relu(images.flatten(1) @ model.get_parameter("1.weight").T + model.get_parameter("1.bias"))
    torch.testing.assert_close(outputs, by_hand @ model.get_parameter("3.weight").T + model.get_parameter("3.bias"))


def test_he_weights_have_variance_two_over_fan_in_and_zero_biases() -> None:
    layer = mlp([200, 300], generator=seeded(), initialization="he")[1]
    assert isinstance(layer, nn.Linear)
    # 60,000 draws: the standard error of the standard deviation is .3 %
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / 200), rel=0.02)
    assert int(layer.bias.count_nonzero()) == 0


def test_bad_sizes_names_and_generators_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sizes must have >= 2 entries, got \[4\]"):
        mlp([4], generator=seeded())
    with pytest.raises(ValueError, match="sizes must not be empty"):
        mlp([], generator=seeded())
    with pytest.raises(ValueError, match=r"sizes\[1\] must be >= 1, got 0"):
        mlp([4, 0, 2], generator=seeded())
    with pytest.raises(TypeError, match=r"sizes\[0\] must be an integer, got float"):
        mlp([4.0, 2], generator=seeded())  # type: ignore[list-item]
    with pytest.raises(ValueError, match="activation must be one of 'relu', 'tanh', got 'gelu'"):
        mlp([4, 2], generator=seeded(), activation="gelu")
    with pytest.raises(ValueError, match="initialization must be one of 'default', 'he', got 'glorot'"):
        mlp([4, 2], generator=seeded(), initialization="glorot")
    with pytest.raises(TypeError, match="generator must be Generator, got int"):
        mlp([4, 2], generator=0)  # type: ignore[arg-type]
