"""The checker accepts every exact global mask and refuses the planted wrong ones."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nnopt import exercises
from nnopt.pruning import global_masks, magnitude_mask

Weights = dict[str, Tensor]
Candidate = Callable[[Weights, float], Weights]


def from_the_package(weights: Weights, sparsity: float) -> Weights:
    return global_masks(weights, sparsity=sparsity)


def by_sorting_in_python(weights: Weights, sparsity: float) -> Weights:
    places = [(name, place) for name, weight in weights.items() for place in range(weight.numel())]
    places.sort(key=lambda at: abs(weights[at[0]].flatten()[at[1]].item()), reverse=True)
    masks = {name: torch.ones(weight.numel(), dtype=torch.bool) for name, weight in weights.items()}
    for name, place in places[len(places) - round(sparsity * len(places)) :]:
        masks[name][place] = False
    return {name: mask.view(weights[name].shape) for name, mask in masks.items()}


@pytest.mark.parametrize("right", [from_the_package, by_sorting_in_python])
def test_right_answers_pass(right: Candidate) -> None:
    verdict = exercises.check_global_masks(right)
    assert verdict
    assert repr(verdict) == "✓ Your masks remove exactly the smallest weights in every hidden network."


def by_threshold(weights: Weights, sparsity: float, *, strict: bool) -> Weights:
    magnitudes = torch.cat([weight.abs().flatten() for weight in weights.values()])
    limit = magnitudes.sort().values[max(round(sparsity * len(magnitudes)) - 1, 0)]
    return {name: weight.abs() > limit if strict else weight.abs() >= limit for name, weight in weights.items()}


def changes_its_input(weights: Weights, sparsity: float) -> Weights:
    masks = from_the_package(weights, sparsity)
    for weight in weights.values():
        weight.mul_(0.5)
    return masks


WRONG: dict[str, Candidate] = {
    "a strict threshold": lambda weights, sparsity: by_threshold(weights, sparsity, strict=True),
    "a mild threshold": lambda weights, sparsity: by_threshold(weights, sparsity, strict=False),
    "layer by layer": lambda weights, s: {n: magnitude_mask(w, sparsity=s) for n, w in weights.items()},
    "the smallest with their sign": lambda weights, s: global_masks(
        {name: weight - weight.min() for name, weight in weights.items()}, sparsity=s
    ),
    "the largest": lambda weights, s: {n: ~m for n, m in global_masks(weights, sparsity=1 - s).items()},
    "kept for removed": lambda weights, s: {n: ~m for n, m in global_masks(weights, sparsity=s).items()},
    "numbers for truth values": lambda weights, s: {n: m.float() for n, m in global_masks(weights, sparsity=s).items()},
    "one mask for all": lambda weights, s: dict.fromkeys(
        weights, next(iter(global_masks(weights, sparsity=s).values()))
    ),
    "changes its input": changes_its_input,
}


@pytest.mark.parametrize("name", WRONG)
def test_planted_wrong_answers_are_refused(name: str) -> None:
    verdict = exercises.check_global_masks(WRONG[name])
    assert not verdict
    assert repr(verdict).startswith("✗ ")
