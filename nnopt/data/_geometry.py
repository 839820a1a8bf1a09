"""Affine maps of whole batches: a matrix for each image, one resampling for all."""

import torch
from torch import Tensor
from torch.nn import functional as F

from nnopt.checks import require_dtype, require_finite, require_one_of, require_shape, require_type

__all__ = ["affine_matrices", "matrices_of", "require_images", "warp"]


def affine_matrices(angles: Tensor, shifts: Tensor, scales: Tensor, shears: Tensor) -> Tensor:
    r"""Return, for each image, the matrix that says where every pixel of the result comes from.

    A point u (column, row; in pixels, from the center) goes to v, and the result at v is read at u:

    .. math:: v = s\,R(\varphi)
              \begin{pmatrix} 1 & 0 \\ -\tan\sigma_y & 1 \end{pmatrix}
              \begin{pmatrix} 1 & -\tan\sigma_x \\ 0 & 1 \end{pmatrix} u + t
              \qquad\Longrightarrow\qquad u = A\,(v - t)

    Args:
        angles: φ (N,), degrees, clockwise as the image is seen.
        shifts: t (N, 2), pixels to the right and down.
        scales: s (N,), > 0; 2 makes things twice as large.
        shears: (σx, σy) (N, 2), degrees in (−90, 90).

    Returns:
        (N, 2, 3): A and −A t, with A the inverse of the linear part.

    Raises:
        ValueError: the shapes do not fit, a value is not finite, a scale is not > 0 or a shear not inside ± 90.

    Convention:
        The parameters of ``torchvision.transforms.v2.functional.affine``; order: shear, turn, scale, shift.

    Example:
        >>> one = torch.ones(1)
        >>> affine_matrices(0 * one, torch.tensor([[1.0, 2.0]]), 2 * one, torch.zeros(1, 2)).tolist()
        [[[0.5, 0.0, -0.5], [-0.0, 0.5, -1.0]]]
    """
    _require_parameters(angles, shifts, scales, shears)
    return matrices_of(angles, shifts, scales, shears)


def warp(images: Tensor, matrices: Tensor, *, mode: str = "bilinear") -> Tensor:
    """Resample every image of a batch by a matrix of its own: one ``grid_sample`` for all.

    Args:
        images: (N, C, H, W), floating point; gradients flow to it.
        matrices: (N, 2, 3) as from :func:`affine_matrices`.
        mode: ``bilinear``, or ``nearest`` for pixels that must stay what they are.

    Returns:
        (N, C, H, W); what comes from outside an image is 0.

    Raises:
        ValueError: the shapes do not fit, or the mode is another.
        TypeError: ``images`` is not a floating point tensor.

    Source:
        Jaderberg et al. (2015), section 3.

    Example:
        >>> image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> shift = torch.tensor([[[1.0, 0.0, -1.0], [0.0, 1.0, 0.0]]])
        >>> warp(image, shift).tolist()
        [[[[0.0, 1.0], [0.0, 3.0]]]]
    """
    require_images(images)
    require_one_of("mode", mode, ("bilinear", "nearest"))
    require_type("matrices", matrices, Tensor)
    require_shape("matrices", matrices, (len(images), 2, 3))
    height, width = images.shape[2:]
    columns, rows = (torch.arange(size).to(images) - (size - 1) / 2 for size in (width, height))
    places = torch.stack([*torch.meshgrid(columns, rows, indexing="xy"), images.new_ones(height, width)]).flatten(1)
    # torch counts in halves of the image; its affine_grid does this product image by image, four times slower
    halves = images.new_tensor([width / 2, height / 2])
    sources = (matrices.to(images) / halves[:, None]).flatten(0, 1) @ places
    grid = sources.view(-1, 2, height, width).permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, mode=mode, padding_mode="zeros", align_corners=False)


def matrices_of(angles: Tensor, shifts: Tensor, scales: Tensor, shears: Tensor) -> Tensor:
    """Do what :func:`affine_matrices` says, without looking at values, which vmap would refuse."""
    angles, shears = torch.deg2rad(angles), torch.deg2rad(shears)
    cos, sin = angles.cos(), angles.sin()
    tan_x, tan_y = shears.tan().unbind(1)
    # columns of the linear part without the scale; its determinant is 1
    a, c = cos + sin * tan_y, sin - cos * tan_y
    b, d = -a * tan_x - sin, -c * tan_x + cos
    inverse = torch.stack([torch.stack([d, -b], dim=1), torch.stack([-c, a], dim=1)], dim=1)
    inverse = inverse / scales[:, None, None]
    return torch.cat([inverse, -inverse @ shifts[:, :, None]], dim=2)


def require_images(images: object) -> None:
    require_dtype("images", images, None)
    assert isinstance(images, Tensor)
    if images.ndim != 4:
        raise ValueError(f"images must be (N, C, H, W), got shape {tuple(images.shape)}")


def _require_parameters(angles: Tensor, shifts: Tensor, scales: Tensor, shears: Tensor) -> None:
    given = {"angles": (angles, ()), "shifts": (shifts, (2,)), "scales": (scales, ()), "shears": (shears, (2,))}
    for name, (value, rest) in given.items():
        require_type(name, value, Tensor)
        require_shape(name, value, (angles.numel(), *rest))
        require_finite(name, value)
    if bool((scales <= 0).any()):
        raise ValueError(f"scales must be > 0, got {float(scales.min())}")
    if bool((shears.abs() >= 90).any()):
        raise ValueError(f"shears must be in (-90, 90), got {float(shears.abs().max())} in size")
