"""What a ranking of optimizers is made of: steps to a target, performance profiles, interquartile means.

Chapter: ``optimizers/comparison``.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nnopt.checks import require_finite, require_integer, require_non_empty, require_type

__all__ = ["interquartile_mean", "performance_profile", "steps_to_target"]


def steps_to_target(
    curves: Tensor, target: float | Tensor, *, steps: Sequence[int] | None = None, stays: int = 1
) -> Tensor:
    r"""Return after how many steps each curve is first at its target or below, and stays there for some points.

    .. math::
        T = \min \{\, t : \ell_t, \dots, \ell_{t+k-1} \le \ell^\star \,\}, \qquad \min \emptyset = \infty

    Args:
        curves: ℓ, (..., P), P >= 1 points of each run, lower is better; NaN counts as not reached.
        target: ℓ*, a number, or (...) with one for each run.
        steps: the number of steps made at each point, (P,), rising, at least 0; None for 1, 2, …, P.
        stays: k, at least 1: points in a row that must be low enough; towards the end of a curve those that are left.

    Returns:
        (...), float64; infinite for a run that never gets there.

    Raises:
        ValueError: there is no point, the target is not finite or of another shape, or the steps do not rise.
        TypeError: an argument is of another kind.

    Convention:
        With ``stays=1`` the first crossing counts, even if the curve rises again: a quantity that jumps is then
        credited with its luckiest moment. For a quantity that should grow pass both with a minus.

    Example:
        >>> steps_to_target(torch.tensor([[3.0, 1.0, 2.0], [3.0, 3.0, 3.0]]), 1.5, steps=[10, 20, 30])
        tensor([20., inf], dtype=torch.float64)
        >>> steps_to_target(torch.tensor([3.0, 1.0, 2.0, 1.0, 1.0, 1.0]), 1.5, stays=3)
        tensor(4., dtype=torch.float64)
    """
    require_type("curves", curves, Tensor)
    if curves.ndim == 0 or curves.numel() == 0:
        raise ValueError(f"curves must have a point of every run, got the shape {tuple(curves.shape)}")
    goal = torch.as_tensor(target, dtype=torch.float64, device=curves.device)
    require_finite("target", goal)
    if goal.ndim and goal.shape != curves.shape[:-1]:
        raise ValueError(f"target must have the shape {tuple(curves.shape[:-1])}, got {tuple(goal.shape)}")
    places = list(range(1, curves.shape[-1] + 1)) if steps is None else list(steps)
    for place in places:
        require_integer("steps", place, minimum=0)
    if len(places) != curves.shape[-1] or any(a >= b for a, b in itertools.pairwise(places)):
        raise ValueError(f"steps must be {curves.shape[-1]} rising numbers, one for each point, got {places}")
    require_integer("stays", stays, minimum=1)
    low = curves.double() <= goal.unsqueeze(-1)
    ahead = torch.cat([low, low.new_ones(*low.shape[:-1], stays - 1)], dim=-1)
    after = torch.tensor(places, dtype=torch.float64, device=curves.device)
    return after.where(ahead.unfold(-1, stays, 1).all(dim=-1), math.inf).amin(dim=-1)


def performance_profile(costs: Tensor, factors: Tensor) -> Tensor:
    r"""Return on which share of the problems a method costs at most some factor more than the best one.

    .. math::
        r_{mp} = \frac{c_{mp}}{\min_{m'} c_{m'p}}, \qquad
        \rho_m(\tau) = \frac{1}{P}\, \bigl| \{\, p : r_{mp} \le \tau \,\} \bigr|

    Args:
        costs: c, (M, P), above 0, what M methods needed for P problems, such as steps or seconds to a target;
            infinite where the target was not reached.
        factors: τ, (K,), at least 1.

    Returns:
        ρ, (M, K), float64, in [0, 1]. At τ = 1: how often a method is the best, ties counted for each.

    Raises:
        ValueError: shapes are others, a cost is NaN or not above 0, or a factor is below 1, NaN or infinite.
        TypeError: an argument is no tensor.

    Convention:
        A problem that nobody solves is solved by nobody: it counts in P. The best is taken among the methods at
        hand, so leaving one out can change the order of two others.

    Source:
        Dolan and Moré (2002), section 2.

    Example:
        >>> costs = torch.tensor([[10.0, 40.0], [20.0, 20.0]])
        >>> performance_profile(costs, torch.tensor([1.0, 2.0]))
        tensor([[0.5000, 1.0000],
                [0.5000, 1.0000]], dtype=torch.float64)
    """
    require_type("costs", costs, Tensor)
    require_type("factors", factors, Tensor)
    if costs.ndim != 2 or costs.numel() == 0:
        raise ValueError(f"costs must have the shape (methods, problems), got {tuple(costs.shape)}")
    if not bool((costs > 0).all()):
        raise ValueError(f"costs must be > 0, got {_first(costs, ~(costs > 0))}")
    if factors.ndim != 1:
        raise ValueError(f"factors must have one dimension, got the shape {tuple(factors.shape)}")
    require_non_empty("factors", factors)
    require_finite("factors", factors)
    if not bool((factors >= 1).all()):
        raise ValueError(f"factors must be >= 1, got {_first(factors, factors < 1)}")
    exact = costs.double()
    limits = exact.amin(dim=0) * factors.double().to(costs.device).unsqueeze(-1)
    within = (exact.unsqueeze(1) <= limits) & exact.isfinite().unsqueeze(1)
    return within.double().mean(dim=-1)


def interquartile_mean(
    scores: Tensor, *, generator: torch.Generator, num_resamples: int = 2000, confidence: float = 0.95
) -> tuple[float, float, float]:
    r"""Average the middle half of all runs of all tasks, with a bootstrap interval.

    .. math::
        \mathrm{IQM} = \frac{1}{n - 2k} \sum_{i=k+1}^{n-k} s_{(i)}, \qquad k = \lfloor n/4 \rfloor

    over the sorted n scores of all tasks together. Each resample draws the runs of every task anew, with
    replacement, and keeps the tasks; the interval lies between quantiles of the resampled means.

    Args:
        scores: s, (T, R), R >= 2 runs on each of T tasks, on one scale; infinite where a run failed.
        generator: on the CPU, draws the resamples.
        num_resamples: at least 100.
        confidence: of the interval, in (0, 1).

    Returns:
        Mean, low and high. Infinite runs count as worse than all others; a mean is infinite once they reach
        the middle half.

    Raises:
        ValueError: the shape is another, a score is NaN, some are infinite and others minus infinite, or a number is
            out of range.
        TypeError: an argument is of another kind.

    Convention:
        The quarters are cut off whole, as by ``scipy.stats.trim_mean(…, 0.25)``, and the tasks are pooled: a
        task whose scores are larger weighs more. The interval says how the runs scatter, of few runs a little too
        narrowly, and nothing about other tasks.

    Source:
        Agarwal et al. (2021), sections 3 and 4: interquartile mean and stratified bootstrap.

    Example:
        >>> scores = torch.tensor([[1.0, 2.0, 3.0, 100.0]])
        >>> interquartile_mean(scores, generator=torch.Generator().manual_seed(0))[0]
        2.5
    """
    require_type("scores", scores, Tensor)
    if scores.ndim != 2 or scores.shape[0] == 0 or scores.shape[1] < 2:
        raise ValueError(f"scores must have the shape (tasks, runs >= 2), got {tuple(scores.shape)}")
    if bool(scores.isnan().any()):
        raise ValueError("scores must not be NaN: a run that failed is infinite")
    if bool((scores == math.inf).any()) and bool((scores == -math.inf).any()):
        raise ValueError("scores must be infinite for failed runs alone, got both infinity and minus infinity")
    require_type("generator", generator, torch.Generator)
    require_integer("num_resamples", num_resamples, minimum=100)
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be in (0, 1), got {confidence!r}")
    exact = scores.detach().double().cpu()
    num_tasks, num_runs = exact.shape
    drawn = torch.randint(num_runs, (num_resamples, num_tasks, num_runs), generator=generator)
    resampled = exact.expand(num_resamples, -1, -1).gather(2, drawn).flatten(1)
    means = _middle_mean(resampled).sort().values
    tail = (1 - confidence) / 2
    low = means[math.floor(tail * (num_resamples - 1))]
    high = means[math.ceil((1 - tail) * (num_resamples - 1))]
    return float(_middle_mean(exact.flatten())), float(low), float(high)


def _middle_mean(values: Tensor) -> Tensor:
    """Return the mean of the last dimension without its lowest and its highest quarter."""
    cut = values.shape[-1] // 4
    return values.sort(dim=-1).values[..., cut : values.shape[-1] - cut].mean(dim=-1)


def _first(values: Tensor, wrong: Tensor) -> float:
    """Return the first of the values that are wrong."""
    return float(values[wrong][0])
