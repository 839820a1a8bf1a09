"""Exercises of the chapter ``optimizers/sharpness``."""

from collections.abc import Callable

import torch
from torch import Tensor

from nnopt.optimizers import sharpness_perturbation

from ._verdict import Verdict

__all__ = ["check_sharpness_way"]


def check_sharpness_way(candidate: Callable[[list[Tensor], list[Tensor], float], list[Tensor]]) -> Verdict:
    """Check a function that returns the way to the worst point of a ball, to first order.

    Args:
        candidate: takes parameters, their gradients of the same shapes, and the radius; returns a list of
            tensors of these shapes.

    Returns:
        A verdict. On every hidden network the way must equal that of ``sharpness_perturbation`` to 1e-5, be zero
        where the gradient is, and leave the arguments as they are.
    """
    for name, (shapes, size, radius) in _NETWORKS.items():
        generator = torch.Generator().manual_seed(len(name))
        theta = [torch.randn(shape, generator=generator) for shape in shapes]
        g = [size * torch.randn(shape, generator=generator) for shape in shapes]
        kept = [tensor.clone() for tensor in (*theta, *g)]
        found = list(candidate(theta, g, radius))
        if not all(torch.equal(a, b) for a, b in zip(kept, (*theta, *g), strict=True)):
            return Verdict(False, f"For {name} you change the parameters or gradients that you were given.")
        expected = sharpness_perturbation(theta, g, radius=radius)
        if [tuple(way.shape) for way in found] != [tuple(way.shape) for way in expected]:
            return Verdict(False, f"For {name} the shapes are not those of the parameters.")
        ours, theirs = (torch.cat([way.flatten() for way in ways]) for ways in (found, expected))
        if not ours.isfinite().all():
            return Verdict(False, f"For {name} the way is not finite.")
        if not torch.allclose(ours, theirs, rtol=1e-5, atol=1e-7):
            return Verdict(False, f"For {name} the way has length {ours.norm():.4g}, or another direction than up.")
    return Verdict(True, "One step up the slope, as long as the radius, for all weights together.")


_NETWORKS: dict[str, tuple[list[tuple[int, ...]], float, float]] = {
    "a single vector": ([(4,)], 1.0, 0.5),
    "two layers": ([(5, 3), (5,), (2, 5), (2,)], 2.0, 0.05),
    "tiny gradients": ([(3, 3), ()], 1e-5, 2.0),
    "a gradient of zero": ([(3, 2), (3,)], 0.0, 0.1),
}
