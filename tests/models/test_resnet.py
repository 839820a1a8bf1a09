import math

import pytest
import torch
from torch import Tensor, nn

from nnopt.models import ResidualBlock, resnet


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_parameters_are_counted_by_hand() -> None:
    # 3×3 convolutions without bias, 2 per channel of every normalization, 1×1 shortcuts where it grows
    stem = 1 * 4 * 9 + 2 * 4
    first = 2 * (4 * 4 * 9 + 2 * 4)
    second = 4 * 6 * 9 + 2 * 6 + 6 * 6 * 9 + 2 * 6 + 4 * 6 + 2 * 6
    head = 6 * 10 + 10
    assert count(resnet([4, 6], generator=seeded(), in_channels=1)) == stem + first + second + head


def test_three_stages_of_n_blocks_have_6n_plus_2_layers() -> None:
    for num_blocks in (1, 3):
        model = resnet([4, 8, 16], generator=seeded(), num_blocks=num_blocks)
        layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        main = [m for m in layers if not (isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1))]
        assert len(main) == 6 * num_blocks + 2


def test_equal_generators_give_equal_weights_and_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    first, second, other = (resnet([4, 8], generator=seeded(n)) for n in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.get_parameter("0.weight"), other.get_parameter("0.weight"))


def sizes_of_maps(model: nn.Sequential, images: Tensor) -> list[int]:
    sizes = []
    for layer in model:
        images = layer(images)
        if isinstance(layer, (nn.Conv2d, ResidualBlock)):
            sizes.append(images.shape[-1])
    return sizes


@pytest.mark.parametrize(("stem_stride", "expected"), [(1, [28, 28, 14, 7]), (2, [14, 14, 7, 4])])
def test_a_stem_of_stride_two_halves_every_map(stem_stride: int, expected: list[int]) -> None:
    model = resnet([4, 6, 8], generator=seeded(), in_channels=1, stem_stride=stem_stride)
    images = torch.rand(3, 1, 28, 28, generator=seeded(1))
    assert sizes_of_maps(model, images) == expected
    assert model(images).shape == (3, 10)


def test_a_block_adds_its_residual_to_the_shortcut() -> None:
    block = ResidualBlock(4, 4).eval()
    images = torch.randn(2, 4, 5, 5, generator=seeded(2))
    with torch.no_grad():
        for p in block.residual.parameters():
            p.zero_()
    assert torch.equal(block(images), torch.relu(images))


def test_he_initialization_is_the_default_and_torchs_can_be_asked_for() -> None:
    he, default, silent = (
        model.get_parameter("3.residual.3.weight")
        for model in (
            resnet([64], generator=seeded(), initialization="he"),
            resnet([64], generator=seeded(), initialization="default"),
            resnet([64], generator=seeded()),
        )
    )
    assert he.std().item() == pytest.approx(math.sqrt(2 / 576), rel=0.03)
    assert default.abs().max().item() <= 1 / math.sqrt(576)
    assert torch.equal(silent, he)


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"channels\[1\] must be >= 1, got -2"):
        resnet([4, -2], generator=seeded())
    with pytest.raises(ValueError, match=r"num_blocks must be >= 1, got 0"):
        resnet([4], generator=seeded(), num_blocks=0)
    with pytest.raises(TypeError, match=r"stem_stride must be an integer, got float"):
        resnet([4], generator=seeded(), stem_stride=1.0)  # type: ignore[arg-type]
