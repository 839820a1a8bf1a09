"""torch's fused kernels as passes over many tensors, and when they may be used."""

import torch
from torch import Tensor

__all__ = ["alike", "descend"]


def alike(parameters: list[Tensor], gradients: list[Tensor], *states: list[Tensor]) -> bool:
    """Return whether the fused kernels may be used: on a CPU, and only where all tensors lie in memory alike.

    They read plain memory in order: a gradient that is laid out otherwise would move the wrong weights, and beyond a
    state that is too small they would go on.

    Raises:
        ValueError: a gradient or a state has another size or dtype than its parameter, which was changed meanwhile.
    """
    if parameters[0].device.type != "cpu" or torch.compiler.is_compiling():
        return False
    sizes, dtype = list(map(Tensor.numel, parameters)), parameters[0].dtype
    for tensors in (gradients, *states):
        if tensors[0].dtype != dtype or list(map(Tensor.numel, tensors)) != sizes:
            forms = [[(tensor.dtype, tuple(tensor.shape)) for tensor in some] for some in (tensors, parameters)]
            got, wanted = next(pair for pair in zip(*forms, strict=True) if pair[0] != pair[1])
            raise ValueError(f"gradient and states must be like their parameter, {wanted}, got {got}")
    return all(all(map(Tensor.is_contiguous, tensors)) for tensors in (parameters, gradients, *states))


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
