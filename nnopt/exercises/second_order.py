"""Exercises of the chapter ``optimizers/second_order``."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from nnopt.optimizers import dense_hessian, hessian_vector_product

from ._verdict import Verdict, judge_test

__all__ = ["ProductFunction", "check_product_test"]

Loss: TypeAlias = Callable[[], Tensor]

ProductFunction: TypeAlias = Callable[[Loss, Sequence[Tensor], Sequence[Tensor]], list[Tensor]]
"""``product(loss_fn, parameters, vector)`` -> the Hessian times the vector, in the shapes of the parameters."""


def check_product_test(candidate: Callable[[ProductFunction], object]) -> Verdict:
    """Check a test of Hessian-vector products: it must accept a right implementation and refuse six wrong ones.

    Args:
        candidate: takes an implementation; it refuses by an AssertionError or by returning False.

    Returns:
        A verdict that names the first implementation that was judged wrongly.
    """
    return judge_test(candidate, hessian_vector_product, _wrong_ones())


def _wrong_ones() -> dict[str, ProductFunction]:
    """Return faults, by name."""

    def third(loss_fn: Loss, parameters: Sequence[Tensor], vector: Sequence[Tensor]) -> list[Tensor]:
        """The second derivative *of the gradient*, along the vector twice."""
        gradients = torch.autograd.grad(loss_fn(), parameters, create_graph=True, materialize_grads=True)
        along = _dot(gradients, vector)
        again = torch.autograd.grad(along, parameters, create_graph=True, materialize_grads=True)
        return list(torch.autograd.grad(_dot(again, vector), parameters, materialize_grads=True))

    def by_tensor(loss_fn: Loss, parameters: Sequence[Tensor], vector: Sequence[Tensor]) -> list[Tensor]:
        return [
            hessian_vector_product(loss_fn, [parameter], [piece])[0]
            for parameter, piece in zip(parameters, vector, strict=True)
        ]

    def by_number(loss_fn: Loss, parameters: Sequence[Tensor], vector: Sequence[Tensor]) -> list[Tensor]:
        diagonal = dense_hessian(loss_fn, parameters).diagonal()
        pieces = diagonal.split([parameter.numel() for parameter in parameters])
        return [piece.view(v.shape) * v for piece, v in zip(pieces, vector, strict=True)]

    def outer(loss_fn: Loss, parameters: Sequence[Tensor], vector: Sequence[Tensor]) -> list[Tensor]:
        gradients = torch.autograd.grad(loss_fn(), parameters, materialize_grads=True)
        return [_dot(gradients, vector) * gradient for gradient in gradients]

    def coarse(loss_fn: Loss, parameters: Sequence[Tensor], vector: Sequence[Tensor]) -> list[Tensor]:
        return _difference(loss_fn, parameters, vector, 0.1)

    def leaves_a_mess(loss_fn: Loss, parameters: Sequence[Tensor], vector: Sequence[Tensor]) -> list[Tensor]:
        right = hessian_vector_product(loss_fn, parameters, vector)
        with torch.no_grad():
            for parameter, piece in zip(parameters, vector, strict=True):
                parameter.add_(1e-3 * piece)
        return right

    return {
        "it takes the second derivative of the gradient": third,
        "it forgets how one tensor bends the slope of another": by_tensor,
        "it multiplies with the diagonal only": by_number,
        "it multiplies the gradient with its own share of the vector": outer,
        "it takes one coarse difference of gradients": coarse,
        "it leaves the parameters a little moved": leaves_a_mess,
    }


def _dot(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    return torch.stack([(a * b).sum() for a, b in zip(one, other, strict=True)]).sum()


def _difference(loss_fn: Loss, parameters: Sequence[Tensor], vector: Sequence[Tensor], size: float) -> list[Tensor]:
    """Return the change of the gradient over a step along the vector, divided by its length."""
    kept = [parameter.detach().clone() for parameter in parameters]
    before = torch.autograd.grad(loss_fn(), parameters, materialize_grads=True)
    with torch.no_grad():
        for parameter, piece in zip(parameters, vector, strict=True):
            parameter.add_(size * piece)
    after = torch.autograd.grad(loss_fn(), parameters, materialize_grads=True)
    with torch.no_grad():
        for parameter, old in zip(parameters, kept, strict=True):
            parameter.copy_(old)
    return [(a - b) / size for a, b in zip(after, before, strict=True)]
