"""Evaluation: every row once, nothing changed, and statistics that match their definitions."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from nnopt.devices import available_devices
from nnopt.training import (
    Metric,
    accuracy,
    evaluate,
    evaluation_mode,
    permute_labels,
    selection_optimism,
    wilson_interval,
)


def rows(num_rows: int = 23) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num_rows, 4, generator=generator), torch.randint(3, (num_rows,), generator=generator)


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))


def test_accuracy_counts_right_rows() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 0.5, 0.1], [1.0, 2.0, 9.0], [5.0, 4.0, 4.5]])
    assert accuracy(logits, torch.tensor([0, 2, 2, 1])).item() == 0.5


def test_accuracy_of_sequences_has_its_classes_in_dimension_one() -> None:
    logits = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(1))
    targets = logits.argmax(dim=1)
    targets[0, :2] = (targets[0, :2] + 1) % 5
    assert accuracy(logits, targets).item() == pytest.approx(12 / 14)


def test_nan_logits_are_wrong() -> None:
    logits = torch.tensor([[math.nan, 0.0], [math.nan, math.nan], [1.0, 0.0]])
    assert accuracy(logits, torch.tensor([0, 0, 0])).item() == pytest.approx(1 / 3)


def test_accuracy_refuses_shapes_that_do_not_fit() -> None:
    for logits, targets in (((4, 3), (5,)), ((4,), (4,)), ((4, 3), (4, 1)), ((2, 3, 4), (2, 3))):
        with pytest.raises(ValueError, match=r"logits must be \(N, C, ...\)"):
            accuracy(torch.zeros(logits), torch.zeros(targets, dtype=torch.int64))


@settings(derandomize=True, deadline=None, max_examples=25)
@given(batch_size=st.integers(1, 30))
def test_the_result_does_not_depend_on_the_batch_size(batch_size: int) -> None:
    model, (inputs, targets) = network(), rows()
    metrics: dict[str, Metric] = {"loss": F.cross_entropy, "accuracy": accuracy}
    whole = evaluate(model, (inputs, targets), metrics)
    split = evaluate(model, zip(inputs.split(batch_size), targets.split(batch_size)), metrics)
    assert split == pytest.approx(whole, rel=1e-5)


def test_the_mean_of_batch_means_is_another_number() -> None:
    model, (inputs, targets) = network().eval(), rows()
    batches = list(zip(inputs.split(22), targets.split(22)))
    with torch.no_grad():
        naive = sum(F.cross_entropy(model(x), y).item() for x, y in batches) / len(batches)
    assert abs(naive - evaluate(model, batches, {"loss": F.cross_entropy})["loss"]) > 1e-3


def test_equals_the_definition_and_takes_a_loader() -> None:
    model, (inputs, targets) = network(), rows()
    with evaluation_mode(model):
        right = sum(int(model(x[None]).argmax()) == int(y) for x, y in zip(inputs, targets))
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=5)
    assert evaluate(model, loader, {"accuracy": accuracy})["accuracy"] == pytest.approx(right / 23)


def test_nothing_is_changed() -> None:
    model = network()
    model[1].eval()
    flags = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    evaluate(model, rows(), {"loss": F.cross_entropy})
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_flags_come_back_also_after_an_error() -> None:
    model = network()
    with pytest.raises(RuntimeError, match="shapes"):
        evaluate(model, (torch.zeros(2, 9), torch.zeros(2).long()), {"accuracy": accuracy})
    assert model.training


def test_evaluation_mode_is_without_gradients() -> None:
    model = network()
    with evaluation_mode(model):
        assert not model(rows()[0]).requires_grad
    assert model(rows()[0]).requires_grad


@pytest.mark.parametrize("device", available_devices(), ids=str)
def test_data_are_taken_to_the_device_of_the_model(device: torch.device) -> None:
    model = network().to(device)
    expected = evaluate(network(), rows(), {"loss": F.cross_entropy})["loss"]
    assert evaluate(model, rows(), {"loss": F.cross_entropy})["loss"] == pytest.approx(expected, rel=1e-4)


def test_evaluate_refuses_bad_input() -> None:
    model, (inputs, targets) = network(), rows()
    with pytest.raises(ValueError, match="metrics must not be empty"):
        evaluate(model, (inputs, targets), {})
    with pytest.raises(ValueError, match="data must have at least one row"):
        evaluate(model, [], {"accuracy": accuracy})
    with pytest.raises(ValueError, match="have as many rows, got 23 and 22"):
        evaluate(model, (inputs, targets[1:]), {"accuracy": accuracy})
    with pytest.raises(TypeError, match="a batch must be a pair"):
        evaluate(model, [inputs], {"accuracy": accuracy})  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"metric 'rows' must return one number, got shape \(23,\)"):
        evaluate(model, (inputs, targets), {"rows": lambda p, t: F.cross_entropy(p, t, reduction="none")})


# -- intervals -------------------------------------------------------------------------------------------


@settings(derandomize=True, deadline=None, max_examples=60)
@given(num_rows=st.integers(1, 400), fraction=st.floats(0, 1), confidence=st.sampled_from([0.8, 0.95, 0.99]))
def test_the_wilson_interval_equals_scipy(num_rows: int, fraction: float, confidence: float) -> None:
    num_correct = round(fraction * num_rows)
    expected = stats.binomtest(num_correct, num_rows).proportion_ci(confidence, method="wilson")
    low, high = wilson_interval(num_correct, num_rows, confidence=confidence)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert 0 <= low <= num_correct / num_rows <= high <= 1


def test_the_wilson_interval_solves_its_equation() -> None:
    # the ends are the p for which |k/n - p| is exactly z standard errors of p
    for bound in wilson_interval(30, 40):
        assert abs(30 / 40 - bound) / math.sqrt(bound * (1 - bound) / 40) == pytest.approx(1.959964, rel=1e-6)


def test_the_wilson_interval_refuses_bad_input() -> None:
    with pytest.raises(ValueError, match="num_rows must be >= 1, got 0"):
        wilson_interval(0, 0)
    with pytest.raises(ValueError, match="num_correct must be <= num_rows = 3, got 4"):
        wilson_interval(4, 3)
    with pytest.raises(ValueError, match="num_correct must be >= 0, got -1"):
        wilson_interval(-1, 3)
    with pytest.raises(TypeError, match="num_correct must be an integer"):
        wilson_interval(2.5, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"confidence must be < 1, got 1\.0"):
        wilson_interval(2, 3, confidence=1.0)
    with pytest.raises(ValueError, match="confidence must be > 0, got nan"):
        wilson_interval(2, 3, confidence=math.nan)


# -- controls --------------------------------------------------------------------------------------------


def test_permuted_labels_are_the_same_labels_in_another_order() -> None:
    targets = torch.arange(50) % 7
    permuted = permute_labels(targets, generator=torch.Generator().manual_seed(1))
    again = permute_labels(targets, generator=torch.Generator().manual_seed(1))
    assert torch.equal(permuted, again)
    assert not torch.equal(permuted, targets)
    assert torch.equal(permuted.bincount(), targets.bincount())
    assert torch.equal(targets, torch.arange(50) % 7)
    with pytest.raises(ValueError, match="targets must not be empty"):
        permute_labels(torch.zeros(0), generator=torch.Generator())


def brute_force(first: list[float], second: list[float], num_candidates: int) -> float:
    """Average over all subsets, both roles; ties shared."""
    gaps = []
    for chosen, judged in ((first, second), (second, first)):
        for subset in itertools.combinations(range(len(first)), num_candidates):
            top = max(chosen[i] for i in subset)
            winners = [i for i in subset if chosen[i] == top]
            gaps.append(sum(chosen[i] - judged[i] for i in winners) / len(winners))
    return sum(gaps) / len(gaps)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    scores=st.lists(
        st.tuples(st.integers(0, 40), st.integers(0, 40)),
        min_size=1,
        max_size=7,
        unique_by=(
            lambda pair: pair[0],
            lambda pair: pair[1],
        ),
    ),
    num_candidates=st.integers(1, 7),
)
def test_the_optimism_is_the_average_over_all_subsets(scores: list[tuple[int, int]], num_candidates: int) -> None:
    num_candidates = min(num_candidates, len(scores))
    first, second = [a / 40 for a, _ in scores], [b / 40 for _, b in scores]
    found = selection_optimism(
        torch.tensor(first, dtype=torch.float64),
        torch.tensor(second, dtype=torch.float64),
        num_candidates=num_candidates,
    )
    assert found == pytest.approx(brute_force(first, second, num_candidates), abs=1e-12)


def test_ties_do_not_depend_on_the_order_of_the_models() -> None:
    first = torch.tensor([0.5, 0.9, 0.9, 0.7])
    second = torch.tensor([0.6, 0.2, 0.8, 0.7])
    whole = selection_optimism(first, second, num_candidates=4)
    assert whole == pytest.approx(brute_force(first.tolist(), second.tolist(), 4))
    for order in itertools.permutations(range(4)):
        index = list(order)
        assert selection_optimism(first[index], second[index], num_candidates=4) == pytest.approx(whole)


def test_one_candidate_has_no_optimism_and_a_harder_half_cancels() -> None:
    generator = torch.Generator().manual_seed(0)
    quality, noise = torch.rand(400, generator=generator), torch.rand(400, generator=generator)
    assert selection_optimism(quality, quality - 0.2, num_candidates=10) == pytest.approx(0, abs=1e-7)
    assert selection_optimism(quality, noise, num_candidates=1) == pytest.approx(0, abs=1e-7)
    assert selection_optimism(quality, noise, num_candidates=10) > 0.3


def test_optimism_refuses_bad_input() -> None:
    with pytest.raises(ValueError, match="must have the same shape"):
        selection_optimism(torch.rand(3), torch.rand(4), num_candidates=2)
    with pytest.raises(ValueError, match=r"first must be \(n,\) with n >= num_candidates = 4"):
        selection_optimism(torch.rand(3), torch.rand(3), num_candidates=4)
    with pytest.raises(ValueError, match="second must be finite"):
        selection_optimism(torch.rand(2), torch.tensor([math.nan, 0.0]), num_candidates=1)
    with pytest.raises(ValueError, match="num_candidates must be >= 1, got 0"):
        selection_optimism(torch.rand(2), torch.rand(2), num_candidates=0)
