"""Masks that remove the smallest weights, and training that keeps them removed.

Chapter: ``pruning/magnitude``. A mask is boolean, has the shape of its weight, and True keeps.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from nnopt.checks import (
    require_dtype,
    require_finite,
    require_fraction,
    require_integer,
    require_non_empty,
    require_same_shape,
)

__all__ = [
    "apply_masks",
    "global_masks",
    "keep_masks",
    "magnitude_mask",
    "n_m_mask",
    "prunable_weights",
    "random_mask",
]


def magnitude_mask(weight: Tensor, *, sparsity: float) -> Tensor:
    r"""Return the mask that removes the smallest weights of one tensor.

    .. math:: m_i = [\,|w_i| \text{ is not among the } k \text{ smallest}\,], \qquad k = \mathrm{round}(s\,n)

    Args:
        weight: any shape, floating point, finite; gets no gradient.
        sparsity: s, fraction of zeros in [0, 1].

    Returns:
        Boolean, the shape and device of ``weight``, True keeps; exactly k entries are False, also with
        ties, of which the first in memory order go first.

    Raises:
        ValueError: ``sparsity`` is outside [0, 1], or the weight is not finite.

    Convention:
        k is rounded to even at one half, as by ``torch.nn.utils.prune.l1_unstructured``, whose order
        among ties is not defined.

    Source:
        Han et al. (2015), section 3.1, with a count in place of a threshold.

    Example:
        >>> magnitude_mask(torch.tensor([3.0, -1.0, 2.0, 0.5]), sparsity=0.5)
        tensor([ True, False,  True, False])
    """
    return global_masks({"weight": weight}, sparsity=sparsity)["weight"]


def global_masks(weights: Mapping[str, Tensor], *, sparsity: float) -> dict[str, Tensor]:
    """Return masks that remove the smallest weights of several tensors together.

    One ranking of all magnitudes decides, so that layers of small weights lose more.

    Args:
        weights: name -> tensor of any shape, floating point, finite.
        sparsity: fraction of zeros in [0, 1], of all tensors together.

    Returns:
        Name -> boolean mask, True keeps; round(sparsity · total) entries are False, also with ties, of
        which the first in the order of the mapping go first.

    Raises:
        ValueError: ``sparsity`` is outside [0, 1], there is no tensor, or one is not finite.

    Convention:
        As ``torch.nn.utils.prune.global_unstructured`` with ``L1Unstructured``, but for ties.

    Source:
        Han et al. (2015), section 3.1; one ranking for all layers, as compared by Blalock et al. (2020).

    Example:
        >>> masks = global_masks({"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, 4.0])}, sparsity=0.5)
        >>> masks["a"].tolist(), masks["b"].tolist()
        ([False, False], [True, True])
    """
    require_non_empty("weights", weights)
    require_fraction("sparsity", sparsity)
    for name, weight in weights.items():
        require_finite(name, weight)
    device = next(iter(weights.values())).device
    scores = torch.cat([w.detach().to(device, torch.float64).abs().reshape(-1) for w in weights.values()])
    # stable: equal magnitudes keep their order, so that the count is exact and every device agrees
    order = scores.argsort(stable=True)
    kept = torch.ones_like(scores, dtype=torch.bool)
    kept[order[: round(sparsity * len(scores))]] = False
    pieces = kept.split([weight.numel() for weight in weights.values()])
    return {
        name: piece.view(weight.shape).to(weight.device)
        for (name, weight), piece in zip(weights.items(), pieces, strict=True)
    }


def random_mask(weight: Tensor, *, sparsity: float, generator: torch.Generator) -> Tensor:
    """Return a mask that removes weights at random: the control that every score must beat.

    Args:
        weight: any shape; only its shape and device matter.
        sparsity: fraction of zeros in [0, 1].
        generator: on the CPU, so that every device draws the same mask.

    Returns:
        Boolean, the shape and device of ``weight``, True keeps; exactly round(sparsity · n) entries are False.

    Raises:
        ValueError: ``sparsity`` is outside [0, 1].

    Example:
        >>> mask = random_mask(torch.ones(3, 4), sparsity=0.75, generator=torch.Generator().manual_seed(0))
        >>> int(mask.sum())
        3
    """
    require_fraction("sparsity", sparsity)
    kept = torch.ones(weight.numel(), dtype=torch.bool)
    kept[torch.randperm(weight.numel(), generator=generator)[: round(sparsity * weight.numel())]] = False
    return kept.view(weight.shape).to(weight.device)


def n_m_mask(weight: Tensor, *, num_kept: int = 2, group_size: int = 4) -> Tensor:
    """Return the N:M mask: of each group of M neighbors along the inputs it keeps the N largest.

    Args:
        weight: (out, in, ...) of a linear or convolutional layer, floating point, finite; ``in`` is a
            multiple of ``group_size``.
        num_kept: N, from 0 to ``group_size``.
        group_size: M, at least 1.

    Returns:
        Boolean, the shape and device of ``weight``, True keeps; every group has exactly N.

    Raises:
        ValueError: the weight has no inputs that divide into groups or is not finite, or a count is out of range.
        TypeError: a count is not an integer.

    Convention:
        Groups run along dimension 1, the inputs, as sparse tensor cores want it for linear layers (2:4).

    Source:
        Mishra et al. (2021).

    Example:
        >>> n_m_mask(torch.tensor([[1.0, -4.0, 3.0, 2.0]]))
        tensor([[False,  True,  True, False]])
    """
    require_integer("num_kept", num_kept, minimum=0)
    require_integer("group_size", group_size, minimum=1)
    if num_kept > group_size:
        raise ValueError(f"num_kept must be <= group_size = {group_size}, got {num_kept}")
    if weight.ndim < 2 or weight.shape[1] % group_size:
        raise ValueError(
            f"weight must have a second dimension that is a multiple of {group_size}, got {tuple(weight.shape)}"
        )
    require_finite("weight", weight)
    scores = weight.detach().abs().movedim(1, -1)
    order = scores.reshape(-1, group_size).argsort(dim=1, stable=True)
    kept = torch.ones_like(order, dtype=torch.bool)
    kept.scatter_(1, order[:, : group_size - num_kept], False)
    return kept.view(scores.shape).movedim(-1, 1).contiguous()


def prunable_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights that pruning usually takes: those of linear and convolutional layers.

    Biases, normalizations and embeddings are few or delicate and stay out; a tied weight comes once.

    Returns:
        Name as in ``model.named_parameters()`` -> the parameter itself.

    Example:
        >>> list(prunable_weights(nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))))
        ['0.weight']
    """
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    found = {id(module.weight) for module in model.modules() if isinstance(module, layers)}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in found}


def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set the removed weights to zero, in place.

    The zeros are in the weights themselves: nothing is added to the model, and nothing needs to be taken
    away later. The next optimizer step may move them, see :func:`keep_masks`.

    Args:
        model: any module.
        masks: name of a parameter -> boolean mask of its shape.

    Raises:
        ValueError: a name is no parameter of the model, or a shape differs; nothing has been changed.
        TypeError: a mask is not boolean.
    """
    with torch.no_grad():
        for parameter, mask in _pairs(model, masks):
            parameter.masked_fill_(~mask, 0)


@contextmanager
def keep_masks(model: nn.Module, masks: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Apply masks and keep them applied after every step of an optimizer, inside a ``with`` block.

    Two things would move a zero: its gradient, and what the optimizer remembers of earlier gradients. So
    gradients are masked as they arrive, which also keeps them out of norms, and weights after each step.

    Args:
        model: any module.
        masks: name of a parameter -> boolean mask of its shape.
        optimizer: the one that trains these parameters.

    Raises:
        ValueError: a name is no parameter of the model or of the optimizer, or a shape differs.
        TypeError: a mask is not boolean.

    Convention:
        After the block the zeros stay until something moves them: masks are not part of the model.
        A method that evaluates the loss several times within one step (L-BFGS) sees removed weights move
        in between.
    """
    pairs = _pairs(model, masks)
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for name, (parameter, _) in zip(masks, pairs, strict=True):
        if id(parameter) not in trained:
            raise ValueError(f"optimizer must hold the parameter {name!r}: make it after the model")
    apply_masks(model, masks)
    with ExitStack() as hooks:
        for parameter, mask in pairs:
            if parameter.requires_grad:
                handle = parameter.register_hook(lambda gradient, mask=mask: gradient.masked_fill(~mask, 0))
                hooks.callback(handle.remove)
        hooks.callback(optimizer.register_step_post_hook(lambda *_: apply_masks(model, masks)).remove)
        yield


def _pairs(model: nn.Module, masks: Mapping[str, Tensor]) -> list[tuple[nn.Parameter, Tensor]]:
    """Return every masked parameter with its mask on the same device."""
    parameters = dict(model.named_parameters())
    pairs = []
    for name, mask in masks.items():
        if name not in parameters:
            raise ValueError(f"masks must name parameters of the model, got {name!r}")
        require_dtype(f"the mask of {name}", mask, torch.bool)
        require_same_shape(name, parameters[name], "its mask", mask)
        pairs.append((parameters[name], mask.to(parameters[name].device)))
    return pairs
