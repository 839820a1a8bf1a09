"""Parameters as one vector, and derivatives of a loss or of residuals in its coordinates."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from nnopt.checks import require_non_empty, require_type

__all__ = ["curvature_product", "cut", "finite_loss", "flat", "jacobian", "leaves", "loss_gradient", "moved", "rows_of"]


def flat(pieces: Sequence[Tensor]) -> Tensor:
    """Return tensors laid behind each other as one vector."""
    return torch.cat([piece.reshape(-1) for piece in pieces])


def cut(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return the pieces of a vector in the shapes of ``like``; views."""
    pieces = vector.split([tensor.numel() for tensor in like])
    return [piece.view(tensor.shape) for piece, tensor in zip(pieces, like, strict=True)]


def leaves(parameters: Iterable[Tensor]) -> list[Tensor]:
    """Return the parameters in a list, or refuse none at all, and ones that no gradient can be asked for."""
    found = list(parameters)
    require_non_empty("parameters", found)
    for place, parameter in enumerate(found):
        require_type(f"parameters[{place}]", parameter, Tensor)
        if not parameter.requires_grad:
            raise ValueError(f"parameters[{place}] must require gradients, got a tensor that does not")
        if not parameter.is_leaf:
            raise ValueError(f"parameters[{place}] must be a leaf, got what {parameter.grad_fn} computed")
        if not parameter.is_floating_point():
            raise TypeError(f"parameters[{place}] must be real, got {parameter.dtype}")
    if len({id(parameter) for parameter in found}) < len(found):
        raise ValueError("parameters must not repeat a tensor")
    return found


def finite_loss(loss_fn: Callable[[], Tensor]) -> Tensor:
    """Return the loss, or refuse what is no finite number."""
    loss = loss_fn()
    if loss.dim() != 0:
        raise ValueError(f"loss must be a single number, got shape {tuple(loss.shape)}")
    if not torch.isfinite(loss):
        raise ValueError(f"loss must be finite, got {loss.item()}")
    return loss


def loss_gradient(loss_fn: Callable[[], Tensor], parameters: Sequence[Tensor]) -> Tensor:
    """Return the gradient of a finite 0-d loss as one vector that can be differentiated again."""
    return flat(torch.autograd.grad(finite_loss(loss_fn), parameters, create_graph=True, materialize_grads=True))


def curvature_product(gradient: Tensor, parameters: Sequence[Tensor], vector: Tensor) -> Tensor:
    """Return the Hessian times a vector, from the gradient as one vector."""
    if not gradient.requires_grad:  # a linear loss has no curvature
        return torch.zeros_like(vector)
    pieces = torch.autograd.grad(gradient, parameters, vector, retain_graph=True, materialize_grads=True)
    return flat(pieces)


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
