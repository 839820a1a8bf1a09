"""What the steps of this room accept: numbers, or tensors of numbers that broadcast against the parameter."""

from torch import Tensor

from nnopt.checks import require_fraction, require_non_negative, require_same_shape

__all__ = ["require_at_least_zero", "require_betas", "require_coefficient", "require_shapes"]


def require_coefficient(name: str, value: float | Tensor, *, open_end: bool = True) -> None:
    """Refuse a number, or a tensor with a number, outside [0, 1) or [0, 1]."""
    if not isinstance(value, Tensor):
        require_fraction(name, value, open_end=open_end)
        return
    below = value < 1 if open_end else value <= 1
    if not bool(((value >= 0) & below).all()):
        raise ValueError(f"{name} must be in {'[0, 1)' if open_end else '[0, 1]'}, got {value!r}")


def require_betas(value: object) -> None:
    """Refuse what is not a pair of coefficients in [0, 1)."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ValueError(f"betas must be a pair of numbers, got {value!r}")
    for index, beta in enumerate(value):
        require_coefficient(f"betas[{index}]", beta)


def require_at_least_zero(**values: float | Tensor) -> None:
    """Refuse a number, or a tensor with a number, that is negative, NaN or infinite."""
    for name, value in values.items():
        if not isinstance(value, Tensor):
            require_non_negative(name, value)
        elif not bool(((value >= 0) & value.isfinite()).all()):
            raise ValueError(f"{name} must be >= 0, got {value!r}")


def require_shapes(parameter: Tensor, **others: Tensor) -> None:
    """Refuse a gradient or a state of another shape than the parameter's."""
    for name, other in others.items():
        require_same_shape("parameter", parameter, name, other)
