"""Exercises of the chapter ``pruning/magnitude``."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from nnopt.pruning import global_masks

from ._verdict import Verdict

__all__ = ["check_global_masks"]

Masks = Mapping[str, Tensor]


def check_global_masks(candidate: Callable[[dict[str, Tensor], float], Masks]) -> Verdict:
    """Check a function that removes the smallest weights of several layers together.

    Args:
        candidate: takes name -> weight and the fraction of zeros, and returns name -> boolean mask, True keeps.

    Returns:
        A verdict; hidden cases have layers of different scales, many equal magnitudes, zeros and fractions
        at both ends. Exactly round(sparsity · total) weights must go, none larger than one that stays.
    """
    for name, (weights, sparsity) in _cases().items():
        given = {key: weight.clone() for key, weight in weights.items()}
        masks = dict(candidate(given, sparsity))
        if any(not torch.equal(given[key], weight) for key, weight in weights.items()):
            return Verdict(False, "Your function changes the weights that it is given.")
        if set(masks) != set(weights) or any(masks[key].shape != weights[key].shape for key in weights):
            return Verdict(False, f"On {name} your masks do not have the names and shapes of the weights.")
        if any(mask.dtype != torch.bool for mask in masks.values()):
            return Verdict(False, f"On {name} your masks are not boolean.")
        wanted = sum(int((~mask).sum()) for mask in global_masks(weights, sparsity=sparsity).values())
        removed = sum(int((~mask).sum()) for mask in masks.values())
        if removed != wanted:
            return Verdict(False, f"On {name} you remove {removed} weights instead of {wanted}.")
        gone = torch.cat([weights[key][~masks[key]].abs() for key in weights])
        kept = torch.cat([weights[key][masks[key]].abs() for key in weights])
        if len(gone) and len(kept) and gone.max() > kept.min():
            return Verdict(
                False, f"On {name} you remove a weight of {gone.max():.3g} and keep one of {kept.min():.3g}."
            )
    return Verdict(True, "Your masks remove exactly the smallest weights in every hidden network.")


def _cases() -> dict[str, tuple[dict[str, Tensor], float]]:
    generator = torch.Generator().manual_seed(5)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    coarse = {key: (2 * drawn(*shape)).round() for key, shape in {"a": (8, 6), "b": (3, 8), "c": (5,)}.items()}
    return {
        "layers of different scales": ({"first": drawn(9, 4), "second": 0.1 * drawn(5, 9)}, 0.6),
        "weights of few values": (coarse, 0.5),
        "a layer that is pruned already": ({"zeros": drawn(6, 6) * (drawn(6, 6) > 0), "dense": drawn(4, 6)}, 0.1),
        "equal weights": ({"one": torch.ones(3, 3), "other": -torch.ones(2, 3)}, 0.4),
        "nothing to remove": ({"one": drawn(3, 3)}, 0.0),
        "everything to remove": ({"one": drawn(3, 3), "other": drawn(2)}, 1.0),
    }
