"""The checker accepts paired comparisons and refuses the planted wrong ways to time."""

import math
import statistics
from collections.abc import Callable

import pytest
import torch

from nnopt import exercises
from nnopt.measurement import compare, measure, median_interval

Task = Callable[[], object]
Clock = Callable[[], float]
Answer = tuple[float, float, float]


def logs_of(first: Task, second: Task, clock: Clock, num: int) -> list[float]:
    """Return log ratios of neighboring measurements, the order alternating."""
    logs = []
    for block in range(num):
        if block % 2:
            b, a = measure(second, clock=clock), measure(first, clock=clock)
        else:
            a, b = measure(first, clock=clock), measure(second, clock=clock)
        logs.append(math.log(b / a))
    return logs


def with_t(logs: list[float], width: float) -> Answer:
    middle, error = statistics.mean(logs), statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(middle), math.exp(middle - width * error), math.exp(middle + width * error)


def paired_median(first: Task, second: Task, clock: Clock) -> Answer:
    first(), second()
    logs = logs_of(first, second, clock, 20)
    low, high = median_interval(logs)
    return math.exp(statistics.median(logs)), math.exp(low), math.exp(high)


def paired_t(first: Task, second: Task, clock: Clock) -> Answer:
    first(), second()
    return with_t(logs_of(first, second, clock, 20), 2.09)


def ours(first: Task, second: Task, clock: Clock) -> Answer:
    generator = torch.Generator().manual_seed(0)
    result = compare({"a": first, "b": second}, baseline="a", generator=generator, clock=clock)["b"]
    return result.ratio, result.low, result.high


@pytest.mark.parametrize("right", [paired_median, paired_t, ours])
def test_paired_comparisons_pass(right: Callable[[Task, Task, Clock], Answer]) -> None:
    verdict = exercises.check_comparison(right)
    assert verdict, verdict


def one_after_the_other(first: Task, second: Task, clock: Clock) -> Answer:
    first(), second()
    a, b = ([math.log(measure(task, clock=clock)) for _ in range(20)] for task in (first, second))
    middle = statistics.mean(b) - statistics.mean(a)
    error = math.sqrt((statistics.variance(a) + statistics.variance(b)) / 20)
    return math.exp(middle), math.exp(middle - 2 * error), math.exp(middle + 2 * error)


def much_longer(first: Task, second: Task, clock: Clock) -> Answer:
    first(), second()
    a, b = ([math.log(measure(task, clock=clock)) for _ in range(190)] for task in (first, second))
    middle = statistics.mean(b) - statistics.mean(a)
    error = math.sqrt((statistics.variance(a) + statistics.variance(b)) / 190)
    return math.exp(middle), math.exp(middle - 2 * error), math.exp(middle + 2 * error)


def no_warm_up(first: Task, second: Task, clock: Clock) -> Answer:
    a = measure(first, num_calls=20, clock=clock)
    b = measure(second, num_calls=20, clock=clock)
    return b / a, b / a / 1.05, b / a * 1.05


def half_the_width(first: Task, second: Task, clock: Clock) -> Answer:
    first(), second()
    return with_t(logs_of(first, second, clock, 20), 0.8)


def upside_down(first: Task, second: Task, clock: Clock) -> Answer:
    ratio, low, high = paired_median(first, second, clock)
    return 1 / ratio, 1 / high, 1 / low


def all_is_possible(first: Task, second: Task, clock: Clock) -> Answer:
    ratio, _, _ = paired_median(first, second, clock)
    return ratio, ratio / 2, ratio * 2


def extravagant(first: Task, second: Task, clock: Clock) -> Answer:
    first(), second()
    return with_t(logs_of(first, second, clock, 300), 1.97)


def outside(first: Task, second: Task, clock: Clock) -> Answer:
    ratio, low, high = paired_median(first, second, clock)
    return 2 * ratio, low, high


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (one_after_the_other, "hold the truth on"),
        (much_longer, "hold the truth on"),
        (no_warm_up, "hold the truth on"),
        (half_the_width, "hold the truth on"),
        (upside_down, "hold the truth on"),
        (all_is_possible, "too wide"),
        (extravagant, "more than 400"),
        (outside, "must lie in its interval"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_planted_wrong_comparisons_are_refused(wrong: Callable[[Task, Task, Clock], Answer], sentence: str) -> None:
    verdict = exercises.check_comparison(wrong)
    assert not verdict
    assert sentence in verdict.sentence
