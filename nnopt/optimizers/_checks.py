"""What the steps of this room accept: a real parameter, and numbers or tensors of numbers that broadcast against it."""

import math

import torch
from torch import Tensor

from nnopt.checks import require_dtype, require_fraction, require_non_negative, require_same_shape

__all__ = [
    "require_at_least_zero",
    "require_betas",
    "require_broadcast",
    "require_coefficient",
    "require_dtypes",
    "require_range",
    "require_shapes",
]


def require_coefficient(
    name: str, value: float | Tensor, parameter: Tensor | None = None, *, open_end: bool = True
) -> None:
    """Refuse a number outside [0, 1) or [0, 1]; beside a parameter also a tensor with one, or one that does not fit."""
    if parameter is None or not isinstance(value, Tensor):
        require_fraction(name, value, open_end=open_end)
        return
    low, high = _ends(name, value, parameter)
    if not (low >= 0 and (high < 1 if open_end else high <= 1)):
        raise ValueError(f"{name} must be in {'[0, 1)' if open_end else '[0, 1]'}, got {value!r}")


def require_betas(value: object, parameter: Tensor | None = None) -> None:
    """Refuse what is not a pair of coefficients in [0, 1)."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ValueError(f"betas must be a pair of numbers, got {value!r}")
    for index, beta in enumerate(value):
        require_coefficient(f"betas[{index}]", beta, parameter)


def require_at_least_zero(parameter: Tensor, /, **values: float | Tensor) -> None:
    """Refuse a number, or a tensor with a number, that is negative, NaN or infinite, and a tensor that does not fit."""
    for name, value in values.items():
        if not isinstance(value, Tensor):
            require_non_negative(name, value)
            continue
        low, high = _ends(name, value, parameter)
        if not (low >= 0 and high < math.inf):
            raise ValueError(f"{name} must be >= 0, got {value!r}")


def require_shapes(parameter: Tensor, **others: Tensor) -> None:
    """Refuse a parameter that is not floating point, and a gradient or a state of another shape or dtype."""
    require_dtype("parameter", parameter, None)
    for name, other in others.items():
        require_same_shape("parameter", parameter, name, other)
    require_dtypes(parameter, **others)


def require_dtypes(parameter: Tensor, **others: Tensor) -> None:
    """Refuse a gradient or a state whose dtype the new parameter would take over."""
    for name, other in others.items():
        if other.dtype != parameter.dtype:
            raise TypeError(f"{name} must have the parameter's dtype {parameter.dtype}, got {other.dtype}")


def require_range(name: str, parameter: Tensor) -> None:
    """Refuse numbers whose sums of squares leave the range of their dtype, in which they are kept."""
    if parameter.dtype == torch.float16:
        raise TypeError(f"{name} must be float32, float64 or bfloat16, got {parameter.dtype}")


def require_broadcast(name: str, value: Tensor, parameter: Tensor) -> None:
    """Refuse a tensor that would give the parameter another shape."""
    shape, wanted = value.shape, parameter.shape
    fits = len(shape) <= len(wanted) and all(a in (1, b) for a, b in zip(reversed(shape), reversed(wanted)))
    if not fits:
        raise ValueError(f"{name} must broadcast to shape {tuple(wanted)}, got {tuple(shape)}")


def _ends(name: str, value: Tensor, parameter: Tensor) -> tuple[float, float]:
    """Return the least and the largest number of a setting, both NaN where one is, or refuse it."""
    if value.dtype is torch.bool or torch.result_type(parameter, value) != parameter.dtype:
        raise TypeError(f"{name} must be numbers of dtype {parameter.dtype}, got {value.dtype}")
    require_broadcast(name, value, parameter)
    if value.numel() == 0:
        return 0.0, 0.0
    low, high = torch.aminmax(value)
    return low.item(), high.item()
