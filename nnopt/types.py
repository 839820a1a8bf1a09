"""Aliases and protocols that several rooms share; no code."""

from collections.abc import Callable
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

__all__ = ["Batch", "DeviceLike", "LossFn", "Schedule", "StepRule"]

Batch: TypeAlias = tuple[Tensor, Tensor]
"""Inputs (B, ...) and targets (B,) or (B, ...) of one step."""

DeviceLike: TypeAlias = str | torch.device
"""What torch takes for a device."""

LossFn: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(predictions, targets) -> 0-d loss, the mean over the batch."""

Schedule: TypeAlias = Callable[[int], float]
"""Step number, from 0 -> multiplier of the base learning rate."""


class StepRule(Protocol):
    """A pure update: ``rule(parameter, gradient, *state, lr=..., **settings)``.

    Returns the new parameter, or the tuple ``(new parameter, *new state)``. Nothing is changed in place;
    ``lr`` may be a tensor that broadcasts against the parameter. The state tensors are the further
    positional parameters of the signature, and start at zero in the parameter's shape; what the first step
    returns may have another shape, which then stays. A rule with a keyword ``step`` is told the number of
    the step, from 1. One with a keyword ``copies``, which looks at shapes or at a whole
    tensor, is told by ``copies=True`` that the first dimension counts copies of a model.
    """

    def __call__(
        self, parameter: Tensor, gradient: Tensor, /, *state: Tensor, lr: float | Tensor
    ) -> Tensor | tuple[Tensor, ...]: ...
