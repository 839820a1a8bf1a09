"""A small convolutional network."""

from collections.abc import Sequence

import torch
from torch import nn

from nnopt.checks import require_integer

from ._initialization import built, require_generator, require_sizes

__all__ = ["convnet"]


def convnet(
    channels: Sequence[int],
    *,
    generator: torch.Generator,
    image_shape: tuple[int, int, int] = (1, 8, 8),
    num_classes: int = 10,
    initialization: str = "default",
) -> nn.Sequential:
    """Return blocks of 3×3 convolution, ReLU and 2×2 max-pooling, and one linear layer.

    Args:
        channels: output channels of every block; each block halves height and width, rounding down.
        generator: on the CPU, draws the weights: every device gets the same ones.
        image_shape: channels, height, width of one input.
        num_classes: logits of the output.
        initialization: ``default`` is torch's (U(±1/√fan-in)), ``he`` is N(0, 2/fan-in) with zero biases.

    Returns:
        On the CPU, float32; maps ``(B, *image_shape)`` to (B, num_classes).

    Raises:
        ValueError: a size is below 1, or the image is too small for so many blocks.
        TypeError: a size is no integer, or the generator no generator.

    Example:
        >>> model = convnet([8, 16], generator=torch.Generator().manual_seed(0))
        >>> tuple(model(torch.zeros(5, 1, 8, 8)).shape)
        (5, 10)
    """
    require_generator(generator)
    require_sizes("channels", channels)
    require_sizes("image_shape", image_shape, minimum=3)
    require_integer("num_classes", num_classes, minimum=1)
    height, width = (size >> len(channels) for size in image_shape[1:])
    if min(height, width) < 1:
        raise ValueError(
            f"image_shape must be at least {2 ** len(channels)} high and wide for {len(channels)} blocks, "
            f"got {tuple(image_shape)}"
        )

    def build() -> nn.Sequential:
        layers: list[nn.Module] = []
        for channels_in, channels_out in zip([image_shape[0], *channels], channels):
            layers += [nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels[-1] * height * width, num_classes))

    return built(build, generator, initialization)
