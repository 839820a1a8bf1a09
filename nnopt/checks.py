"""One wording for every refusal: *name*, requirement, got value.

Public functions call these at their door, before anything is changed. Every check refuses NaN.
"""

import math
import numbers
from collections.abc import Collection, Sized
from typing import NoReturn

import torch
from torch import Tensor

__all__ = [
    "require_dtype",
    "require_finite",
    "require_fraction",
    "require_integer",
    "require_non_empty",
    "require_non_negative",
    "require_one_of",
    "require_positive",
    "require_same_shape",
    "require_shape",
    "require_type",
]


def _refuse(name: str, requirement: str, got: object) -> NoReturn:
    raise ValueError(f"{name} must {requirement}, got {got!r}")


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (numbers.Real, Tensor)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if isinstance(value, Tensor):
        if value.dtype == torch.bool or value.is_complex():
            raise TypeError(f"{name} must be a number, got a tensor of {value.dtype}")
        if value.numel() != 1:
            raise ValueError(f"{name} must be a single number, got shape {tuple(value.shape)}")
    return float(value)


def require_positive(name: str, value: object) -> None:
    """Refuse what is not a finite number above zero."""
    if not 0.0 < _number(name, value) < math.inf:
        _refuse(name, "be > 0", value)


def require_non_negative(name: str, value: object) -> None:
    """Refuse what is not a finite number of at least zero."""
    if not 0.0 <= _number(name, value) < math.inf:
        _refuse(name, "be >= 0", value)


def require_fraction(name: str, value: object, *, open_end: bool = False) -> None:
    """Refuse what is not in [0, 1], or in [0, 1) with ``open_end``."""
    number = _number(name, value)
    if open_end and not 0.0 <= number < 1.0:
        _refuse(name, "be in [0, 1)", value)
    if not 0.0 <= number <= 1.0:
        _refuse(name, "be in [0, 1]", value)


def require_integer(name: str, value: object, *, minimum: int | None = None) -> None:
    """Refuse what is not an integer, or is below ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
    if minimum is not None and value < minimum:
        _refuse(name, f"be >= {minimum}", value)


def require_one_of(name: str, value: object, choices: Collection[object]) -> None:
    """Refuse what is not among ``choices``."""
    if value not in choices:
        _refuse(name, "be one of " + ", ".join(map(repr, choices)), value)


def require_type(name: str, value: object, kind: type | tuple[type, ...]) -> None:
    """Refuse what is not an instance of ``kind``."""
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        wanted = " or ".join(k.__name__ for k in kinds)
        raise TypeError(f"{name} must be {wanted}, got {type(value).__name__}")


def require_dtype(name: str, value: object, dtype: torch.dtype | None) -> None:
    """Refuse what is not a tensor of this dtype, or, for None, of any floating point one."""
    require_type(name, value, Tensor)
    assert isinstance(value, Tensor)
    if not (value.is_floating_point() if dtype is None else value.dtype == dtype):
        wanted = "floating point" if dtype is None else str(dtype).removeprefix("torch.")
        raise TypeError(f"{name} must be {wanted}, got {value.dtype}")


def require_shape(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse a tensor of another shape."""
    if tuple(value.shape) != shape:
        raise ValueError(f"{name} must be {shape}, got {tuple(value.shape)}")


def require_non_empty(name: str, value: Sized | Tensor) -> None:
    """Refuse an empty tensor or collection."""
    size = value.numel() if isinstance(value, Tensor) else len(value)
    if size == 0:
        raise ValueError(f"{name} must not be empty")


def require_finite(name: str, value: Tensor) -> None:
    """Refuse a tensor with a NaN or an infinity."""
    bad = int((~torch.isfinite(value)).sum())
    if bad:
        raise ValueError(f"{name} must be finite, got {bad} of {value.numel()} values NaN or infinite")


def require_same_shape(first_name: str, first: Tensor, second_name: str, second: Tensor) -> None:
    """Refuse two tensors of different shapes: broadcasting here would be a silent error."""
    if first.shape != second.shape:
        raise ValueError(
            f"{first_name} and {second_name} must have the same shape, "
            f"got {tuple(first.shape)} and {tuple(second.shape)}"
        )
