"""Measures of a ranking: against hand-worked tables, slow twins and scipy, with the faults that they are used with."""

import ast
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from nnopt.devices import available_devices
from nnopt.optimizers import interquartile_mean, performance_profile, steps_to_target

inf, nan = math.inf, math.nan
costs_of_any_size = st.integers(1, 5).flatmap(
    lambda problems: st.lists(
        st.lists(st.sampled_from([1.0, 1.5, 2.0, 7.0, 30.0, inf]), min_size=problems, max_size=problems),
        min_size=1,
        max_size=5,
    )
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_steps_to_a_target_are_those_at_the_first_point_that_is_low_enough() -> None:
    curves = torch.tensor([[5.0, 2.0, 1.0, 3.0], [5.0, 4.0, 3.0, 1.9], [5.0, nan, nan, nan]])
    found = steps_to_target(curves, 2.0, steps=[0, 10, 20, 30])
    assert found.tolist() == [10.0, 30.0, inf]
    assert found.dtype == torch.float64
    assert steps_to_target(curves, 2.0).tolist() == [2.0, 4.0, inf]


def test_each_run_may_have_a_target_of_its_own() -> None:
    curves = torch.tensor([[[3.0, 1.0]], [[3.0, 1.0]]])
    assert steps_to_target(curves, torch.tensor([[3.0], [1.0]])).tolist() == [[1.0], [2.0]]


def test_a_curve_that_jumps_up_again_and_a_nan_before_the_target_do_not_hide_it() -> None:
    assert float(steps_to_target(torch.tensor([nan, 4.0, 1.0, nan, 9.0]), 1.0)) == 3.0


def test_a_lucky_moment_does_not_count_where_a_curve_must_stay() -> None:
    curves = torch.tensor([[3.0, 1.0, 3.0, 1.0, 1.0, 1.0, 3.0], [3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 1.0]])
    assert steps_to_target(curves, 2.0, stays=3).tolist() == [4.0, 7.0]
    assert steps_to_target(curves[:, :3], 2.0, stays=3).tolist() == [inf, inf]


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.lists(st.floats(-5, 5) | st.just(nan), min_size=1, max_size=9), st.floats(-5, 5), st.integers(1, 12))
def test_the_steps_to_a_target_are_those_of_a_loop(values: list[float], target: float, stays: int) -> None:
    slow = next((i + 1.0 for i in range(len(values)) if all(value <= target for value in values[i : i + stays])), inf)
    assert float(steps_to_target(torch.tensor(values, dtype=torch.float64), target, stays=stays)) == slow


def test_the_profile_of_a_hand_worked_table() -> None:
    costs = torch.tensor([[1.0, 4.0, inf, 10.0], [2.0, 4.0, 3.0, inf], [4.0, 1.0, 6.0, inf]])
    found = performance_profile(costs, torch.tensor([1.0, 2.0, 4.0]))
    hand = [[2 / 4, 2 / 4, 3 / 4], [1 / 4, 2 / 4, 3 / 4], [1 / 4, 2 / 4, 3 / 4]]
    torch.testing.assert_close(found, torch.tensor(hand, dtype=torch.float64))


def test_a_problem_that_nobody_solves_counts_against_all() -> None:
    costs = torch.tensor([[1.0, inf], [2.0, inf]])
    assert performance_profile(costs, torch.tensor([1.0, 100.0])).tolist() == [[0.5, 0.5], [0.0, 0.5]]


def test_without_one_method_two_others_change_places() -> None:
    costs = torch.tensor([[9.0, 2.0, 2.0], [2.0, 3.0, 3.0], [4.0, 2.1, 2.1]])
    best = torch.tensor([1.0])
    assert performance_profile(costs, best)[1:, 0].tolist() == pytest.approx([1 / 3, 0.0])
    assert performance_profile(costs[1:], best)[:, 0].tolist() == pytest.approx([1 / 3, 2 / 3])


def slow_profile(costs: list[list[float]], factor: float) -> list[float]:
    shares = []
    for row in costs:
        solved = 0
        for problem, cost in enumerate(row):
            best = min(other[problem] for other in costs)
            solved += math.isfinite(cost) and cost <= factor * best
        shares.append(solved / len(row))
    return shares


@settings(derandomize=True, deadline=None, max_examples=60)
@given(costs_of_any_size, st.floats(1, 50))
def test_the_profile_is_that_of_a_loop_and_rises(costs: list[list[float]], factor: float) -> None:
    table = torch.tensor(costs, dtype=torch.float64)
    found = performance_profile(table, torch.tensor([1.0, factor, 2 * factor], dtype=torch.float64))
    assert found[:, 1].tolist() == pytest.approx(slow_profile(costs, factor))
    assert bool((found.diff(dim=1) >= 0).all())
    solved = float((table.amin(dim=0) < inf).double().mean())
    assert float(found[:, 0].max()) >= solved / len(costs)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(costs_of_any_size, st.sampled_from([0.25, 3.0, 1024.0]))
def test_the_unit_of_a_problem_does_not_matter(costs: list[list[float]], unit: float) -> None:
    table = torch.tensor(costs, dtype=torch.float64)
    scaled = table.clone()
    scaled[:, 0] *= unit
    factors = torch.tensor([1.0, 1.5, 3.0, 20.0], dtype=torch.float64)
    torch.testing.assert_close(performance_profile(scaled, factors), performance_profile(table, factors))


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.lists(st.lists(st.floats(-9, 9), min_size=5, max_size=5), min_size=1, max_size=4))
def test_the_interquartile_mean_is_scipys_trimmed_mean_inside_its_interval(scores: list[list[float]]) -> None:
    table = torch.tensor(scores, dtype=torch.float64)
    mean, low, high = interquartile_mean(table, generator=generator(), num_resamples=200)
    assert mean == pytest.approx(float(stats.trim_mean(table.flatten().numpy(), 0.25)), abs=1e-12)
    assert low <= high
    assert float(table.min()) - 1e-12 <= low
    assert high <= float(table.max()) + 1e-12


def slow_interval(scores: Tensor, drawn: torch.Generator, resamples: int, confidence: float) -> tuple[float, float]:
    tasks, runs = scores.shape
    places = torch.randint(runs, (resamples, tasks, runs), generator=drawn)
    means = []
    for resample in places:
        chosen = [float(scores[task, place]) for task in range(tasks) for place in resample[task]]
        means.append(float(stats.trim_mean(chosen, 0.25)))
    means.sort()
    tail = (1 - confidence) / 2
    return means[math.floor(tail * (resamples - 1))], means[math.ceil((1 - tail) * (resamples - 1))]


@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_the_bootstrap_interval_is_that_of_a_loop_over_tasks(confidence: float) -> None:
    scores = torch.randn(3, 7, generator=generator(1), dtype=torch.float64)
    found = interquartile_mean(scores, generator=generator(2), num_resamples=150, confidence=confidence)[1:]
    assert found == pytest.approx(slow_interval(scores, generator(2), 150, confidence), abs=1e-12)


def test_the_resamples_keep_the_tasks() -> None:
    scores = torch.tensor([[1.0] * 6, [2.0] * 6, [9.0] * 6])
    assert interquartile_mean(scores, generator=generator(), num_resamples=100) == pytest.approx(
        (3.2, 3.2, 3.2)
    )  # 1 1 2 2 2 2 2 2 9 9


def test_the_interval_of_a_few_runs_covers_somewhat_less_often_than_it_says() -> None:
    draws, held = generator(3), 0
    for _ in range(150):
        scores = torch.randn(3, 12, generator=draws).double()
        low, high = interquartile_mean(scores, generator=draws, num_resamples=200)[1:]
        held += low <= 0 <= high
    assert 0.80 <= held / 150 <= 0.97


def test_failed_runs_count_as_worst_until_they_reach_the_middle_half() -> None:
    one = torch.tensor([[1.0, 2.0, 3.0, inf]])
    two = torch.tensor([[1.0, 2.0, inf, inf]])
    assert interquartile_mean(one, generator=generator())[::2] == (2.5, inf)
    assert interquartile_mean(two, generator=generator())[0] == inf


def test_the_same_generator_gives_the_same_interval_and_nothing_is_changed() -> None:
    scores = torch.randn(2, 6, generator=generator())
    before = scores.clone()
    state = torch.get_rng_state()
    first = interquartile_mean(scores, generator=generator(4))
    assert first == interquartile_mean(scores, generator=generator(4))
    assert first != interquartile_mean(scores, generator=generator(5))
    assert torch.equal(scores, before)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("device", available_devices())
def test_every_device_gives_the_same(device: torch.device) -> None:
    table = torch.tensor([[3.0, 1.0, 2.0], [2.0, 2.0, inf]])
    assert steps_to_target(table.to(device), 2.0).tolist() == [2.0, 1.0]
    found = performance_profile(table.to(device), torch.tensor([1.0, 3.0]).to(device))
    torch.testing.assert_close(found.cpu(), performance_profile(table, torch.tensor([1.0, 3.0])))
    scores = table[:, :2].to(device)
    assert interquartile_mean(scores, generator=generator()) == interquartile_mean(table[:, :2], generator=generator())


WRONG: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: steps_to_target(torch.tensor(1.0), 1.0), ValueError, "curves must have a point of every run"),
    (lambda: steps_to_target(torch.empty(2, 0), 1.0), ValueError, "curves must have a point of every run"),
    (lambda: steps_to_target([1.0], 1.0), TypeError, "curves must be"),  # type: ignore[arg-type]
    (lambda: steps_to_target(torch.ones(3), nan), ValueError, "target must be finite"),
    (lambda: steps_to_target(torch.ones(2, 3), torch.ones(3)), ValueError, r"target must have the shape \(2,\)"),
    (lambda: steps_to_target(torch.ones(3), 1.0, steps=[1, 2]), ValueError, "steps must be 3 rising numbers"),
    (lambda: steps_to_target(torch.ones(3), 1.0, steps=[1, 3, 3]), ValueError, "steps must be 3 rising numbers"),
    (lambda: steps_to_target(torch.ones(2), 1.0, steps=[-1, 3]), ValueError, "steps must be >= 0, got -1"),
    (lambda: performance_profile(torch.ones(3), torch.ones(1)), ValueError, r"\(methods, problems\), got \(3,\)"),
    (lambda: performance_profile(torch.ones(0, 3), torch.ones(1)), ValueError, r"\(methods, problems\)"),
    (lambda: performance_profile(torch.tensor([[0.0]]), torch.ones(1)), ValueError, "costs must be > 0, got 0.0"),
    (lambda: performance_profile(torch.tensor([[nan]]), torch.ones(1)), ValueError, "costs must be > 0, got nan"),
    (lambda: performance_profile(torch.ones(1, 1), torch.tensor([0.5])), ValueError, "factors must be >= 1, got 0.5"),
    (lambda: performance_profile(torch.ones(1, 1), torch.tensor([inf])), ValueError, "factors must be finite"),
    (lambda: performance_profile(torch.ones(1, 1), torch.tensor(2.0)), ValueError, "factors must have one dimension"),
    (lambda: performance_profile(torch.ones(1, 1), torch.ones(0)), ValueError, "factors must"),
    (lambda: performance_profile(torch.ones(1, 1), [1.0]), TypeError, "factors must be"),  # type: ignore[arg-type]
    (lambda: interquartile_mean(torch.ones(3), generator=generator()), ValueError, "scores must have the shape"),
    (lambda: interquartile_mean(torch.ones(3, 1), generator=generator()), ValueError, "scores must have the shape"),
    (lambda: interquartile_mean(torch.tensor([[nan, 1.0]]), generator=generator()), ValueError, "must not be NaN"),
    (
        lambda: interquartile_mean(torch.tensor([[inf, -inf]]), generator=generator()),
        ValueError,
        "scores must be infinite for failed runs alone",
    ),
    (lambda: interquartile_mean(torch.ones(2, 2), generator=None), TypeError, "generator must be"),  # type: ignore[arg-type]
    (
        lambda: interquartile_mean(torch.ones(2, 2), generator=generator(), num_resamples=99),
        ValueError,
        "num_resamples must be >= 100",
    ),
    *[
        (
            lambda confidence=confidence: interquartile_mean(
                torch.ones(2, 2), generator=generator(), confidence=confidence
            ),
            ValueError,
            r"confidence must be in \(0, 1\)",
        )
        for confidence in (0.0, 1.0, 1.5, nan)
    ],
]


@pytest.mark.parametrize(("call", "error", "message"), WRONG)
def test_what_makes_no_sense_is_refused(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


# planted faults: each is a usual way to be wrong, and the hand-worked tables above tell it apart


def mean_of_ratios_to_the_first_method(costs: Tensor, factors: Tensor) -> Tensor:
    return (costs.unsqueeze(1) <= costs[0] * factors.unsqueeze(-1)).double().mean(dim=-1)


def unsolved_everywhere_counts_as_solved(costs: Tensor, factors: Tensor) -> Tensor:
    return (costs.unsqueeze(1) <= costs.amin(dim=0) * factors.unsqueeze(-1)).double().mean(dim=-1)


@pytest.mark.parametrize("wrong", [mean_of_ratios_to_the_first_method, unsolved_everywhere_counts_as_solved])
def test_a_planted_wrong_profile_differs_on_the_tables(wrong: Callable[[Tensor, Tensor], Tensor]) -> None:
    costs = torch.tensor([[2.0, inf, 5.0], [1.0, inf, inf]])
    factors = torch.tensor([1.0, 2.0])
    assert not torch.equal(wrong(costs, factors), performance_profile(costs, factors))


def test_the_step_times_that_the_chapter_stores_are_those_of_the_committed_table() -> None:
    root = Path(__file__).parents[2]
    table = (root / "benchmarks" / "results" / "comparison.txt").read_text(encoding="utf-8")
    text = (root / "book" / "optimizers" / "comparison.md").read_text(encoding="utf-8")
    stored = re.search(r"^step_time = (\{.*?^\})", text, re.MULTILINE | re.DOTALL)
    assert stored
    for task, ratios in ast.literal_eval(stored[1]).items():
        block = re.search(rf"^{task},.*?(?=^\w)", table, re.MULTILINE | re.DOTALL)
        assert block
        for name, ratio in ratios.items():
            row = re.search(rf"^  {name} +([\d.]+)", block[0], re.MULTILINE)
            assert row, (task, name)
            assert float(row[1]) == ratio, (task, name)
    one_layer = re.search(r"one layer[^\n]*\n.*Muon ([\d.]+)", table)
    assert one_layer
    assert f"round(60 / {one_layer[1]})" in text
    assert f"{{given}}`{one_layer[1]}`" in text
