"""Learning rate schedules: functions of the step number that return a multiplier.

Chapter: ``optimizers/schedules``.
"""

import math

from nnopt.checks import require_fraction, require_integer, require_positive
from nnopt.types import Schedule

__all__ = [
    "constant",
    "cosine",
    "exponential",
    "inverse_square_root",
    "linear",
    "one_cycle",
    "step_decay",
    "warmup_stable_decay",
    "with_warmup",
]


def constant() -> Schedule:
    r"""Return the schedule that changes nothing, :math:`s(t) = 1`.

    Example:
        >>> constant()(1000)
        1.0
    """
    return _checked(lambda step: 1.0)


def step_decay(*, every: int, factor: float = 0.1) -> Schedule:
    r"""Return a staircase.

    .. math:: s(t) = \gamma^{\lfloor t / k \rfloor}

    Args:
        every: k, steps of one stair, at least 1.
        factor: γ, of each stair, in [0, 1].

    Returns:
        The schedule: step number from 0 -> multiplier.

    Raises:
        ValueError: a number is out of range or NaN.
        TypeError: ``every`` is not an integer.

    Convention:
        ``torch.optim.lr_scheduler.StepLR`` with ``step_size=every``.

    Example:
        >>> [step_decay(every=2, factor=0.5)(t) for t in range(5)]
        [1.0, 1.0, 0.5, 0.5, 0.25]
    """
    require_integer("every", every, minimum=1)
    require_fraction("factor", factor)
    return _checked(lambda step: float(factor) ** (step // every))


def exponential(*, factor: float) -> Schedule:
    r"""Return a decay by the same factor in each step.

    .. math:: s(t) = \gamma^t

    Args:
        factor: γ per *step*, in [0, 1]. Per epoch of m steps it is γᵐ.

    Returns:
        The schedule: step number from 0 -> multiplier.

    Raises:
        ValueError: the factor is out of range or NaN.

    Convention:
        ``torch.optim.lr_scheduler.ExponentialLR``.

    Example:
        >>> exponential(factor=0.5)(3)
        0.125
    """
    require_fraction("factor", factor)
    return _checked(lambda step: float(factor) ** step)


def inverse_square_root(*, scale: float) -> Schedule:
    r"""Return a decay that never ends and knows no last step.

    .. math:: s(t) = \frac{1}{\sqrt{1 + t / k}}

    Args:
        scale: k, the steps before the decay is felt, above 0: after 3k steps the rate has halved.

    Returns:
        The schedule: step number from 0 -> multiplier.

    Raises:
        ValueError: the scale is out of range or NaN.

    Source:
        Robbins and Monro (1951) ask for rates whose sum is infinite; the sum of the squares of these, too, is.

    Example:
        >>> inverse_square_root(scale=100)(300)
        0.5
    """
    require_positive("scale", scale)
    return _checked(lambda step: 1 / math.sqrt(1 + step / scale))


def linear(*, total_steps: int, final: float = 0.0) -> Schedule:
    r"""Return a straight line down, which holds its end.

    .. math:: s(t) = 1 - (1 - f)\,\min(t / T, 1)

    Args:
        total_steps: T, at least 1.
        final: f, in [0, 1].

    Returns:
        The schedule: step number from 0 -> multiplier. The last of T steps, number T − 1, is one notch above f.

    Raises:
        ValueError: a number is out of range or NaN.
        TypeError: ``total_steps`` is not an integer.

    Convention:
        ``LinearLR(start_factor=1, end_factor=final, total_iters=total_steps)``; torch's own defaults rise
        from a third within five steps.

    Example:
        >>> [linear(total_steps=4)(t) for t in range(6)]
        [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """
    require_integer("total_steps", total_steps, minimum=1)
    require_fraction("final", final)
    return _checked(lambda step: final + (1 - final) * (1 - min(step / total_steps, 1.0)))


def cosine(*, total_steps: int, final: float = 0.0, cycles: int = 1) -> Schedule:
    r"""Return half a wave down, once or with restarts, which holds its end.

    .. math:: s(t) = f + \tfrac12 (1 - f) \left(1 + \cos\left(\pi\, (ct/T \bmod 1)\right)\right), \qquad s(t \ge T) = f

    Args:
        total_steps: T, at least 1.
        final: f, in [0, 1].
        cycles: c, starts from the top; must divide T.

    Returns:
        The schedule: step number from 0 -> multiplier.

    Raises:
        ValueError: a number is out of range or NaN, or the cycles have different lengths.
        TypeError: a count is not an integer.

    Convention:
        ``CosineAnnealingLR(T_max=total_steps)``, or with cycles ``CosineAnnealingWarmRestarts(T_0=T // c)``,
        up to the last step. Beyond it torch climbs again; here the schedule holds.

    Source:
        Loshchilov and Hutter (2017).

    Example:
        >>> [round(cosine(total_steps=4)(t), 3) for t in range(6)]
        [1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """
    require_integer("total_steps", total_steps, minimum=1)
    require_fraction("final", final)
    require_integer("cycles", cycles, minimum=1)
    if total_steps % cycles:
        raise ValueError(f"cycles must divide total_steps, got {cycles} and {total_steps}")
    length = total_steps // cycles

    def schedule(step: int) -> float:
        phase = (step % length) / length if step < total_steps else 1.0
        return final + (1 - final) * (1 + math.cos(math.pi * phase)) / 2

    return _checked(schedule)


def one_cycle(*, total_steps: int, rise: float = 0.3, start: float = 0.04, final: float = 4e-6) -> Schedule:
    r"""Return one wave up and down.

    .. math::
        s(t) = \begin{cases} 1 - (1 - s_0)\, w(t / a) & t \le a = rT - 1 \\
        f + (1 - f)\, w'\!\left((t - a) / (T - 1 - a)\right) & t > a \end{cases}

    with w and w' falling from 1 to 0 along half a cosine.

    Args:
        total_steps: T, at least 2.
        rise: r, fraction of the steps that climb, in (0, 1); r T must be above 1.
        start: s₀, in [0, 1].
        final: f, in [0, 1].

    Returns:
        The schedule: step number from 0 -> multiplier of the *highest* rate. It ends at step T − 1 and holds.

    Raises:
        ValueError: a number is out of range or NaN.
        TypeError: ``total_steps`` is not an integer.

    Convention:
        ``OneCycleLR(max_lr=lr, cycle_momentum=False)``; torch cycles the momentum as well by default.

    Source:
        Smith and Topin (2019).

    Example:
        >>> [round(one_cycle(total_steps=11, rise=0.5)(t), 2) for t in (0, 4, 5, 10)]
        [0.04, 0.97, 0.98, 0.0]
    """
    require_integer("total_steps", total_steps, minimum=2)
    require_fraction("rise", rise, open_end=True)
    require_fraction("start", start)
    require_fraction("final", final)
    top, last = rise * total_steps - 1, total_steps - 1
    if top <= 0:
        raise ValueError(f"rise * total_steps must be > 1, got {rise!r} * {total_steps}")

    def schedule(step: int) -> float:
        if step <= top:
            return start + (1 - start) * (1 - math.cos(math.pi * step / top)) / 2
        return final + (1 - final) * (1 + math.cos(math.pi * min((step - top) / (last - top), 1.0))) / 2

    return _checked(schedule)


def warmup_stable_decay(*, total_steps: int, decay_steps: int, warmup_steps: int = 0, final: float = 0.0) -> Schedule:
    r"""Return a ramp, a plateau and a short way down, which holds its end.

    .. math::
        s(t) = \min\left(\frac{t + 1}{w + 1},\; 1,\; f + (1 - f)\,\frac{\max(T - t, 0)}{d}\right)

    Args:
        total_steps: T, at least 1.
        decay_steps: d, the last steps, in which the rate falls linearly; at least 1.
        warmup_steps: w, the first steps, in which it rises linearly; with d at most T.
        final: f, in [0, 1].

    Returns:
        The schedule: step number from 0 -> multiplier. Until step T − d it does not depend on T: a run can be
        continued, or ended, without having been planned.

    Raises:
        ValueError: a number is out of range or NaN, or the phases do not fit.
        TypeError: a count is not an integer.

    Convention:
        ``SequentialLR`` of ``LinearLR``, ``ConstantLR`` and ``LinearLR``.

    Source:
        Hu et al. (2024), for the name.

    Example:
        >>> [warmup_stable_decay(total_steps=6, decay_steps=2, warmup_steps=1)(t) for t in range(7)]
        [0.5, 1.0, 1.0, 1.0, 1.0, 0.5, 0.0]
    """
    require_integer("total_steps", total_steps, minimum=1)
    require_integer("decay_steps", decay_steps, minimum=1)
    require_integer("warmup_steps", warmup_steps, minimum=0)
    require_fraction("final", final)
    if warmup_steps + decay_steps > total_steps:
        raise ValueError(
            f"warmup_steps + decay_steps must be <= total_steps, got {warmup_steps} + {decay_steps} > {total_steps}"
        )

    def schedule(step: int) -> float:
        left = min(max(total_steps - step, 0) / decay_steps, 1.0)
        return min((step + 1) / (warmup_steps + 1), final + (1 - final) * left)

    return _checked(schedule)


def with_warmup(schedule: Schedule, *, warmup_steps: int) -> Schedule:
    r"""Put a linear ramp before a schedule.

    .. math:: s'(t) = \frac{t + 1}{w + 1}\, s(0) \;\; (t < w), \qquad s'(t) = s(t - w) \;\; (t \ge w)

    Args:
        schedule: starts when the ramp has ended: give it the steps that are left.
        warmup_steps: w, at least 0.

    Returns:
        The schedule: step number from 0 -> multiplier. No step is wasted at rate 0.

    Raises:
        ValueError: ``warmup_steps`` is negative.
        TypeError: it is not an integer.

    Convention:
        One after the other, as ``SequentialLR``; ``ChainedScheduler`` multiplies the two instead and never
        reaches the top.

    Example:
        >>> [with_warmup(linear(total_steps=2), warmup_steps=3)(t) for t in range(6)]
        [0.25, 0.5, 0.75, 1.0, 0.5, 0.0]
    """
    require_integer("warmup_steps", warmup_steps, minimum=0)

    def ramped(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1) * schedule(0)
        return schedule(step - warmup_steps)

    return _checked(ramped)


def _checked(schedule: Schedule) -> Schedule:
    """Refuse what is not a step number, in every schedule alike."""

    def checked(step: int) -> float:
        require_integer("step", step, minimum=0)
        return schedule(step)

    return checked
