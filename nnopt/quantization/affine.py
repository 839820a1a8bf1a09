"""Affine quantization: real numbers as integers on an even grid. Chapter: ``quantization/affine``."""

import copy
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from nnopt.checks import require_dtype, require_finite, require_integer, require_non_empty, require_one_of, require_type

__all__ = ["Granularity", "Quantized", "choose_grid", "quantize", "quantize_weights"]

Granularity: TypeAlias = Literal["tensor", "channel"] | int
"""Who shares a scale: all values, one index of the first dimension, or that many neighbors."""

_SCALE_BYTES, _ZERO_POINT_BYTES = 4, 1


@dataclass(frozen=True)
class Quantized:
    """A tensor as integer codes, with the grid that gives them their meaning.

    .. math:: \\hat x = s\\,(q - z)

    Args:
        codes: q, integers in the shape of the values; int8 if symmetric, else uint8.
        scale: s > 0, the distance of two levels, one for each block; (num_blocks,).
        zero_point: z, the code of the real number 0; integers, (num_blocks,).
        num_bits: b, bits of a code.
        symmetric: whether z is 0 and the codes run from −(2ᵇ⁻¹ − 1) to 2ᵇ⁻¹ − 1.
        granularity: what a block is, as in :func:`quantize`.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    num_bits: int
    symmetric: bool
    granularity: Granularity

    def dequantize(self) -> Tensor:
        """Return the values that the codes stand for, in the dtype of the scale."""
        q = _to_blocks(self.codes, self.granularity).to(self.scale.dtype)
        values = (q - self.zero_point[:, None].to(self.scale.dtype)) * self.scale[:, None]
        return values.reshape(self.codes.shape)

    @property
    def num_bytes(self) -> int:
        """Count the bytes of tight storage, with four for each scale and one for each zero point that is needed."""
        per_block = _SCALE_BYTES + (0 if self.symmetric else _ZERO_POINT_BYTES)
        return -(-self.codes.numel() * self.num_bits // 8) + per_block * len(self.scale)


def choose_grid(
    values: Tensor, num_bits: int, *, symmetric: bool = False, granularity: Granularity = "tensor"
) -> tuple[Tensor, Tensor]:
    r"""Choose scale and zero point so that the smallest and the largest value of each block fit on the grid.

    .. math::
        s = \frac{\max(x, 0) - \min(x, 0)}{2^b - 1},\quad z = -\operatorname{round}\frac{\min(x, 0)}{s}
        \qquad\text{or}\qquad s = \frac{\max|x|}{2^{b-1} - 1},\quad z = 0

    Args:
        values: floating point, finite, not empty.
        num_bits: b, 1 to 8; at least 2 if symmetric.
        symmetric: the right formula instead of the left one.
        granularity: as in :func:`quantize`.

    Returns:
        Scale in the dtype of the values, at least float32, and zero point as int32; both (num_blocks,). A block
        of zeros has the scale 1.

    Raises:
        ValueError: the values are empty or not finite, or an argument is out of range or does not fit the shape.
        TypeError: the values are not floating point.

    Example:
        >>> choose_grid(torch.tensor([-1.0, 0.0, 2.0]), 2)
        (tensor([1.]), tensor([1], dtype=torch.int32))
    """
    _require(values, num_bits, symmetric, granularity)
    blocks = _to_blocks(values.detach(), granularity)
    blocks = blocks.to(torch.promote_types(values.dtype, torch.float32))
    low, high = _code_range(num_bits, symmetric)
    if symmetric:
        width = blocks.abs().amax(1)
        scale = width / high
    else:
        bottom, top = blocks.amin(1).clamp(max=0), blocks.amax(1).clamp(min=0)
        scale = (top - bottom) / (high - low)
    # zeros only, or numbers so small that the division underflowed
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    zero_point = torch.zeros_like(scale) if symmetric else -torch.round(bottom / scale)
    return scale, zero_point.to(torch.int32)


def quantize(
    values: Tensor,
    num_bits: int,
    *,
    symmetric: bool = False,
    granularity: Granularity = "tensor",
    grid: tuple[Tensor, Tensor] | None = None,
) -> Quantized:
    r"""Round each value to the nearest level of its grid.

    .. math:: q = \operatorname{clamp}\bigl(\operatorname{round}(x / s) + z,\ q_{\min},\ q_{\max}\bigr)

    Args:
        values: floating point, finite, not empty.
        num_bits: b, 1 to 8; at least 2 if symmetric.
        symmetric: codes −(2ᵇ⁻¹ − 1) … 2ᵇ⁻¹ − 1 around zero instead of 0 … 2ᵇ − 1; one code of 2ᵇ is left unused.
        granularity: who shares a scale: ``tensor`` all values, ``channel`` those of one index of the first
            dimension (an output of a linear or convolutional layer), a number g that many neighbors along
            the last dimension.
        grid: scale and zero point of each block, for example from other data; None fits them with
            :func:`choose_grid`. Values outside go to the nearest end.

    Returns:
        Codes and grid. Where the grid was fitted, every value lies within half a scale of its level, and the
        real 0 is a level.

    Raises:
        ValueError: the values are empty or not finite, an argument is out of range or does not fit the shape, or
            a scale of ``grid`` is not positive.
        TypeError: the values are not floating point.

    Convention:
        Ties go to the even integer, and x is multiplied by 1/s, both as in torch: the result is equal in every
        bit to ``torch.fake_quantize_per_tensor_affine`` and ``…_per_channel_affine``.

    Source:
        Jacob et al. (2018), section 2.1.

    Example:
        >>> quantize(torch.tensor([-1.0, 0.2, 2.0]), 2).codes
        tensor([0, 1, 3], dtype=torch.uint8)
    """
    _require(values, num_bits, symmetric, granularity)
    scale, zero_point = (
        choose_grid(values, num_bits, symmetric=symmetric, granularity=granularity) if grid is None else grid
    )
    blocks = _to_blocks(values.detach(), granularity)
    _require_grid(scale, zero_point, len(blocks))
    low, high = _code_range(num_bits, symmetric)
    levels = torch.round(blocks.to(scale.dtype) * (1.0 / scale)[:, None]) + zero_point[:, None].to(scale.dtype)
    codes = levels.clamp(low, high).to(torch.int8 if symmetric else torch.uint8).reshape(values.shape)
    return Quantized(codes, scale, zero_point, num_bits, symmetric, granularity)


def quantize_weights(
    model: nn.Module, num_bits: int, *, symmetric: bool = False, granularity: Granularity = "tensor"
) -> nn.Module:
    """Return a copy of a model whose linear and convolutional weights lie on grids.

    This is what accuracy is measured with; it saves no byte and no second, since the weights are still stored
    and multiplied as floating point numbers. Biases and normalizations keep all their bits.

    Args:
        model: any module; unchanged.
        num_bits: b, 1 to 8; at least 2 if symmetric.
        symmetric: as in :func:`quantize`.
        granularity: as in :func:`quantize`; ``channel`` is one scale for each output.

    Returns:
        The copy, on the same device and in the same dtypes.

    Raises:
        ValueError: an argument is out of range, a weight is not finite, or the model has no such layer.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
        >>> quantize_weights(model, 4)[0].weight.unique().numel() <= 16
        True
    """
    require_type("model", model, nn.Module)
    result = copy.deepcopy(model)
    weights = [m.weight for m in result.modules() if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))]
    if not weights:
        raise ValueError("model must have a linear or convolutional layer, got none")
    with torch.no_grad():
        for weight in weights:
            rounded = quantize(weight, num_bits, symmetric=symmetric, granularity=granularity).dequantize()
            weight.copy_(rounded)
    return result


def _code_range(num_bits: int, symmetric: bool) -> tuple[int, int]:
    return (-(2 ** (num_bits - 1)) + 1, 2 ** (num_bits - 1) - 1) if symmetric else (0, 2**num_bits - 1)


def _to_blocks(values: Tensor, granularity: Granularity) -> Tensor:
    """View the values as (num_blocks, block size)."""
    if granularity == "tensor":
        return values.reshape(1, -1)
    return values.reshape(len(values), -1) if granularity == "channel" else values.reshape(-1, granularity)


def _require(values: Tensor, num_bits: int, symmetric: bool, granularity: Granularity) -> None:
    require_dtype("values", values, None)
    require_non_empty("values", values)
    require_finite("values", values)
    require_integer("num_bits", num_bits, minimum=2 if symmetric else 1)
    if num_bits > 8:
        raise ValueError(f"num_bits must be <= 8, got {num_bits}")
    if isinstance(granularity, str):
        require_one_of("granularity", granularity, ("tensor", "channel"))
        if granularity == "channel" and values.ndim < 1:
            raise ValueError("values must have a first dimension for granularity 'channel', got a single number")
        return
    require_integer("granularity", granularity, minimum=1)
    if values.ndim < 1 or values.shape[-1] % granularity:
        raise ValueError(
            f"granularity must divide the last dimension of values, got {granularity} for shape {tuple(values.shape)}"
        )


def _require_grid(scale: Tensor, zero_point: Tensor, num_blocks: int) -> None:
    for name, part in (("scale", scale), ("zero_point", zero_point)):
        if part.shape != (num_blocks,):
            raise ValueError(f"{name} of grid must have shape ({num_blocks},), got {tuple(part.shape)}")
    if not bool((scale > 0).all()) or not bool(scale.isfinite().all()):
        raise ValueError("scale of grid must be > 0 and finite")
