"""Fewer units in a layer: cut some, and let the next layer make up for them. Chapter: ``merging/neurons``."""

import copy
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnopt.checks import (
    require_finite,
    require_integer,
    require_non_empty,
    require_non_negative,
    require_one_of,
    require_type,
)

__all__ = ["choose_units", "keep_units", "merge_units", "ridge_regression"]

METHODS = ("random", "weight_norm", "activation", "greedy")

# what may stand between the two layers: it treats every unit, or every channel, by itself
_BETWEEN = (
    nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Identity, nn.Flatten,
    nn.Dropout, nn.Dropout2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
)  # fmt: skip


def ridge_regression(features: Tensor, targets: Tensor, *, ridge: float) -> tuple[Tensor, Tensor]:
    r"""Return the linear layer that predicts the targets best, with a penalty that tames collinear features.

    .. math:: \min_{W, b}\; \tfrac1N \lVert A W^\top + 1 b^\top - Z \rVert^2 + \lambda s \lVert W \rVert^2

    with s the mean variance of the features, so that λ has no unit. The bias is not penalized.

    Args:
        features: A (N, K), floating point, N ≥ 1.
        targets: Z (N, O).
        ridge: λ ≥ 0. At 0 it is ordinary least squares.

    Returns:
        W (O, K) and b (O,), in the dtype of the targets; computed in float64 by a QR decomposition.

    Raises:
        ValueError: shapes do not fit, a value is not finite, ``ridge`` is negative, or it is 0 and the features
            (less their means) are linearly dependent, so that no solution is the only one.

    Source:
        A. E. Hoerl and R. W. Kennard, Ridge Regression, Technometrics 12, 1970.

    Example:
        >>> features = torch.tensor([[0.0], [1.0], [2.0]])
        >>> ridge_regression(features, 3 * features + 1, ridge=0.0)
        (tensor([[3.]]), tensor([1.]))
    """
    require_non_negative("ridge", ridge)
    for name, value in (("features", features), ("targets", targets)):
        require_type(name, value, Tensor)
        if value.ndim != 2:
            raise ValueError(f"{name} must have two dimensions, got shape {tuple(value.shape)}")
        require_non_empty(name, value)
        require_finite(name, value)
    if len(features) != len(targets):
        raise ValueError(f"features and targets must have as many rows, got {len(features)} and {len(targets)}")
    a, z = features.double(), targets.double()
    a_mean, z_mean = a.mean(dim=0), z.mean(dim=0)
    a, z = a - a_mean, z - z_mean
    num_rows, width = a.shape
    scale = float(a.square().mean())
    # features that never vary explain nothing, whatever their weight: any penalty makes it 0
    penalty = (ridge * (scale or 1.0) * num_rows) ** 0.5
    below = penalty * torch.eye(width, dtype=a.dtype, device=a.device)
    q, r = torch.linalg.qr(torch.cat([a, below]))
    diagonal = r.diagonal().abs()
    if len(diagonal) < width or bool((diagonal <= 1e-12 * diagonal.max()).any()):
        raise ValueError(f"features must be linearly independent, got {width} dependent ones: pass a ridge > 0")
    weight = torch.linalg.solve_triangular(r, q[:num_rows].T @ z, upper=True).T
    bias = z_mean - weight @ a_mean
    return weight.to(targets.dtype), bias.to(targets.dtype)


def choose_units(
    model: nn.Sequential,
    layer: int,
    inputs: Tensor,
    *,
    num_kept: int,
    method: str = "activation",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Choose the units of a layer, or the channels of a convolution, that are to stay.

    Args:
        model: stack of layers; not changed.
        layer: place in it of a ``Linear`` or ``Conv2d``, whose outputs are the units.
        inputs: of the model (N, ...): training rows. ``random`` and ``weight_norm`` do not look at them.
        num_kept: from 1 to the number of units.
        method: ``random``; ``weight_norm``: largest norm of the incoming weights; ``activation``: largest mean
            size behind the activation; ``greedy``: one by one that unit which, together with those already
            chosen, leaves the least squared error in the next layer's outputs.
        generator: on the CPU; needed for ``random``, refused otherwise.

    Returns:
        int64 (``num_kept``,) in increasing order, on the device of the weights.

    Raises:
        ValueError: a number is out of range, the method is unknown, the generator is missing or not used, or
            the model has another form (see :func:`merge_units`).
        TypeError: an argument is of another type.
    """
    first, following, place = _pair(model, layer)
    require_integer("num_kept", num_kept, minimum=1)
    num_units = len(first.weight)
    if num_kept > num_units:
        raise ValueError(f"num_kept must be <= {num_units}, the units of layer {layer}, got {num_kept}")
    require_one_of("method", method, METHODS)
    if (method == "random") != (generator is not None):
        raise ValueError(f"generator must be given for method 'random' only, got {generator} for {method!r}")
    if method == "random":
        kept = torch.randperm(num_units, generator=generator)[:num_kept].to(first.weight.device)
    elif method == "weight_norm":
        kept = first.weight.detach().flatten(1).norm(dim=1).topk(num_kept).indices
    else:
        features, targets = _regression(model[:place], following, inputs)
        blocks = features.view(len(features), num_units, -1)
        kept = (
            blocks.abs().mean(dim=(0, 2)).topk(num_kept).indices
            if method == "activation"
            else _forward_selection(blocks, targets, num_kept)
        )
    return kept.sort().values


def keep_units(model: nn.Sequential, layer: int, kept: Tensor) -> nn.Sequential:
    """Return the model without the other units of a layer: plain structured pruning.

    Args:
        model: stack of layers; not changed.
        layer: place in it of a ``Linear`` or ``Conv2d``.
        kept: int64 (K,), different units, in the order that they shall have.

    Returns:
        A smaller copy; its outputs are those of the model with the other units set to 0 behind the activation.

    Raises:
        ValueError: a unit does not exist or is named twice, none is kept, or the model has another form (see
            :func:`merge_units`).
        TypeError: an argument is of another type.
    """
    first, following, place = _pair(model, layer)
    _require_units(kept, len(first.weight))
    kept = kept.to(first.weight.device)
    smaller = copy.deepcopy(model)
    columns = _columns(kept, following, len(first.weight))
    _resize(
        cast(nn.Linear, smaller[layer]), "out", first.weight[kept], None if first.bias is None else first.bias[kept]
    )
    weight = following.weight.flatten(1)[:, columns].unflatten(1, (-1, *following.weight.shape[2:]))
    _resize(cast(nn.Linear, smaller[place]), "in", weight, following.bias)
    return smaller


def merge_units(
    model: nn.Sequential, layer: int, kept: Tensor, inputs: Tensor, *, ridge: float = 1e-3
) -> nn.Sequential:
    r"""Return the model with fewer units in a layer, the next layer refitted to make up for the others.

    What the next layer received from all units is predicted by a linear regression on the kept ones, behind the
    activation; the prediction becomes its weights and bias. No labels, no training.

    .. math:: \min_{W, b}\; \tfrac1N \sum_i \lVert W\, h_k(x_i) + b - z(x_i) \rVert^2 + \lambda s \lVert W \rVert^2

    with h_k the kept units behind the activation and z the outputs of the next layer.

    Args:
        model: stack of layers; not changed. Behind ``layer`` come activations, dropout, pooling or ``Flatten``,
            and then another ``Linear`` or ``Conv2d``.
        layer: place in it of a ``Linear`` or ``Conv2d``, whose outputs are the units.
        kept: int64 (K,), different units, as :func:`choose_units` returns them.
        inputs: of the model (N, ...): training rows, better many times K of them; all in memory at once.
        ridge: λ ≥ 0; with 0 the kept units must be linearly independent on the inputs.

    Returns:
        A smaller copy on the same device; in evaluation mode the outputs of its next layer are as near to the
        old ones as a linear layer can bring them on the inputs.

    Raises:
        ValueError: a unit does not exist or is named twice, none is kept, ``ridge`` is negative, or the model
            has another form: groups, an unknown module or a layer with parameters in between, nothing behind.
        TypeError: an argument is of another type.

    Convention:
        The removed units may be written as linear combinations of the kept ones and a rest; this adds their
        combinations to the next layer's weights and drops the rest. If there is no rest, the function is kept.

    Source:
        W. Kim, S. Kim, M. Park and G. Jeon, Neuron Merging: Compensating for Pruned Neurons, NeurIPS 2020, for
        one kept unit per removed one; the regression on all kept ones is least squares.
    """
    first, following, place = _pair(model, layer)
    smaller = keep_units(model, layer, kept)
    features, targets = _regression(model[:place], following, inputs)
    columns = _columns(kept.to(first.weight.device), following, len(first.weight))
    weight, bias = ridge_regression(features[:, columns], targets, ridge=ridge)
    narrow = cast(nn.Linear, smaller[place])
    _resize(narrow, "in", weight.to(first.weight.dtype).view(narrow.weight.shape), bias.to(first.weight.dtype))
    return smaller


def _pair(model: nn.Sequential, layer: int) -> tuple[nn.Linear | nn.Conv2d, nn.Linear | nn.Conv2d, int]:
    """Return the layer, the next one with weights and its place, if all between treats units by themselves."""
    require_type("model", model, nn.Sequential)
    require_integer("layer", layer, minimum=0)
    if layer >= len(model):
        raise ValueError(f"layer must be < {len(model)}, the modules of the model, got {layer}")
    place = _following_place(model, layer)
    for module in (model[layer], model[place]):
        if isinstance(module, nn.Conv2d):
            plain = module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
            if not plain:
                raise ValueError(f"convolutions must have groups = 1 and zero padding of given size, got {module}")
    first, following = model[layer], model[place]
    if isinstance(first, nn.Linear) and isinstance(following, nn.Conv2d):
        raise ValueError(f"a Linear must be followed by a Linear, got {following}")
    return cast(nn.Linear, first), cast(nn.Linear, following), place


def _following_place(model: nn.Sequential, layer: int) -> int:
    if not isinstance(model[layer], (nn.Linear, nn.Conv2d)):
        raise ValueError(f"layer must be the place of a Linear or Conv2d, got {type(model[layer]).__name__}")
    for place in range(layer + 1, len(model)):
        if isinstance(model[place], (nn.Linear, nn.Conv2d)):
            return place
        if not isinstance(model[place], _BETWEEN):
            raise ValueError(
                f"between two layers must stand activations, dropout, pooling or Flatten, got {model[place]}"
            )
    raise ValueError(f"layer must be followed by another Linear or Conv2d, got {layer} of {len(model)} modules")


@torch.no_grad()
def _regression(before: nn.Sequential, following: nn.Linear | nn.Conv2d, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the next layer reads, one row per product with its weights, and what it answers, in float64."""
    require_type("inputs", inputs, Tensor)
    require_non_empty("inputs", inputs)
    hidden = copy.deepcopy(before).eval()(inputs)
    if isinstance(following, nn.Conv2d):
        patches = F.unfold(
            hidden,
            following.kernel_size,
            dilation=following.dilation,
            padding=cast(tuple[int, int], following.padding),
            stride=following.stride,
        )
        features = patches.transpose(1, 2).flatten(0, 1)
    else:
        features = hidden.flatten(0, -2)
    features = features.double()
    targets = features @ following.weight.detach().flatten(1).double().T
    return features, targets if following.bias is None else targets + following.bias.detach().double()


def _columns(kept: Tensor, following: nn.Linear | nn.Conv2d, num_units: int) -> Tensor:
    """Return the columns of the next layer's matrix that read the kept units: neighbors, unit by unit."""
    each = following.weight.flatten(1).shape[1] // num_units
    return (kept[:, None] * each + torch.arange(each, device=kept.device)).flatten()


def _forward_selection(blocks: Tensor, targets: Tensor, num_kept: int) -> Tensor:
    """Choose blocks (N, U, m) one by one, each time the one that explains most of what is left of the targets."""
    rest = targets - targets.mean(dim=0)
    # (U, m, N): the rows of a block lie together, so that all below are plain matrix products
    left = (blocks - blocks.mean(dim=0)).permute(1, 2, 0).contiguous()
    flat = left.view(-1, len(rest))
    chosen: list[int] = []
    for _ in range(num_kept):
        grams = left @ left.mT
        sides = (flat @ rest).view(*left.shape[:2], -1)
        gains = (sides * (torch.linalg.pinv(grams, rtol=1e-10, hermitian=True) @ sides)).sum(dim=(1, 2))
        gains[chosen] = -torch.inf
        chosen.append(int(gains.argmax()))
        _, sizes, basis = torch.linalg.svd(left[chosen[-1]], full_matrices=False)
        basis = basis[sizes > 1e-10 * sizes.max().clamp(min=1e-300)]
        flat.addmm_(flat @ basis.T, basis, alpha=-1)
        rest = rest - basis.T @ (basis @ rest)
    return torch.tensor(chosen, device=blocks.device)


def _require_units(kept: Tensor, num_units: int) -> None:
    require_type("kept", kept, Tensor)
    require_non_empty("kept", kept)
    if kept.dtype != torch.int64 or kept.ndim != 1:
        raise TypeError(f"kept must be int64 of one dimension, got {kept.dtype} of shape {tuple(kept.shape)}")
    if int(kept.min()) < 0 or int(kept.max()) >= num_units or len(kept.unique()) != len(kept):
        raise ValueError(f"kept must be different units in [0, {num_units}), got {kept.tolist()}")


def _resize(module: nn.Linear | nn.Conv2d, side: str, weight: Tensor, bias: Tensor | None) -> None:
    """Give a layer new weights and the sizes that go with them."""
    module.weight = nn.Parameter(weight.detach().clone(), requires_grad=module.weight.requires_grad)
    module.bias = None if bias is None else nn.Parameter(bias.detach().clone())
    name = "features" if isinstance(module, nn.Linear) else "channels"
    setattr(module, f"{side}_{name}", weight.shape[0 if side == "out" else 1])
