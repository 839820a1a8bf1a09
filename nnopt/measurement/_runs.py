"""Running an experiment on its seeds, and pairing what came out."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from torch import Tensor

from nnopt.checks import require_integer
from nnopt.seeding import Seed, current_stream, seeds

from ._planning import NUM_PILOT_SEEDS
from ._row import check_id

Values: TypeAlias = Sequence[float] | Sequence[bool] | np.ndarray | Tensor
Outcome: TypeAlias = float | tuple[float, float]
Each: TypeAlias = Callable[[Seed], Outcome]
Together: TypeAlias = Callable[[Sequence[Seed]], Values | tuple[Values, Values]]
Direction: TypeAlias = Literal["above", "below", "within"]
Scale: TypeAlias = Literal["difference", "ratio"]


def outcomes_of(
    id: str,
    num_seeds: int,
    version: int,
    each: Callable[[Seed], Any] | None,
    together: Callable[..., Any] | None,
) -> list[Any] | tuple[list[float], list[float]]:
    """Run the experiment on its seeds; pairs come back as two lists."""
    check_id(id)
    require_integer("num_seeds", num_seeds, minimum=5)
    if (each is None) == (together is None):
        raise ValueError("exactly one of each and together must be given")
    count = max(num_seeds, NUM_PILOT_SEEDS) if current_stream() == "pilot" else num_seeds
    drawn = seeds(id, count, version=version)
    if each is not None:
        results = [each(seed) for seed in drawn]
        if isinstance(results[0], tuple):
            return [float(a) for a, _ in results], [float(b) for _, b in results]
        return [float(result) for result in results]
    assert together is not None
    answer = together(drawn)
    parts = answer if isinstance(answer, tuple) else (answer,)
    lists = [[float(x) for x in (part.tolist() if hasattr(part, "tolist") else part)] for part in parts]
    if any(len(part) != count for part in lists) or len(lists) > 2:
        raise ValueError(f"{id}: together must return one number per seed ({count}), got {[len(p) for p in lists]}")
    return (lists[0], lists[1]) if len(lists) == 2 else lists[0]


def paired_values(
    id: str, num_seeds: int, version: int, each: Each | None, together: Together | None,
    scale: Scale, budget: float | None,
) -> tuple[list[float], int, bool]:  # fmt: skip
    """Return the paired values on the scale of averaging, the failed runs, and whether these were fair."""
    outcomes = outcomes_of(id, num_seeds, version, each, together)
    arms = [np.asarray(arm, dtype=np.float64) for arm in (outcomes if isinstance(outcomes, tuple) else (outcomes,))]
    if any(np.isnan(arm).any() for arm in arms):
        raise ValueError(f"{id}: a run gave NaN")
    failures = [int(np.isinf(arm).sum()) for arm in arms]
    if sum(failures):
        if budget is None or len(arms) == 1:
            raise ValueError(f"{id}: {sum(failures)} runs are infinite: give both arms and a budget for such runs")
        arms = [np.where(np.isinf(arm), budget, arm) for arm in arms]
    fair = sum(failures) == max(failures) and max(failures) <= len(arms[0]) / 4
    if scale == "ratio":
        if any((arm <= 0).any() for arm in arms):
            raise ValueError(f"{id}: a ratio needs values > 0")
        arms = [np.log(arm) for arm in arms]
    paired = arms[0] - arms[1] if len(arms) == 2 else arms[0]
    return paired.tolist(), sum(failures), fair
