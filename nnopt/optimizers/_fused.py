"""torch's fused kernels as passes over many tensors, and when they may be used."""

import torch
from torch import Tensor

__all__ = ["alike", "descend"]


def alike(*lists: list[Tensor]) -> bool:
    """Return whether the fused kernels may be used: on a CPU, and only where all tensors lie in memory alike.

    They read plain memory in order: a gradient that is laid out otherwise would move the wrong weights.
    """
    on_cpu = lists[0][0].device.type == "cpu" and not torch.compiler.is_compiling()
    return on_cpu and all(all(map(Tensor.is_contiguous, tensors)) for tensors in lists)


def descend(parameters: list[Tensor], gradients: list[Tensor], *, lr: float, decay: float, ascent: bool) -> None:
    """Take θ ← θ − lr (±g + decay θ) for many tensors, in one pass over each."""
    torch._fused_sgd_(
        parameters,
        gradients,
        [],
        weight_decay=decay,
        momentum=0.0,
        lr=lr,
        dampening=0.0,
        nesterov=False,
        maximize=ascent,
        is_first_step=False,
    )
