"""Exercises of the chapter ``measurement/timing``."""

import math
import statistics
from collections.abc import Callable
from typing import TypeAlias

import torch

from nnopt.measurement import SimulatedMachine

from ._verdict import Verdict

__all__ = ["check_comparison"]

Task: TypeAlias = Callable[[], object]
Compare: TypeAlias = Callable[[Task, Task, Callable[[], float]], tuple[float, float, float]]

NUM_MACHINES, MAX_CALLS = 120, 400
LEAST_COVERAGE, MAX_WIDTH = 0.88, 1.2
TRUTHS = (1.0, 1.3, 0.8)


def check_comparison(candidate: Compare) -> Verdict:
    """Check a function that compares two tasks, on simulated machines whose true ratio is known.

    Args:
        candidate: takes the baseline, the other task and a clock, and returns the ratio of times
            (other / baseline) with the low and high end of a 95 % interval. It may call the tasks 400 times
            in all. The first call of each task takes much longer, and the machine drifts.

    Returns:
        A verdict: the interval must hold the truth on 88 % of 120 machines and be narrower than 20 %.
    """
    covered, widths, errors = 0, [], []
    for number in range(NUM_MACHINES):
        truth = TRUTHS[number % len(TRUTHS)]
        machine = SimulatedMachine(
            generator=torch.Generator().manual_seed(number), noise_scale=0.02, drift_scale=0.15, first_call_s=0.5
        )
        calls = [0]
        tasks = [_counted(machine.task(0.01 * factor), calls) for factor in (1.0, truth)]
        ratio, low, high = candidate(tasks[0], tasks[1], machine.clock)
        if not (math.isfinite(ratio) and 0 < low <= ratio <= high):
            return Verdict(False, f"Your ratio must lie in its interval, got {ratio:.3g} in [{low:.3g}, {high:.3g}].")
        if calls[0] > MAX_CALLS:
            return Verdict(False, f"You called the tasks {calls[0]} times, more than {MAX_CALLS}.")
        covered += low <= truth <= high
        widths.append(high / low)
        errors.append(math.log(ratio / truth))
    width, share = statistics.median(widths), covered / NUM_MACHINES
    if share < LEAST_COVERAGE:
        off = math.exp(statistics.median(map(abs, errors))) - 1
        return Verdict(
            False,
            f"Your intervals hold the truth on {covered} of {NUM_MACHINES} machines; half of your ratios are more "
            f"than {100 * off:.1f} % off.",
        )
    if width > MAX_WIDTH:
        return Verdict(False, f"Your intervals hold the truth, but reach over a factor of {width:.2f}: too wide.")
    return Verdict(
        True,
        f"Your intervals hold the truth on {covered} of {NUM_MACHINES} machines, with {100 * (width - 1):.1f} % width.",
    )


def _counted(task: Task, calls: list[int]) -> Task:
    def call() -> None:
        calls[0] += 1
        task()

    return call
