"""Claims: sentences of the book that are tests. Chapter: ``measurement/claims``.

A claim draws its seeds by hash, runs both arms on each of them, publishes one row with its interval, and
raises if the interval does not clear the margin. The margin and the number of seeds are chosen
beforehand, from pilots on another stream of seeds (``plan``).
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from nnopt.checks import require_one_of, require_positive
from nnopt.seeding import Seed

from ._intervals import clopper_pearson, t_interval
from ._intervals import hold_probability as hold_probability
from ._planning import Plan as Plan
from ._planning import plan as plan
from ._publish import glue as glue
from ._row import Claim as Claim
from ._row import ClaimFailed as ClaimFailed
from ._row import check_id, finish
from ._runs import Direction, Each, Scale, Together, Values, outcomes_of, paired_values

__all__ = [
    "Claim",
    "ClaimFailed",
    "Plan",
    "bound",
    "difference",
    "equivalence",
    "frequency",
    "glue",
    "hold_probability",
    "plan",
    "time_ratio",
]


class Ratio(Protocol):
    """What ``timing.compare`` measured for one candidate."""

    @property
    def ratio(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def conclusive(self) -> bool: ...
    @property
    def num_blocks(self) -> int: ...


def difference(
    id: str,
    statement: str,
    *,
    metric: str,
    margin: float,
    direction: Literal["above", "below"],
    num_seeds: int,
    scope: str,
    each: Each | None = None,
    together: Together | None = None,
    scale: Scale = "difference",
    unit: str = "",
    experiment: str | None = None,
    version: int = 1,
    budget: float | None = None,
) -> Claim:
    """Claim that one arm beats the other by more than a margin, on average over seeds.

    Args:
        id: ``chapter#name``, unique in the book.
        statement: the sentence that the reader sees.
        metric: what is compared, with the order of the arms ("accuracy, momentum − plain").
        margin: the near end of the 95 % interval must lie beyond it; a ratio on scale ``ratio``.
        direction: on which side of the margin.
        num_seeds: paired runs, at least 5; ``plan`` says how many. The pilot stream runs at least 16.
        scope: what the seeds change ("seeds", "seeds and splits") and the scale of the experiment.
        each: seed -> the difference (or ratio), or the pair (treatment, control).
        together: all seeds -> one number per seed, or the pair (treatments, controls); for sweeps.
            Exactly one of ``each`` and ``together`` is given.
        scale: ``difference``, or ``ratio``: logarithms are averaged, the value is the typical ratio.
        unit: of the value, in words.
        experiment: name whose hash draws the seeds, ``id`` by default; two claims that name the same
            one speak of the same runs.
        version: grows when the experiment changes.
        budget: what an infinite outcome (target not reached) counts as; needed if there is one. Only
            one arm may have any, in at most a quarter of its runs.

    Returns:
        The claim; its row has been published.

    Raises:
        ClaimFailed: the interval does not clear the margin.
        ValueError: an argument is out of range, a run gave NaN, or all runs gave the same value
            (that is a ``bound``).

    Source:
        Paired t interval (``scipy.special``); the rules are in the chapter.
    """
    check_id(id)
    require_one_of("direction", direction, ("above", "below"))
    require_one_of("scale", scale, ("difference", "ratio"))
    if budget is not None:
        require_positive("budget", budget)
    values, failed, fair = paired_values(experiment or id, num_seeds, version, each, together, scale, budget)
    interval = t_interval(values)
    if interval.sd == 0.0:
        raise ValueError(f"{id}: every run gave {values[0]!r}: an exact result is a bound, not a difference")
    goal = math.log(margin) if scale == "ratio" else float(margin)
    away = interval.mean - goal if direction == "above" else goal - interval.mean
    near = interval.low - goal if direction == "above" else goal - interval.high
    held = near > 0 and fair
    return finish(
        id, statement, "difference", scope, experiment, version, metric, unit, direction, scale, margin,
        values=values, interval=(interval.mean, interval.low, interval.high), sd=interval.sd,
        d=away / (interval.sd / math.sqrt(len(values))), failed_runs=failed, held=held,
    )  # fmt: skip


def equivalence(
    id: str,
    statement: str,
    *,
    metric: str,
    margin: float,
    num_seeds: int,
    scope: str,
    each: Each | None = None,
    together: Together | None = None,
    scale: Scale = "difference",
    unit: str = "",
    experiment: str | None = None,
    version: int = 1,
) -> Claim:
    """Claim that two arms differ by less than a margin: the whole 95 % interval lies within ± margin.

    Args:
        id: see ``difference``, as the other arguments.
        statement: says "less than", never "no difference".
        metric: what is compared, with the order of the arms.
        margin: above 0; on scale ``ratio`` above 1, and the interval lies in [1/margin, margin].
        num_seeds: paired runs, at least 5; 16 to 32 are usual.
        scope: what the seeds change, and the scale of the experiment.
        each: seed -> difference, or the pair (treatment, control).
        together: all seeds -> one number per seed, or the pair (treatments, controls).
        scale: ``difference`` or ``ratio``.
        unit: of the value, in words.
        experiment: name whose hash draws the seeds, ``id`` by default; two claims that name the same
            one speak of the same runs.
        version: grows when the experiment changes.

    Returns:
        The claim; its row has been published.

    Raises:
        ClaimFailed: the interval leaves the band.
        ValueError: an argument is out of range, or a run gave NaN or infinity.
    """
    check_id(id)
    require_one_of("scale", scale, ("difference", "ratio"))
    require_positive("margin", margin)
    if scale == "ratio" and margin <= 1:
        raise ValueError(f"margin must be > 1 on scale 'ratio', got {margin!r}")
    values, failed, _ = paired_values(experiment or id, num_seeds, version, each, together, scale, None)
    interval = t_interval(values)
    if interval.sd == 0.0:
        raise ValueError(f"{id}: every run gave {values[0]!r}: an exact result is a bound, not an equivalence")
    half = math.log(margin) if scale == "ratio" else float(margin)
    near = min(half - interval.high, interval.low + half)
    away = half - abs(interval.mean)
    return finish(
        id, statement, "equivalence", scope, experiment, version, metric, unit, "within", scale, margin,
        values=values, interval=(interval.mean, interval.low, interval.high), sd=interval.sd,
        d=away / (interval.sd / math.sqrt(len(values))), failed_runs=failed, held=near > 0,
    )  # fmt: skip


def frequency(
    id: str,
    statement: str,
    *,
    metric: str,
    margin: float,
    direction: Literal["above", "below"],
    num_seeds: int,
    scope: str,
    each: Callable[[Seed], bool] | None = None,
    together: Callable[[Sequence[Seed]], Values] | None = None,
    experiment: str | None = None,
    version: int = 1,
) -> Claim:
    """Claim how often something happens: the near end of the exact 95 % interval clears the margin.

    Args:
        id: see ``difference``, as the other arguments.
        statement: the sentence that the reader sees.
        metric: what is counted ("runs that diverge").
        margin: a fraction in (0, 1).
        direction: ``above``: more often than the margin; ``below``: more rarely.
        num_seeds: runs, at least 5.
        scope: what the seeds change, and the scale of the experiment.
        each: seed -> whether it happened.
        together: all seeds -> one truth value per seed.
        experiment: name whose hash draws the seeds, ``id`` by default; two claims that name the same
            one speak of the same runs.
        version: grows when the experiment changes.

    Returns:
        The claim; its row has been published.

    Raises:
        ClaimFailed: the interval does not clear the margin.
        ValueError: an argument is out of range or a run answered neither yes nor no.

    Source:
        Clopper and Pearson (1934).
    """
    check_id(id)
    require_one_of("direction", direction, ("above", "below"))
    if not 0 < margin < 1:
        raise ValueError(f"margin must be in (0, 1), got {margin!r}")
    outcomes = outcomes_of(experiment or id, num_seeds, version, each, together)
    if isinstance(outcomes, tuple) or not set(map(float, outcomes)) <= {0.0, 1.0}:
        raise ValueError(f"{id}: every run must answer yes or no")
    count, n = int(sum(outcomes)), len(outcomes)
    low, high = clopper_pearson(count, n)
    held = low > margin if direction == "above" else high < margin
    return finish(
        id, statement, "frequency", scope, experiment, version, metric, "of runs", direction, "difference", margin,
        values=[float(x) for x in outcomes], interval=(count / n, low, high), sd=None, d=None,
        failed_runs=0, held=held,
    )  # fmt: skip


def bound(
    id: str,
    statement: str,
    *,
    metric: str,
    value: float,
    margin: float,
    direction: Direction,
    scope: str = "exact",
    unit: str = "",
) -> Claim:
    """Claim an exact or deterministic quantity: a parity, a count, a number of bytes.

    Args:
        id: ``chapter#name``, unique in the book.
        statement: the sentence that the reader sees.
        metric: what the value is.
        value: the quantity.
        margin: the limit, which the value may reach.
        direction: ``above`` (value ≥ margin), ``below`` (≤) or ``within`` (``|value|`` ≤ margin).
        scope: why it is exact, or for what.
        unit: of the value, in words.

    Returns:
        The claim; its row has been published.

    Raises:
        ClaimFailed: the value misses the limit.
        ValueError: an argument is out of range, or the value is NaN or infinite.
    """
    require_one_of("direction", direction, ("above", "below", "within"))
    value, margin = float(value), float(margin)
    for name, number in (("value", value), ("margin", margin)):
        if not math.isfinite(number):
            raise ValueError(f"{name} must be finite, got {number!r}")
    held = {"above": value >= margin, "below": value <= margin, "within": abs(value) <= margin}[direction]
    return finish(
        id, statement, "bound", scope, None, 1, metric, unit, direction, "difference", margin,
        values=[], interval=(value, value, value), sd=None, d=None, failed_runs=0, held=held,
    )  # fmt: skip


def time_ratio(
    id: str,
    statement: str,
    measured: Ratio,
    *,
    metric: str,
    margin: float,
    direction: Literal["above", "below"],
    scope: str = "this machine",
) -> Claim:
    """Claim a ratio of times; a noisy machine makes it inconclusive, not false.

    Args:
        id: ``chapter#name``, unique in the book.
        statement: the sentence that the reader sees.
        measured: the paired ratio of ``timing.compare`` with its interval and control.
        metric: which time over which.
        margin: a ratio above 0; the pilot should lie 1.5 times beyond it.
        direction: ``above`` or ``below``.
        scope: where it was measured.

    Returns:
        The claim: ``held`` if the interval clears the margin, ``failed`` if all of it lies on the
        wrong side, ``inconclusive`` between, or if the control of the measurement failed.

    Raises:
        ClaimFailed: the whole interval lies on the wrong side of the margin.
        ValueError: an argument is out of range.
    """
    require_one_of("direction", direction, ("above", "below"))
    require_positive("margin", margin)
    low, high = measured.low, measured.high
    held = low > margin if direction == "above" else high < margin
    wrong = high < margin if direction == "above" else low > margin
    status = ("held" if held else "failed" if wrong else "inconclusive") if measured.conclusive else "inconclusive"
    return finish(
        id, statement, "difference", scope, None, 1, metric, "", direction, "ratio", margin,
        values=[], interval=(math.log(measured.ratio), math.log(low), math.log(high)), sd=None, d=None,
        failed_runs=0, held=status == "held", status=status, n=measured.num_blocks, timing=True,
    )  # fmt: skip
