"""Which of two functions is faster, and how sure that is: chapter *Timing*.

Machines get slower and faster for reasons of their own, for longer than a measurement lasts. So nothing is
measured alone: in every block all functions take turns, and only ratios inside a block are used.
"""

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias

import torch

from nnopt.checks import (
    require_integer,
    require_non_negative,
    require_one_of,
    require_positive,
    require_type,
)
from nnopt.devices import synchronize
from nnopt.types import DeviceLike

from ._comparison import Comparison, TimeRatio

__all__ = ["SimulatedMachine", "compare", "measure", "median_interval"]

Clock: TypeAlias = Callable[[], float]

# how far the baseline may be from itself
_TOLERANCE = 1.05


def measure(
    function: Callable[[], object],
    *,
    num_calls: int = 1,
    device: DeviceLike = "cpu",
    clock: Clock = time.perf_counter,
) -> float:
    """Time some calls in a row, and wait for the device before each look at the clock.

    Args:
        function: what to time.
        num_calls: calls between the two looks.
        device: where the work runs; a GPU returns from a call long before its work is done.
        clock: returns seconds.

    Returns:
        Seconds per call.

    Raises:
        ValueError: ``num_calls`` is below 1.
        TypeError: ``function`` is not callable, or ``num_calls`` no integer.
    """
    if not callable(function):
        raise TypeError(f"function must be callable, got {type(function).__name__}")
    require_integer("num_calls", num_calls, minimum=1)
    synchronize(device)
    start = clock()
    for _ in range(num_calls):
        function()
    synchronize(device)
    return (clock() - start) / num_calls


def compare(
    functions: Mapping[str, Callable[[], object]],
    *,
    baseline: str,
    generator: torch.Generator,
    num_blocks: int = 12,
    min_block_s: float = 0.01,
    num_warmup: int = 3,
    num_threads: int | None = 1,
    device: DeviceLike = "cpu",
    clock: Clock = time.perf_counter,
) -> Comparison:
    """Compare the times of functions in blocks, with the baseline against itself as a control.

    In each block b every function, and the baseline a second time, is measured once, in random order. For
    each one exp(median_b log(t_b / t_b^baseline)) is its ratio, with the interval of order statistics of
    the median: no assumption about the noise but that blocks are independent.

    Args:
        functions: what to time, by name; they take nothing and their results are dropped.
        baseline: the name that the others are divided by.
        generator: draws the orders.
        num_blocks: at least 6, the fewest that give a 95 % interval.
        min_block_s: calls are repeated until one measurement lasts this long, seconds.
        num_warmup: calls of each function that are not measured.
        num_threads: torch's threads during the comparison, restored afterwards; None leaves them.
        device: where the work runs, to wait for it.
        clock: returns seconds.

    Returns:
        Ratios with intervals, the control, and whether it is within ± 5 %: if not, the machine was too
        restless and nothing should be concluded.

    Raises:
        ValueError: the baseline is no name, there are too few blocks, or the clock does not advance.
        TypeError: an argument is of another type.

    Example:
        >>> machine = SimulatedMachine(generator=torch.Generator().manual_seed(0))
        >>> tasks = {"slow": machine.task(0.02), "fast": machine.task(0.01)}
        >>> orders = torch.Generator().manual_seed(1)
        >>> result = compare(tasks, baseline="slow", generator=orders, clock=machine.clock)
        >>> result["fast"].low < 0.5 < result["fast"].high
        True
    """
    require_type("functions", functions, Mapping)
    require_one_of("baseline", baseline, list(functions))
    require_type("generator", generator, torch.Generator)
    require_integer("num_blocks", num_blocks, minimum=6)
    require_positive("min_block_s", min_block_s)
    require_integer("num_warmup", num_warmup, minimum=1)
    arms = [(name, functions[name]) for name in functions] + [(None, functions[baseline])]
    times: dict[str | None, list[float]] = {name: [] for name, _ in arms}
    with _quiet(num_threads):
        num_calls = {
            name: _num_calls(function, num_warmup, min_block_s, device, clock) for name, function in functions.items()
        }
        for _ in range(num_blocks):
            for place in torch.randperm(len(arms), generator=generator).tolist():
                name, function = arms[place]
                calls = num_calls[baseline if name is None else name]
                seconds = measure(function, num_calls=calls, device=device, clock=clock)
                if not seconds > 0:
                    raise ValueError(f"clock must advance during a measurement, got {seconds} s for {name!r}")
                times[name].append(seconds)
    control_ratio = math.exp(statistics.median(_logs(times[None], times[baseline])))
    conclusive = 1 / _TOLERANCE <= control_ratio <= _TOLERANCE
    *ratios, control = (_time_ratio(name, times, baseline, conclusive) for name, _ in arms)
    return Comparison(baseline, tuple(ratios), control)


def median_interval(values: list[float], *, level: float = 0.95) -> tuple[float, float]:
    """Return two of the sorted values between which the median of the distribution lies.

    [x₍ₖ₎, x₍ₙ₊₁₋ₖ₎] misses it with probability 2 P(Binomial(n, ½) < k): the largest k with at most
    1 − ``level`` is taken.

    Args:
        values: independent draws, any continuous distribution.
        level: probability of coverage at least, below 1.

    Returns:
        Lower and upper end.

    Raises:
        ValueError: there are too few values for this level, or one is not finite.

    Source:
        H. A. David and H. N. Nagaraja, Order Statistics, 3rd edition, 2003, section 7.1.

    Example:
        >>> median_interval([3.0, 1.0, 6.0, 2.0, 5.0, 4.0])
        (1.0, 6.0)
    """
    if not all(map(math.isfinite, values)):
        raise ValueError("values must be finite")
    num = len(values)
    rank, missed = 0, 0.0
    # after the loop rank is the largest k with 2 P(Binomial < k) <= 1 - level
    while rank <= num // 2 and missed + 2 * math.comb(num, rank) / 2**num <= 1 - level:
        missed += 2 * math.comb(num, rank) / 2**num
        rank += 1
    if rank == 0:
        raise ValueError(f"values must be more for an interval of level {level}, got {num}")
    ordered = sorted(values)
    return ordered[rank - 1], ordered[num - rank]


class SimulatedMachine:
    """A machine whose true times are known, to try a way of measuring.

    A call of a task of d seconds takes d · exp(x + e): e ~ N(0, ``noise_scale``²) is new at every call, x
    drifts as other work comes and goes, an Ornstein–Uhlenbeck process of standard deviation
    ``drift_scale`` that forgets its value in ``drift_time_s``.

    Args:
        generator: draws the noise.
        noise_scale: of single calls, in logarithms.
        drift_scale: of the slow changes, in logarithms.
        drift_time_s: how long a change lasts, seconds.
        first_call_s: what the first call of each task costs on top: caches, compilation.
    """

    def __init__(
        self,
        *,
        generator: torch.Generator,
        noise_scale: float = 0.02,
        drift_scale: float = 0.1,
        drift_time_s: float = 1.0,
        first_call_s: float = 0.0,
    ) -> None:
        require_type("generator", generator, torch.Generator)
        require_non_negative("noise_scale", noise_scale)
        require_non_negative("drift_scale", drift_scale)
        require_positive("drift_time_s", drift_time_s)
        require_non_negative("first_call_s", first_call_s)
        self._random = random.Random(int(torch.randint(2**62, (), generator=generator)))
        self._noise_scale = noise_scale
        self._drift_scale = drift_scale
        self._drift_time_s = drift_time_s
        self._first_call_s = first_call_s
        self._now = 0.0
        self._drift = self._random.gauss(0.0, drift_scale)

    def clock(self) -> float:
        """Return the simulated time in seconds."""
        return self._now

    def task(self, duration_s: float) -> Callable[[], None]:
        """Return a function whose true time is ``duration_s`` seconds.

        Raises:
            ValueError: the duration is not above 0.
        """
        require_positive("duration_s", duration_s)
        extra = [self._first_call_s]

        def call() -> None:
            noise = self._random.gauss(0.0, self._noise_scale)
            self._advance(duration_s * math.exp(self._drift + noise) + (extra.pop() if extra else 0.0))

        return call

    def _advance(self, seconds: float) -> None:
        kept = math.exp(-seconds / self._drift_time_s)
        fresh = self._random.gauss(0.0, self._drift_scale)
        self._drift = kept * self._drift + math.sqrt(1 - kept**2) * fresh
        self._now += seconds


@contextmanager
def _quiet(num_threads: int | None) -> Iterator[None]:
    """Fix the threads and hold the garbage collector; restore both."""
    if num_threads is not None:
        require_integer("num_threads", num_threads, minimum=1)
    threads, collects = torch.get_num_threads(), gc.isenabled()
    gc.disable()
    try:
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        yield
    finally:
        torch.set_num_threads(threads)
        if collects:
            gc.enable()


def _num_calls(
    function: Callable[[], object], num_warmup: int, min_block_s: float, device: DeviceLike, clock: Clock
) -> int:
    """Warm up, then double the calls until one measurement is long enough."""
    measure(function, num_calls=num_warmup, device=device, clock=clock)
    num_calls = 1
    while True:
        seconds = num_calls * measure(function, num_calls=num_calls, device=device, clock=clock)
        if seconds >= min_block_s:
            return num_calls
        if seconds <= 0 and num_calls >= 2**16:
            raise ValueError(f"clock must advance, got {seconds} s for {num_calls:,} calls")
        num_calls *= 2


def _logs(times: list[float], baseline_times: list[float]) -> list[float]:
    return [math.log(a / b) for a, b in zip(times, baseline_times, strict=True)]


def _time_ratio(name: str | None, times: dict[str | None, list[float]], baseline: str, conclusive: bool) -> TimeRatio:
    logs = _logs(times[name], times[baseline])
    low, high = (0.0, 0.0) if name == baseline else median_interval(logs)
    return TimeRatio(
        name=f"{baseline}, again" if name is None else name,
        seconds=statistics.median(times[name]),
        ratio=math.exp(statistics.median(logs)),
        low=math.exp(low),
        high=math.exp(high),
        block_ratios=tuple(map(math.exp, logs)),
        conclusive=conclusive,
    )
