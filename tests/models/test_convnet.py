import pytest
import torch
from torch import nn

from nnopt.models import convnet


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def test_equal_generators_give_torchs_own_weights_bit_for_bit() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        layers = [nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 2 * 3, 5)]
    ours = convnet([3, 4], generator=seeded(5), image_shape=(2, 8, 12), num_classes=5)
    theirs = [p for layer in layers for p in layer.parameters()]
    for a, b in zip(ours.parameters(), theirs, strict=True):
        assert torch.equal(a, b)


def test_parameters_are_counted_by_hand() -> None:
    # 8·1·9 + 8, 16·8·9 + 16, and 16·2·2·10 + 10
    model = convnet([8, 16], generator=seeded())
    assert [p.numel() for p in model.parameters()] == [72, 8, 1152, 16, 640, 10]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 13), (1, 28, 28)])
def test_it_maps_images_of_any_shape_to_logits(shape: tuple[int, int, int]) -> None:
    model = convnet([4, 6, 5], generator=seeded(), image_shape=shape, num_classes=7)
    assert model(torch.rand(2, *shape, generator=seeded(1))).shape == (2, 7)


def test_an_image_too_small_for_its_blocks_and_bad_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"image_shape must be at least 16 high and wide for 4 blocks"):
        convnet([4, 4, 4, 4], generator=seeded())
    with pytest.raises(ValueError, match="channels must not be empty"):
        convnet([], generator=seeded())
    with pytest.raises(ValueError, match=r"num_classes must be >= 1, got 0"):
        convnet([4], generator=seeded(), num_classes=0)
    with pytest.raises(ValueError, match="image_shape must have >= 3 entries"):
        convnet([4], generator=seeded(), image_shape=(8, 8))  # type: ignore[arg-type]
