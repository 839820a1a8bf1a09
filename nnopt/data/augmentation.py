"""Images changed by the batch, on their device, from a generator that is passed in. Chapter: ``data/augmentation``."""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn

from nnopt.checks import (
    require_dtype,
    require_fraction,
    require_non_negative,
    require_positive,
    require_shape,
    require_type,
)

from ._geometry import matrices_of, require_images, warp

__all__ = [
    "Augment",
    "Augmentation",
    "add_noise",
    "erase",
    "flip",
    "random_affine",
    "random_erase",
    "random_flip",
]

Augmentation: TypeAlias = Callable[[Tensor, torch.Generator | None], Tensor]
"""(images, generator) -> images; with None it draws from torch's global generator."""


def flip(images: Tensor, mask: Tensor) -> Tensor:
    """Mirror the chosen images left to right.

    Args:
        images: (N, C, H, W).
        mask: bool (N,), True mirrors.

    Returns:
        (N, C, H, W).

    Raises:
        ValueError: the shapes do not fit.
        TypeError: ``images`` is not floating point, or ``mask`` not bool.

    Example:
        >>> flip(torch.tensor([[[[1.0, 2.0]]], [[[3.0, 4.0]]]]), torch.tensor([True, False])).flatten(1).tolist()
        [[2.0, 1.0], [3.0, 4.0]]
    """
    require_images(images)
    require_dtype("mask", mask, torch.bool)
    require_shape("mask", mask, (len(images),))
    return torch.where(mask[:, None, None, None], images.flip(3), images)


def erase(images: Tensor, boxes: Tensor, *, value: float = 0.0) -> Tensor:
    """Set one rectangle of each image to a value.

    Args:
        images: (N, C, H, W).
        boxes: int64 (N, 4): top, left, height, width in pixels; what lies outside the image is ignored, and a
            height or width of 0 erases nothing.
        value: what is written.

    Returns:
        (N, C, H, W).

    Raises:
        ValueError: the shapes do not fit.
        TypeError: ``images`` is not floating point, or ``boxes`` not int64.

    Example:
        >>> erase(torch.ones(1, 1, 2, 3), torch.tensor([[0, 1, 1, 2]])).tolist()
        [[[[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]]]]
    """
    require_images(images)
    require_dtype("boxes", boxes, torch.int64)
    require_shape("boxes", boxes, (len(images), 4))
    top, left, height, width = boxes[:, :, None].unbind(1)
    rows, columns = (torch.arange(size, device=images.device) for size in images.shape[2:])
    inside_rows = (rows >= top) & (rows < top + height)
    inside_columns = (columns >= left) & (columns < left + width)
    inside = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
    return torch.where(inside, images.new_tensor(value), images)


def random_affine(
    images: Tensor,
    *,
    degrees: float = 0.0,
    max_shift: float = 0.0,
    scale: tuple[float, float] = (1.0, 1.0),
    shear: float = 0.0,
    whole_pixels: bool = False,
    mode: str = "bilinear",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Turn, shift, scale and shear every image by amounts of its own, drawn uniformly.

    Args:
        images: (N, C, H, W), floating point.
        degrees: angles lie within ± this.
        max_shift: shifts lie within ± this many pixels, in each direction on its own.
        scale: smallest and largest scale, > 0.
        shear: shears lie within ± this many degrees, < 90.
        whole_pixels: round the shifts, each whole number from −max_shift to max_shift being as likely, so
            that nothing is interpolated; ``max_shift`` must be whole.
        mode: as in :func:`warp`.
        generator: draws on its own device; None is torch's global one of the images' device.

    Returns:
        (N, C, H, W).

    Raises:
        ValueError: a number is out of range, or the shape is another.
        TypeError: ``images`` is not a floating point tensor, or ``generator`` no generator.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> random_affine(torch.rand(5, 1, 8, 8), degrees=10, max_shift=1, generator=generator).shape
        torch.Size([5, 1, 8, 8])
    """
    require_images(images)
    require_non_negative("degrees", degrees)
    require_non_negative("max_shift", max_shift)
    require_non_negative("shear", shear)
    if shear >= 90:
        raise ValueError(f"shear must be < 90, got {shear!r}")
    low, high = scale
    require_positive("scale", low)
    require_positive("scale", high)
    if low > high:
        raise ValueError(f"scale must be (smallest, largest), got {scale!r}")
    if whole_pixels and max_shift != int(max_shift):
        raise ValueError(f"max_shift must be whole with whole_pixels, got {max_shift!r}")
    draws = _uniform(images, 6, generator)
    if whole_pixels:
        steps = 2 * int(max_shift) + 1
        shifts = (draws[:, 1:3] * steps).floor().clamp(max=steps - 1) - max_shift
    else:
        shifts = (2 * draws[:, 1:3] - 1) * max_shift
    matrices = matrices_of(
        (2 * draws[:, 0] - 1) * degrees,
        shifts,
        low + draws[:, 3] * (high - low),
        (2 * draws[:, 4:] - 1) * shear,
    )
    return warp(images, matrices, mode=mode)


def random_flip(images: Tensor, *, probability: float = 0.5, generator: torch.Generator | None = None) -> Tensor:
    """Mirror each image left to right with a probability: right for cats, wrong for text.

    Args:
        images: (N, C, H, W), floating point.
        probability: in [0, 1].
        generator: as in :func:`random_affine`.

    Returns:
        (N, C, H, W).

    Raises:
        ValueError: the probability is not in [0, 1] or NaN, or the shape is another.
        TypeError: ``images`` is not a floating point tensor, or ``generator`` no generator.
    """
    require_images(images)
    require_fraction("probability", probability)
    return flip(images, _uniform(images, 1, generator)[:, 0] < probability)


def random_erase(
    images: Tensor,
    *,
    probability: float = 0.5,
    area: tuple[float, float] = (0.02, 0.33),
    aspect: tuple[float, float] = (0.3, 3.3),
    value: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Erase a rectangle of random size, shape and place in each image with a probability.

    Args:
        images: (N, C, H, W), floating point.
        probability: that an image is changed, in [0, 1].
        area: smallest and largest share of the image, in (0, 1].
        aspect: smallest and largest height / width, drawn on a logarithmic scale.
        value: what is written.
        generator: as in :func:`random_affine`.

    Returns:
        (N, C, H, W).

    Raises:
        ValueError: a number is out of range, or the shape is another.
        TypeError: ``images`` is not a floating point tensor, or ``generator`` no generator.

    Convention:
        A rectangle longer than the image is cut to it; torchvision draws again up to ten times and then
        leaves the image as it is, which cannot be done for a batch at once.

    Source:
        Zhong et al. (2020), algorithm 1.
    """
    require_images(images)
    require_fraction("probability", probability)
    for name, (low, high) in (("area", area), ("aspect", aspect)):
        require_positive(name, low)
        require_positive(name, high)
        if low > high:
            raise ValueError(f"{name} must be (smallest, largest), got {(low, high)!r}")
    require_fraction("area", area[1])
    draws = _uniform(images, 5, generator)
    size = draws.new_tensor(images.shape[2:])
    pixels = size.prod() * (area[0] + draws[:, 0] * (area[1] - area[0]))
    stretch = (math.log(aspect[0]) + draws[:, 1] * math.log(aspect[1] / aspect[0])).exp()
    sides = torch.stack([(pixels * stretch).sqrt(), (pixels / stretch).sqrt()], dim=1).round()
    sides = torch.minimum(sides.clamp(min=1), size)
    corners = (draws[:, 2:4] * (size - sides + 1)).floor()
    sides = sides * (draws[:, 4:] < probability)
    return erase(images, torch.cat([corners, sides], dim=1).long(), value=value)


def add_noise(images: Tensor, *, std: float, generator: torch.Generator | None = None) -> Tensor:
    """Add independent normal noise to every value.

    Args:
        images: any shape, floating point.
        std: standard deviation, >= 0, in the images' unit.
        generator: as in :func:`random_affine`.

    Returns:
        Same shape; not clipped to any range.

    Raises:
        ValueError: ``std`` is negative or NaN.
        TypeError: ``images`` is not a floating point tensor, or ``generator`` no generator.
    """
    require_dtype("images", images, None)
    require_non_negative("std", std)
    return images + std * _draw(torch.randn, images, images.shape, generator)


class Augment(nn.Module):
    """Augment in training mode, do nothing in evaluation mode: the first layer of a network.

    As a layer it runs on the device, by the batch, stacks in ``training.sweep``, and cannot be left on at
    evaluation by mistake.

    Args:
        augmentation: (images, generator) -> images.
        generator: where the draws come from; None is torch's global generator, which ``training.fit`` seeds,
            keeps in its checkpoints and puts back.

    Raises:
        TypeError: ``augmentation`` is not callable, or ``generator`` no generator.

    Example:
        >>> layer = Augment(lambda images, generator: random_flip(images, generator=generator))
        >>> layer.eval()(torch.tensor([[[[1.0, 2.0]]]]))
        tensor([[[[1., 2.]]]])
    """

    def __init__(self, augmentation: Augmentation, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if not callable(augmentation):
            raise TypeError(f"augmentation must be callable, got {type(augmentation).__name__}")
        require_type("generator", generator, (torch.Generator, type(None)))
        self.augmentation = augmentation
        self.generator = generator

    def forward(self, images: Tensor) -> Tensor:
        """Return the images augmented in training mode, and the images themselves in evaluation mode."""
        return self.augmentation(images, self.generator) if self.training else images


def _draw(
    kind: Callable[..., Tensor], images: Tensor, shape: tuple[int, ...], generator: torch.Generator | None
) -> Tensor:
    require_type("generator", generator, (torch.Generator, type(None)))
    device = images.device if generator is None else generator.device
    return kind(shape, generator=generator, device=device, dtype=images.dtype).to(images.device)


def _uniform(images: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Draw ``count`` numbers in [0, 1) for each image, (N, count)."""
    return _draw(torch.rand, images, (len(images), count), generator)
