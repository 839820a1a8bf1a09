"""Exercises of the chapter ``regularization/dropout``."""

from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor

from ._verdict import Verdict

__all__ = ["DropoutFunction", "check_dropout"]

DropoutFunction: TypeAlias = Callable[[Tensor, float, bool, torch.Generator], Tensor]
"""(inputs, drop_probability, training, generator) -> outputs."""

_FALSE_ALARM = 1e-9


def check_dropout(candidate: DropoutFunction) -> Verdict:
    """Check an inverted dropout: what it returns in evaluation, its scale, and the law of its masks.

    Args:
        candidate: takes inputs (N, D), p in [0, 1), whether the network is in training, and a generator that
            it has to draw from; returns the outputs.

    Returns:
        A verdict that names the first fault. Counts of dropped values and of agreeing pairs are compared with
        exact binomial bounds: over its random draws, a right implementation is refused with a probability
        below 1e-8.
    """
    faults = (fault for find in (_evaluation, _training, _law, _generators) for fault in find(candidate))
    fault = next(faults, None)
    if fault is not None:
        return Verdict(False, fault)
    return Verdict(True, "Your dropout has the right scale, the right law, and is silent in evaluation.")


def _inputs() -> Tensor:
    """Values between 1 and 2: a zero was dropped, and no two are alike."""
    return 1 + torch.rand(64, 64, generator=torch.Generator().manual_seed(21), dtype=torch.float64)


def _generator(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def _evaluation(candidate: DropoutFunction) -> Iterator[str]:
    inputs = _inputs()
    if not torch.equal(candidate(inputs.clone(), 0.25, False, _generator(1)), inputs):
        yield "In evaluation mode your dropout changes its input."


def _training(candidate: DropoutFunction) -> Iterator[str]:
    inputs = _inputs()
    given = inputs.clone()
    outputs = candidate(given, 0.25, True, _generator(2))
    if not torch.equal(given, inputs):
        yield "Your dropout changes the tensor that it is given."
    if outputs.shape != inputs.shape:
        yield f"Your dropout returns the shape {tuple(outputs.shape)} for {tuple(inputs.shape)}."
        return
    if not outputs.isfinite().all():
        yield "Your dropout returns values that are not finite."
        return
    kept = outputs != 0
    if not kept.any():
        yield "Your dropout drops everything."
        return
    ratios = outputs[kept] / inputs[kept]
    if float((ratios - ratios[0]).abs().max()) > 1e-6:
        yield "Your dropout scales some of the kept values more than others."
    elif abs(float(ratios[0]) - 1 / 0.75) > 1e-6:
        yield f"At p = 0.25 your kept values are multiplied by {float(ratios[0]):.3f}, and 1/(1 − p) is 1.333."


def _law(candidate: DropoutFunction) -> Iterator[str]:
    for number, p in enumerate((0.25, 0.5, 0.8)):
        dropped = candidate(_inputs(), p, True, _generator(3 + number)) == 0
        if not dropped.any():
            yield f"At p = {p} your dropout drops nothing."
        # shared masks first: they also disturb the share of dropped values
        same = p * p + (1 - p) * (1 - p)
        # pairs that have no value in common, so that the count of agreements is binomial
        pairs = {
            "rows": (dropped[0::2] == dropped[1::2]).flatten(),
            "columns": (dropped[:, 0::2] == dropped[:, 1::2]).flatten(),
        }
        # a mask shared by rows makes pairs of columns agree oddly, too: name the worse of the two
        name = max(pairs, key=lambda name: abs(float(pairs[name].double().mean()) - same))
        if not all(_plausible(int(agree.sum()), len(agree), same) for agree in pairs.values()):
            agreeing = f"{int(pairs[name].sum())} of {len(pairs[name])} pairs agree"
            yield f"Different {name} do not get independent masks: {agreeing}."
        if not _plausible(int(dropped.sum()), dropped.numel(), p):
            share = float(dropped.double().mean())
            yield f"At p = {p} your dropout drops {share:.3f} of the values: no luck explains that."
    if not torch.equal(candidate(_inputs(), 0.0, True, _generator(6)), _inputs()):
        yield "At p = 0 your dropout changes its input."


def _generators(candidate: DropoutFunction) -> Iterator[str]:
    generator = _generator(7)
    first, second = (candidate(_inputs(), 0.5, True, generator) for _ in range(2))
    if torch.equal(first, second):
        yield "Two calls in a row drop the same values."
    if not torch.equal(candidate(_inputs(), 0.5, True, _generator(7)), first):
        yield "Equal generators give different masks: the randomness comes from somewhere else."


def _plausible(count: int, total: int, probability: float) -> bool:
    """Whether a count lies in the central interval that a binomial one leaves once in a billion times."""
    from scipy.stats import binom

    low, high = binom.ppf((_FALSE_ALARM / 2, 1 - _FALSE_ALARM / 2), total, probability)
    return bool(low <= count <= high)
