import gc
import math
import random
import statistics
from collections.abc import Callable
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import quantile_test

from nnopt.devices import available_devices
from nnopt.measurement import timing
from nnopt.measurement.timing import SimulatedMachine, compare, measure, median_interval


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


class Stopwatch:
    """A clock that only tasks move."""

    def __init__(self) -> None:
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def task(self, *durations: float) -> Callable[[], None]:
        queue = list(durations)

        def call() -> None:
            self.now += queue.pop(0) if len(queue) > 1 else queue[0]

        return call


# measuring once


def test_seconds_are_per_call() -> None:
    watch = Stopwatch()
    assert measure(watch.task(1.0, 2.0, 6.0), num_calls=3, clock=watch.clock) == 3.0


def test_the_device_is_waited_for_before_both_looks_at_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    monkeypatch.setattr(timing, "synchronize", lambda device: events.append(f"wait {device}"))

    def clock() -> float:
        events.append("clock")
        return 0.0

    measure(lambda: events.append("call"), num_calls=2, device="cuda", clock=clock)
    assert events == ["wait cuda", "clock", "call", "call", "wait cuda", "clock"]


def test_what_cannot_be_timed_is_refused() -> None:
    with pytest.raises(TypeError, match="function must be callable, got int"):
        measure(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_calls must be >= 1, got 0"):
        measure(lambda: None, num_calls=0)


# the interval of the median


@pytest.mark.parametrize(
    ("num", "low", "high"), [(6, 1, 6), (8, 1, 8), (9, 2, 8), (12, 3, 10), (15, 4, 12), (20, 6, 15)]
)
def test_order_statistics_are_those_of_the_table(num: int, low: int, high: int) -> None:
    # ranks of the 95 % sign-test interval, as in any table of it
    values = [float(v) for v in range(1, num + 1)]
    random.Random(0).shuffle(values)
    assert median_interval(values) == (low, high)


@pytest.mark.parametrize("num", [6, 9, 12])
def test_the_interval_misses_the_median_as_rarely_as_a_full_enumeration_says(num: int) -> None:
    # each value lies below or above the true median 0 like a coin: go through all outcomes
    missed = 0
    for signs in product((-1.0, 1.0), repeat=num):
        values = [sign * (1 + place / 100) for place, sign in enumerate(signs)]
        low, high = median_interval(values)
        missed += not low <= 0 <= high
    assert missed / 2**num <= 0.05
    # and the next narrower one would miss it too often
    rank = sorted(range(num)).index(int(median_interval([float(v) for v in range(num)])[0])) + 1
    assert 2 * sum(math.comb(num, k) for k in range(rank + 1)) / 2**num > 0.05


@pytest.mark.parametrize("num", [6, 9, 12, 20, 33])
def test_the_interval_equals_scipys(num: int) -> None:
    rng = random.Random(num)
    values = [rng.gauss(0.0, 1.0) for _ in range(num)]
    theirs = quantile_test(values, q=0.0, p=0.5).confidence_interval(0.95)
    assert median_interval(values) == (theirs.low, theirs.high)


def test_too_few_or_infinite_values_have_no_interval() -> None:
    with pytest.raises(ValueError, match=r"values must be more for an interval of level 0.95, got 5"):
        median_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    with pytest.raises(ValueError, match="values must be finite"):
        median_interval([1.0, 2.0, 3.0, 4.0, 5.0, math.nan])


# comparing


def test_ratios_of_a_clock_without_noise_are_exact() -> None:
    watch = Stopwatch()
    functions = {"a": watch.task(0.02), "b": watch.task(0.05), "c": watch.task(0.005)}
    result = compare(functions, baseline="a", generator=seeded(), clock=watch.clock)
    assert [r.name for r in result.ratios] == ["a", "b", "c"]
    assert [r.ratio for r in result.ratios] == pytest.approx([1.0, 2.5, 0.25])
    assert (result["b"].low, result["b"].high) == pytest.approx((2.5, 2.5))
    assert [r.seconds for r in result.ratios] == pytest.approx([0.02, 0.05, 0.005])
    assert result.control.ratio == pytest.approx(1.0)
    assert result.conclusive


@pytest.mark.parametrize(
    ("baseline_s", "head", "cells"),
    [
        (2.5, "time, s", ["2.50", "1250"]),
        (0.0021, "time, ms", ["2.10", "1050"]),
        (1.34e-5, "time, µs", ["13.4", "6700"]),
    ],
)
def test_a_table_is_written_in_the_unit_of_its_baseline(baseline_s: float, head: str, cells: list[str]) -> None:
    watch = Stopwatch()
    functions = {"a": watch.task(baseline_s), "b": watch.task(500 * baseline_s)}
    result = compare(functions, baseline="a", generator=seeded(), clock=watch.clock)
    first, *rows = str(result).splitlines()
    assert head in first
    assert [row.split()[1] for row in rows[:2]] == cells
    assert rows[1].split()[2:] == ["500", "[500,", "500]"]
    assert f">{head}<" in result._repr_mimebundle_()["text/html"]


def test_the_ratio_is_the_median_over_blocks_so_that_one_interruption_changes_nothing() -> None:
    watch = Stopwatch()
    # 1 warm-up, 1 look at the length, then blocks; the fifth measurement of b is interrupted
    functions = {"a": watch.task(1.0), "b": watch.task(*[1.5] * 6, 900.0, 1.5)}
    result = compare(functions, baseline="a", generator=seeded(), clock=watch.clock, num_blocks=9, num_warmup=1)
    assert result["b"].ratio == pytest.approx(1.5)
    assert max(result["b"].block_ratios) == pytest.approx(900.0)
    assert result["b"].high == pytest.approx(1.5)


def test_every_block_measures_every_function_and_the_baseline_twice_in_an_order_drawn_by_the_generator() -> None:
    def orders(seed: int) -> list[str]:
        watch, calls = Stopwatch(), []

        def task(name: str) -> Callable[[], None]:
            def call() -> None:
                watch.now += 1.0
                calls.append(name)

            return call

        functions = {name: task(name) for name in "abc"}
        compare(functions, baseline="b", generator=seeded(seed), clock=watch.clock, num_blocks=7, num_warmup=2)
        assert calls[:9] == list("aaabbbccc")
        return calls[9:]

    first = orders(0)
    blocks = [first[i : i + 4] for i in range(0, 28, 4)]
    assert all(sorted(block) == ["a", "b", "b", "c"] for block in blocks)
    assert len({tuple(block) for block in blocks}) > 1
    assert orders(0) == first
    assert orders(1) != first


def test_short_functions_are_repeated_until_a_measurement_is_long_enough() -> None:
    watch = Stopwatch()
    calls = []

    def short() -> None:
        watch.now += 0.001
        calls.append(1)

    result = compare({"short": short}, baseline="short", generator=seeded(), clock=watch.clock, min_block_s=0.03)
    # 3 to warm up, 1 + 2 + … + 32 to find 32, then 12 blocks of two measurements
    assert len(calls) == 3 + 63 + 12 * 2 * 32
    assert result["short"].seconds == pytest.approx(0.001)


def test_warm_up_is_not_measured() -> None:
    machine = SimulatedMachine(generator=seeded(), first_call_s=50.0, noise_scale=0.0, drift_scale=0.0)
    result = compare(
        {"a": machine.task(0.01), "b": machine.task(0.02)},
        baseline="a",
        generator=seeded(),
        clock=machine.clock,
    )
    assert [r.seconds for r in result.ratios] == pytest.approx([0.01, 0.02])


def coverage(truth: float, method: Callable[[int], tuple[float, float]], num_runs: int = 300) -> float:
    intervals = [method(number) for number in range(num_runs)]
    return sum(low <= truth <= high for low, high in intervals) / num_runs


def restless(number: int) -> SimulatedMachine:
    return SimulatedMachine(generator=seeded(number), noise_scale=0.03, drift_scale=0.15, drift_time_s=2.0)


@pytest.mark.parametrize("truth", [1.0, 1.2])
@pytest.mark.parametrize("num_blocks", [6, 12])
def test_on_a_restless_machine_the_interval_holds_the_truth_as_often_as_it_says(truth: float, num_blocks: int) -> None:
    def paired(number: int) -> tuple[float, float]:
        machine = restless(number)
        functions = {"a": machine.task(0.02), "b": machine.task(0.02 * truth)}
        result = compare(functions, baseline="a", generator=seeded(number), clock=machine.clock, num_blocks=num_blocks)
        return result["b"].low, result["b"].high

    # at least 95 % is promised; 300 runs have a standard error of 1.3 points
    assert coverage(truth, paired) >= 0.92


def test_measuring_one_after_the_other_does_not_hold_the_truth() -> None:
    # the planted fault: same machine, same number of measurements, a t interval of the log times, no pairing
    def unpaired(number: int) -> tuple[float, float]:
        machine = restless(number)
        logs = [
            [math.log(measure(task, clock=machine.clock)) for _ in range(12)]
            for task in (machine.task(0.02), machine.task(0.024))
        ]
        middle = statistics.mean(logs[1]) - statistics.mean(logs[0])
        error = math.sqrt(sum(statistics.variance(values) for values in logs) / 12)
        return math.exp(middle - 2.07 * error), math.exp(middle + 2.07 * error)

    assert coverage(1.2, unpaired) < 0.7


def test_a_baseline_that_differs_from_itself_makes_the_comparison_inconclusive() -> None:
    watch = Stopwatch()
    rng = random.Random(4)

    def erratic() -> None:
        watch.now += math.exp(rng.gauss(0.0, 1.0))

    result = compare({"a": erratic}, baseline="a", generator=seeded(), clock=watch.clock)
    assert not 1 / 1.05 <= result.control.ratio <= 1.05
    assert result.status == "inconclusive"
    assert "inconclusive on this machine" in str(result)
    assert result._repr_mimebundle_()["application/vnd.nnopt.timing+json"][0]["status"] == "inconclusive"


@pytest.mark.parametrize(("ratio", "expected"), [(1.049, True), (1.051, False), (0.951, False), (0.953, True)])
def test_the_control_may_be_five_percent_off_in_either_direction(ratio: float, expected: bool) -> None:
    # one warm-up, one look at the length, then the baseline takes 1 s and its second turn always ratio s
    orders = seeded(8)
    places = [place for _ in range(6) for place in torch.randperm(2, generator=orders).tolist()]
    watch = Stopwatch()
    task = watch.task(1.0, 1.0, *(1.0 if place == 0 else ratio for place in places))
    result = compare({"a": task}, baseline="a", generator=seeded(8), clock=watch.clock, num_blocks=6, num_warmup=1)
    assert result.control.ratio == pytest.approx(ratio)
    assert result.conclusive is expected
    assert result["a"].conclusive is expected
    assert result.num_blocks == result["a"].num_blocks == 6


def test_threads_and_garbage_collection_are_restored_also_after_an_error() -> None:
    before = torch.get_num_threads()
    seen = []

    def look() -> None:
        seen.append((torch.get_num_threads(), gc.isenabled()))

    compare({"a": look}, baseline="a", generator=seeded(), num_threads=1, min_block_s=1e-6, num_blocks=6)
    assert set(seen) == {(1, False)}
    with pytest.raises(ZeroDivisionError):
        compare({"a": lambda: 1 / 0}, baseline="a", generator=seeded(), num_threads=before + 1)
    assert torch.get_num_threads() == before
    assert gc.isenabled()


def test_the_result_displays_as_text_table_and_numbers() -> None:
    watch = Stopwatch()
    functions = {"dense": watch.task(0.02), "<half>": watch.task(0.01)}
    result = compare(functions, baseline="dense", generator=seeded(), clock=watch.clock)
    bundle = result._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html", "application/vnd.nnopt.timing+json"}
    row = bundle["application/vnd.nnopt.timing+json"][1]
    assert (row["model"], row["baseline"], row["latency_ratio"]) == ("<half>", "dense", pytest.approx(0.5))
    assert "&lt;half&gt;" in bundle["text/html"]
    assert '<table class="nnopt-timing">' in bundle["text/html"]
    assert "dense, again" in bundle["text/plain"]
    assert "12 blocks; the control is within 5 % of 1" in bundle["text/plain"]
    with pytest.raises(KeyError, match="none"):
        result["none"]


@pytest.mark.parametrize("device", available_devices(), ids=str)
def test_real_work_on_every_device_gives_finite_ratios(device: torch.device) -> None:
    matrix = torch.eye(32, device=device)
    functions = {"one": lambda: matrix @ matrix, "two": lambda: matrix @ matrix @ matrix}
    result = compare(functions, baseline="one", generator=seeded(), device=device, min_block_s=1e-4, num_blocks=6)
    ratio = result["two"]
    assert 0 < ratio.low <= ratio.ratio <= ratio.high < math.inf


def test_bad_arguments_are_refused_before_anything_runs() -> None:
    def never() -> None:
        raise AssertionError("ran")

    with pytest.raises(ValueError, match="baseline must be one of 'a', got 'b'"):
        compare({"a": never}, baseline="b", generator=seeded())
    with pytest.raises(ValueError, match="num_blocks must be >= 6, got 5"):
        compare({"a": never}, baseline="a", generator=seeded(), num_blocks=5)
    with pytest.raises(TypeError, match="generator must be Generator, got int"):
        compare({"a": never}, baseline="a", generator=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="min_block_s must be > 0, got 0"):
        compare({"a": never}, baseline="a", generator=seeded(), min_block_s=0)
    with pytest.raises(ValueError, match="num_warmup must be >= 1, got 0"):
        compare({"a": never}, baseline="a", generator=seeded(), num_warmup=0)
    with pytest.raises(ValueError, match="num_threads must be >= 1, got 0"):
        compare({"a": never}, baseline="a", generator=seeded(), num_threads=0)
    with pytest.raises(TypeError, match="functions must be Mapping, got list"):
        compare([never], baseline="a", generator=seeded())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="function must be callable, got str"):
        compare({"a": "b"}, baseline="a", generator=seeded())  # type: ignore[dict-item]


def test_a_clock_that_stands_still_is_refused() -> None:
    with pytest.raises(ValueError, match="clock must advance"):
        compare({"a": int}, baseline="a", generator=seeded(), clock=lambda: 1.0, min_block_s=1e-9)


# the simulated machine


def test_a_machine_without_noise_takes_the_true_time() -> None:
    machine = SimulatedMachine(generator=seeded(), noise_scale=0.0, drift_scale=0.0)
    task = machine.task(0.25)
    for _ in range(4):
        task()
    assert machine.clock() == pytest.approx(1.0)


@settings(derandomize=True, deadline=None, max_examples=10)
@given(seed=st.integers(0, 1000))
def test_equal_generators_give_equal_machines(seed: int) -> None:
    times = []
    for _ in range(2):
        machine = SimulatedMachine(generator=seeded(seed))
        task = machine.task(0.1)
        times.append([measure(task, clock=machine.clock) for _ in range(5)])
    assert times[0] == times[1]


def test_the_drift_has_the_stated_size_and_is_remembered_for_the_stated_time() -> None:
    machine = SimulatedMachine(generator=seeded(), noise_scale=0.0, drift_scale=0.2, drift_time_s=1.0)
    task = machine.task(0.1)
    logs = torch.tensor([math.log(measure(task, clock=machine.clock) / 0.1) for _ in range(20_000)])
    assert logs.std().item() == pytest.approx(0.2, rel=0.1)
    centered = logs - logs.mean()
    # one step of .1 s keeps exp(-.1) of the drift, ten steps exp(-1)
    for lag in (1, 10):
        kept = (centered[lag:] * centered[:-lag]).mean() / centered.square().mean()
        assert kept.item() == pytest.approx(math.exp(-0.1 * lag), abs=0.07)


def test_a_machine_refuses_impossible_settings() -> None:
    with pytest.raises(ValueError, match=r"noise_scale must be >= 0, got -0.1"):
        SimulatedMachine(generator=seeded(), noise_scale=-0.1)
    with pytest.raises(ValueError, match="drift_time_s must be > 0, got 0"):
        SimulatedMachine(generator=seeded(), drift_time_s=0)
    with pytest.raises(ValueError, match="duration_s must be > 0, got 0"):
        SimulatedMachine(generator=seeded()).task(0)
