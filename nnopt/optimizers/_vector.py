"""Parameters as one vector, and derivatives of a loss or of residuals in its coordinates."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nnopt.checks import require_non_empty

__all__ = ["cut", "flat", "jacobian", "loss_gradient", "moved", "require_leaves", "rows_of"]


def flat(pieces: Sequence[Tensor]) -> Tensor:
    """Return tensors laid behind each other as one vector."""
    return torch.cat([piece.reshape(-1) for piece in pieces])


def cut(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return the pieces of a vector in the shapes of ``like``; views."""
    pieces = vector.split([tensor.numel() for tensor in like])
    return [piece.view(tensor.shape) for piece, tensor in zip(pieces, like, strict=True)]


def require_leaves(parameters: Sequence[Tensor]) -> None:
    """Refuse no parameters, or ones that no gradient can be asked for."""
    require_non_empty("parameters", parameters)
    for place, parameter in enumerate(parameters):
        if not parameter.requires_grad:
            raise ValueError(f"parameters[{place}] must require gradients, got a tensor that does not")
        if not parameter.is_floating_point():
            raise TypeError(f"parameters[{place}] must be real, got {parameter.dtype}")


def loss_gradient(loss_fn: Callable[[], Tensor], parameters: Sequence[Tensor]) -> Tensor:
    """Return the gradient of a finite 0-d loss as one vector that can be differentiated again."""
    require_leaves(parameters)
    loss = loss_fn()
    if loss.dim() != 0:
        raise ValueError(f"loss must be a single number, got shape {tuple(loss.shape)}")
    if not torch.isfinite(loss):
        raise ValueError(f"loss must be finite, got {loss.item()}")
    return flat(torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True))


def rows_of(outputs: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Return the derivatives of a vector (m,) by all parameters, (m, n): one backward pass for all rows together."""
    if not outputs.requires_grad:
        return outputs.new_zeros(len(outputs), sum(parameter.numel() for parameter in parameters))
    identity = torch.eye(len(outputs), dtype=outputs.dtype, device=outputs.device)
    # torch's own zeros for what is unused would lack the batch
    pieces = torch.autograd.grad(outputs, parameters, identity, is_grads_batched=True, allow_unused=True)
    rows = [
        outputs.new_zeros(len(outputs), parameter.numel()) if piece is None else piece.reshape(len(outputs), -1)
        for piece, parameter in zip(pieces, parameters, strict=True)
    ]
    return torch.cat(rows, dim=1)


def jacobian(residual_fn: Callable[[], Tensor], parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the residuals (m,) and their Jacobian (m, n)."""
    require_leaves(parameters)
    with torch.enable_grad():
        residuals = residual_fn().reshape(-1)
    require_non_empty("residuals", residuals)
    if not bool(torch.isfinite(residuals).all()):
        raise ValueError("residuals must be finite, got a NaN or an infinity")
    return residuals.detach(), rows_of(residuals, parameters)


def moved(parameters: Sequence[Tensor], step: Tensor) -> list[Tensor]:
    """Return the parameters plus a step (n,), new and without a graph."""
    pieces = cut(step, list(parameters))
    return [parameter.detach() + piece for parameter, piece in zip(parameters, pieces, strict=True)]
