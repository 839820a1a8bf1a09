"""A residual network in the style used for CIFAR-10."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from nnopt.checks import require_integer

from ._initialization import built, require_generator, require_sizes

__all__ = ["ResidualBlock", "resnet"]


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with batch normalization around a shortcut: y = relu(F(x) + S(x)).

    S is the identity, or a 1×1 convolution with batch normalization where the shape changes.

    Args:
        channels_in: of the input.
        channels_out: of the output.
        stride: of the first convolution and of the shortcut.
    """

    def __init__(self, channels_in: int, channels_out: int, *, stride: int = 1) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(),
            nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
        )
        self.shortcut = (
            nn.Identity()
            if stride == 1 and channels_in == channels_out
            else nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False),
                nn.BatchNorm2d(channels_out),
            )
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (B, channels_in, H, W) to (B, channels_out, ⌈H / stride⌉, ⌈W / stride⌉)."""
        return torch.relu(cast(Tensor, self.residual(inputs) + self.shortcut(inputs)))


def resnet(
    channels: Sequence[int],
    *,
    generator: torch.Generator,
    num_blocks: int = 1,
    in_channels: int = 3,
    num_classes: int = 10,
    stem_stride: int = 1,
    initialization: str = "he",
) -> nn.Sequential:
    """Return a residual network: 3×3 stem, stages of residual blocks, global mean, linear layer.

    With three stages of n blocks it has 6n + 2 layers with weights, the shortcuts not counted.

    Args:
        channels: of every stage; each stage after the first halves height and width.
        generator: on the CPU, draws the weights: every device gets the same ones.
        num_blocks: residual blocks of every stage.
        in_channels: 1 for gray images, 3 for color.
        num_classes: logits of the output.
        stem_stride: 2 halves the image at once and makes the network about three times cheaper.
        initialization: ``he`` is N(0, 2/fan-in), ``default`` torch's (U(±1/√fan-in)).

    Returns:
        On the CPU, float32; maps (B, in_channels, H, W) to (B, num_classes).

    Raises:
        ValueError: a size is below 1.
        TypeError: a size is no integer, or the generator no generator.

    Source:
        K. He, X. Zhang, S. Ren and J. Sun, Deep Residual Learning for Image Recognition, CVPR 2016,
        section 4.2, with projections (option B) as shortcuts.

    Example:
        >>> model = resnet([16, 32, 64], generator=torch.Generator().manual_seed(0), stem_stride=2)
        >>> tuple(model(torch.zeros(2, 3, 32, 32)).shape)
        (2, 10)
    """
    require_generator(generator)
    require_sizes("channels", channels)
    for name, size in (
        ("num_blocks", num_blocks),
        ("in_channels", in_channels),
        ("num_classes", num_classes),
        ("stem_stride", stem_stride),
    ):
        require_integer(name, size, minimum=1)

    def build() -> nn.Sequential:
        width = channels[0]
        stem = nn.Conv2d(in_channels, width, 3, stride=stem_stride, padding=1, bias=False)
        layers: list[nn.Module] = [stem, nn.BatchNorm2d(width), nn.ReLU()]
        for stage, channels_out in enumerate(channels):
            for block in range(num_blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(ResidualBlock(width, channels_out, stride=stride))
                width = channels_out
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes)]
        return nn.Sequential(*layers, *head)

    return built(build, generator, initialization)
