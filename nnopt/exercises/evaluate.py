"""Exercises of the chapter ``training/evaluate``."""

from collections.abc import Callable

import torch
from torch import Tensor

from nnopt.training import selection_optimism

from ._verdict import Verdict

__all__ = ["check_optimism"]


def check_optimism(candidate: Callable[[Tensor, Tensor], float]) -> Verdict:
    """Check an estimate of how much the best of several models looks better than it is.

    Args:
        candidate: takes the scores of the same n models on two halves of a test set, two tensors (n,),
            higher is better, no two alike, and returns how much the score of the chosen model exceeds its
            score on rows that did not choose it, averaged over both roles of the halves.

    Returns:
        A verdict; some hidden halves are unequally hard, some models are really better than others.
    """
    for name, (first, second) in _cases().items():
        kept = first.clone(), second.clone()
        answer = float(candidate(first, second))
        if not (torch.equal(first, kept[0]) and torch.equal(second, kept[1])):
            return Verdict(False, "Your function changes the scores that it is given.")
        right = selection_optimism(*kept, num_candidates=len(first))
        if not abs(answer - right) < 1e-6:
            return Verdict(False, f"For {name} you answer {answer:.4f}, and the optimism is {right:.4f}.")
    return Verdict(True, "Your estimate is right on every hidden pair of halves.")


def _cases() -> dict[str, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)

    def noise(scale: float, num_models: int = 40) -> Tensor:
        return scale * torch.randn(num_models, generator=generator, dtype=torch.float64)

    quality = noise(0.02)
    return {
        "models that are all equally good": (0.9 + noise(0.02), 0.9 + noise(0.02)),
        "halves that are unequally hard": (0.95 + noise(0.02), 0.85 + noise(0.02)),
        "models of different quality": (0.9 + quality + noise(0.01), 0.9 + quality + noise(0.01)),
        "halves that agree exactly": (0.9 + quality, 0.9 + quality),
    }
