"""Exercises of the chapter ``merging/neurons``."""

from collections.abc import Callable

import torch
from torch import Tensor

from nnopt.merging import ridge_regression

from ._verdict import Verdict

__all__ = ["check_repair"]


def check_repair(candidate: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Verdict:
    """Check a regression that repairs a layer whose units are collinear.

    Args:
        candidate: takes features (N, K) and targets (N, O), float64, and returns a weight (O, K) and a bias
            (O,). The features span 4 of 12 dimensions, up to 1e-7.

    Returns:
        A verdict; on 500 further rows, collinear up to 1e-2, the squared error must be at most twice that of a
        ridge regression.
    """
    for number in range(3):
        features, targets, fresh, truth = _problem(number)
        kept = features.clone(), targets.clone()
        weight, bias = candidate(features, targets)
        if not (torch.equal(features, kept[0]) and torch.equal(targets, kept[1])):
            return Verdict(False, "Your function changes what it is given.")
        shapes = (targets.shape[1], features.shape[1]), (targets.shape[1],)
        if (tuple(weight.shape), tuple(bias.shape)) != shapes:
            found = f"{tuple(weight.shape)} and {tuple(bias.shape)}"
            return Verdict(False, f"Weight and bias must have the shapes {shapes[0]} and {shapes[1]}, yours {found}.")
        best_weight, best_bias = ridge_regression(features, targets, ridge=1e-3)
        error = float((fresh @ weight.T + bias - truth).square().mean())
        best = float((fresh @ best_weight.T + best_bias - truth).square().mean())
        if not error <= 2 * best:
            size = float(weight.abs().max())
            return Verdict(
                False,
                f"On rows it has not seen your repair has the squared error {error:.3g}, a ridge regression "
                f"{best:.3g}; your largest weight is {size:.2g}.",
            )
    return Verdict(True, "Your repair holds on rows that it has not seen.")


def _problem(number: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return features and targets to fit, and fresh ones to judge by."""
    generator = torch.Generator().manual_seed(100 + number)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    causes, mixing, effect = draw(700, 4), draw(4, 12), draw(4, 3)
    exact = (causes + 1) @ mixing
    targets = (causes + 1) @ effect + 5 + 0.1 * draw(700, 3)
    noise = draw(700, 12)
    return exact[:200] + 1e-7 * noise[:200], targets[:200], exact[200:] + 1e-2 * noise[200:], targets[200:]
