"""Exercises of the chapter ``optimizers/batch_size``."""

import math
from collections.abc import Callable

from ._verdict import Verdict

__all__ = ["check_fastest_batch"]

# noise scale, seconds of a step with no rows, seconds of a row
_MACHINES = {
    "a small network on a processor": (20.0, 2e-4, 2e-6),
    "a graphics card": (3_000.0, 1e-2, 1e-6),
    "a machine that waits for nothing": (500.0, 1e-9, 1e-3),
    "a slow network between workers": (64.0, 0.5, 1e-4),
}


def check_fastest_batch(candidate: Callable[[float, float, float], float]) -> Verdict:
    """Check the batch size that needs the least time.

    Args:
        candidate: (noise scale, seconds that a step takes with no rows, seconds of each row) -> rows of a
            batch, a whole number of at least 1.

    Returns:
        A verdict. On every hidden machine the time may be a thousandth above that of the best whole number.
    """
    for name, (noise_scale, fixed, per_row) in _MACHINES.items():
        rows = float(candidate(noise_scale, fixed, per_row))
        if not math.isfinite(rows) or rows < 1 or rows != round(rows):
            return Verdict(False, f"On {name} a batch of {rows:g} rows is no batch: a whole number, at least 1.")

        def time(
            size: float, noise_scale: float = noise_scale, fixed: float = fixed, per_row: float = per_row
        ) -> float:
            return (1 + noise_scale / size) * (fixed + per_row * size)

        best = max(1.0, math.sqrt(fixed * noise_scale / per_row))
        least = min(time(math.floor(best)), time(math.ceil(best)))
        if time(rows) > least * 1.001:
            return Verdict(
                False, f"On {name} {rows:g} rows take {time(rows) / least:.3g} times as long as the best batch."
            )
    return Verdict(True, "On every hidden machine no batch size is faster.")
