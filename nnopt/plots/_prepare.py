"""Plain numbers from tensors, arrays and lists; every plot takes any of them."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from torch import Tensor

Numbers: TypeAlias = Sequence[float] | Sequence[Sequence[float]] | np.ndarray | Tensor


def as_array(name: str, values: Numbers) -> np.ndarray:
    """Return the numbers as a float64 array on the CPU.

    Raises:
        ValueError: there is none, or a NaN among them.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError(f"{name} must not be empty")
    if np.isnan(array).any():
        raise ValueError(f"{name} must not hold NaN")
    return array


def mean_and_band(runs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean and 95 % t interval over the first axis (runs)."""
    from scipy import special

    mean = runs.mean(axis=0)
    half = special.stdtrit(len(runs) - 1, 0.975) * runs.std(axis=0, ddof=1) / np.sqrt(len(runs))
    return mean, mean - half, mean + half
