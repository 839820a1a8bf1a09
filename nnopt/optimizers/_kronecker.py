"""Curvature of a layer as a Kronecker product of two small matrices, and the method (K-FAC) that divides by it."""

import torch
from torch import Tensor

from nnopt.checks import require_non_negative, require_positive, require_shape

__all__ = ["kronecker_factors", "kronecker_step"]


def kronecker_factors(inputs: Tensor, output_gradients: Tensor, *, bias: bool = False) -> tuple[Tensor, Tensor]:
    r"""Return the two factors whose Kronecker product stands for the curvature of a linear layer.

    For outputs s = Wa, and slopes d = ∂J/∂s of the loss of a single row,

    .. math:: F = \mathbb E[\,a a^\top \otimes d d^\top] \;\approx\; A \otimes G,
        \qquad A = \mathbb E[a a^\top],\quad G = \mathbb E[d d^\top]

    F is the block of the Fisher matrix, and of the Gauss-Newton matrix, that belongs to W with its columns laid
    behind each other, if the targets behind d are drawn from what the model predicts. The approximation is *exact* for
    one row, for one input to all rows, and wherever d d^T does not depend on the row: squared error behind layers that
    are linear.

    Args:
        inputs: a, (B, in).
        output_gradients: d, (B, out), or (S, B, out) for S draws of the targets of every row; of the *sum* of the
            rows' losses, so that each row has its own slope and not a B-th of it.
        bias: append a 1 to every input, for a layer with W and bias as one matrix (out, in + 1).

    Returns:
        A, (in, in) or (in + 1, in + 1), and G, (out, out): symmetric, no negative eigenvalue.

    Raises:
        ValueError: the numbers of dimensions or rows do not fit, or there are no rows.

    Source:
        Martens and Grosse (2015), sections 2 and 3.

    Example:
        >>> kronecker_factors(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0]]))
        (tensor([[1., 2.],
                [2., 4.]]), tensor([[9.]]))
    """
    if inputs.dim() != 2 or output_gradients.dim() not in (2, 3):
        shapes = f"{tuple(inputs.shape)} and {tuple(output_gradients.shape)}"
        raise ValueError(f"inputs must be (B, in) and output_gradients (B, out) or (S, B, out), got {shapes}")
    rows = len(inputs)
    if rows == 0 or output_gradients.shape[-2] != rows or output_gradients.numel() == 0:
        raise ValueError(
            f"output_gradients must have the {rows} rows of the inputs, at least 1, got {tuple(output_gradients.shape)}"
        )
    if bias:
        inputs = torch.cat([inputs, inputs.new_ones(rows, 1)], dim=1)
    slopes = output_gradients.reshape(-1, output_gradients.shape[-1])
    return inputs.T @ inputs / rows, slopes.T @ slopes / len(slopes)


def kronecker_step(
    weight: Tensor,
    gradient: Tensor,
    input_factor: Tensor,
    output_factor: Tensor,
    *,
    lr: float,
    damping: float,
) -> Tensor:
    r"""Take one step of K-FAC for the weight of a linear layer.

    .. math::
        W_{t+1} = W_t - \eta\,\bigl(G + \tfrac{\sqrt\lambda}{\pi} I\bigr)^{-1}\, \nabla_W J\,
        \bigl(A + \pi\sqrt\lambda\, I\bigr)^{-1},
        \qquad \pi^2 = \frac{\operatorname{tr}A/\dim A}{\operatorname{tr}G/\dim G}

    The inverse of a Kronecker product is the product of the inverses: two small systems, of sizes in and out,
    instead of one of size in · out.

    Args:
        weight: W, (out, in).
        gradient: of the mean loss by W, (out, in).
        input_factor: A, (in, in), symmetric without negative eigenvalues.
        output_factor: G, (out, out), likewise.
        lr: learning rate η, at least 0.
        damping: λ, above 0; times λ the step tends to plain descent as λ grows.

    Returns:
        The new weight; the arguments are unchanged.

    Raises:
        ValueError: a shape does not fit, a damped factor is not positive definite, or a number is out of range.

    Source:
        Martens and Grosse (2015), sections 4.2 and 6.3.

    Example:
        >>> one = torch.eye(1)
        >>> kronecker_step(torch.zeros(1, 1), one, 3 * one, 3 * one, lr=1.0, damping=1.0)
        tensor([[-0.0625]])
    """
    require_non_negative("lr", lr)
    require_positive("damping", damping)
    rows, columns = weight.shape if weight.dim() == 2 else (0, 0)
    require_shape("weight", weight, (rows, columns))
    require_shape("gradient", gradient, (rows, columns))
    require_shape("input_factor", input_factor, (columns, columns))
    require_shape("output_factor", output_factor, (rows, rows))
    left, right = damped_roots(input_factor, output_factor, damping)
    return weight - lr * divided(gradient, left, right)


def damped_roots(input_factor: Tensor, output_factor: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """Return the Cholesky factors of both damped factors, the input's first."""
    sizes = [float(factor.diagonal().mean()) for factor in (input_factor, output_factor)]
    # a factor of zeros shares the damping equally
    balance = (sizes[0] / sizes[1]) ** 0.5 if min(sizes) > 0 else 1.0
    roots = []
    for name, factor, share in (("input", input_factor, balance), ("output", output_factor, 1 / balance)):
        ridge = share * damping**0.5 * torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
        root, info = torch.linalg.cholesky_ex(factor + ridge)
        if int(info) != 0:
            raise ValueError(f"damping must make the {name} factor positive definite, got {damping!r}")
        roots.append(root)
    return roots[0], roots[1]


def divided(gradient: Tensor, input_root: Tensor, output_root: Tensor) -> Tensor:
    """Return G⁻¹ ∇W A⁻¹ from the Cholesky factors of A and G."""
    half = torch.cholesky_solve(gradient, output_root)
    return torch.cholesky_solve(half.T, input_root).T
