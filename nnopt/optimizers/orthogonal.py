"""Steps that look at a gradient as a matrix: Newton–Schulz and Muon. Chapter: ``optimizers/orthogonal``.

Shampoo and SOAP are in ``_preconditioned``, the classes in ``_muon`` and ``_matrix_optimizers``.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nnopt.checks import require_dtype, require_integer, require_one_of, require_type

from ._checks import require_at_least_zero, require_coefficient, require_shapes
from .adaptive import decayed

__all__ = ["muon_step", "newton_schulz", "orthogonal_factor"]

# a matrix whose norm is below this is divided by this: zeros stay zeros
_SMALLEST_NORM = 1e-7
# of the longer to the shorter side, from which it is cheaper to iterate on the small Gram matrix
_GRAM_RATIO = 2.0

MUON_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def newton_schulz(
    matrix: Tensor,
    *,
    num_steps: int = 5,
    coefficients: Sequence[float] = MUON_COEFFICIENTS,
    dtype: torch.dtype | None = None,
    gram: bool | None = None,
) -> Tensor:
    r"""Drive all singular values of a matrix towards one, by products of matrices alone.

    .. math::
        X_0 = \frac{G}{\lVert G \rVert_F}, \qquad A_k = X_k X_k^\top, \qquad
        X_{k+1} = a X_k + (b A_k + c A_k^2) X_k

    Every step sends each singular value σ to aσ + bσ³ + cσ⁵ and leaves the singular vectors as they are.

    Args:
        matrix: G, (..., m, n), floating point; each of a batch for itself.
        num_steps: k, at least 1.
        coefficients: a, b, c. Muon's send small values up fast and end between about 0.7 and 1.2;
            (1.5, −0.5, 0) and (1.875, −1.25, 0.375) converge to one, more slowly.
        dtype: of the products; None for the matrix's own.
        gram: True iterates on the smaller Gram matrix, which costs less where one side is much longer; False does
            not, as torch; None where the sides differ by a factor of two or more.

    Returns:
        (..., m, n) in the matrix's dtype. Zeros stay zeros.

    Raises:
        ValueError: fewer than two dimensions, not three finite coefficients, or a number out of range.
        TypeError: an argument is of another kind.

    Convention:
        As torch.optim.Muon, which always iterates in bfloat16 and never on the Gram matrix. In bfloat16
        singular values of less than a hundredth of the norm are mostly rounding.

    Source:
        Schulz (1933) for the iteration on inverses; Bernstein and Newhouse (2024) for its use here; Jordan et
        al. (2024) for the coefficients.

    Example:
        >>> matrix = torch.diag(torch.tensor([5.0, 0.5]))
        >>> newton_schulz(matrix, num_steps=20, coefficients=(1.875, -1.25, 0.375)).diag().round(decimals=5)
        tensor([1., 1.])
    """
    require_dtype("matrix", matrix, None)
    if matrix.ndim < 2:
        raise ValueError(f"matrix must have at least two dimensions, got shape {tuple(matrix.shape)}")
    require_integer("num_steps", num_steps, minimum=1)
    require_coefficients(coefficients)
    require_iteration_dtype(dtype)
    require_type("gram", gram, (bool, type(None)))
    if matrix.numel() == 0:
        return matrix.clone()
    dtype = matrix.dtype if dtype is None else dtype
    moved = matrix.to(torch.float32 if dtype == torch.float16 else dtype)  # a norm soon leaves the range of float16
    is_tall = matrix.shape[-2] > matrix.shape[-1]
    wide = moved.mT if is_tall else moved
    wide = (wide / torch.linalg.vector_norm(wide, dim=(-2, -1), keepdim=True).clamp(min=_SMALLEST_NORM)).to(dtype)
    if gram is None:
        gram = wide.shape[-1] >= _GRAM_RATIO * wide.shape[-2]
    # one matrix is not made a batch of one: the two products round bfloat16 differently, now and then
    batch = wide if wide.ndim == 2 else wide.reshape(-1, *wide.shape[-2:])
    iterated = (_gram_iteration if gram else _iteration)(batch, num_steps, coefficients).view(wide.shape)
    return (iterated.mT if is_tall else iterated).to(matrix.dtype)


def orthogonal_factor(matrix: Tensor, *, method: str = "eigh") -> Tensor:
    r"""Return the orthogonal factor of a matrix: its singular vectors without its singular values.

    .. math:: G = U \Sigma V^\top \quad\mapsto\quad U V^\top = (G G^\top)^{-1/2}\, G

    Args:
        matrix: G, (..., m, n), floating point; each of a batch for itself.
        method: ``"eigh"`` takes the root of the smaller Gram matrix, in float64 because its eigenvalues are squares;
            ``"svd"`` works in the given precision. Which is faster depends on size and machine.

    Returns:
        (..., m, n): the matrix nearest to G with orthonormal rows or columns, whichever are fewer. Directions
        that G does not have, up to rounding, stay zero.

    Raises:
        ValueError: fewer than two dimensions, or another method.
        TypeError: not floating point.

    Convention:
        A singular value counts as rounding below the machine epsilon (of float32, or of the dtype if finer)
        times the longer side times the largest; ``"eigh"`` of a float64 matrix cannot see below 10⁻⁷ of it.

    Source:
        Higham (2008), chapter 8, on the polar decomposition.

    Example:
        >>> orthogonal_factor(torch.tensor([[0.0, -3.0], [0.5, 0.0]]))
        tensor([[ 0., -1.],
                [ 1.,  0.]])
    """
    require_dtype("matrix", matrix, None)
    require_one_of("method", method, ("eigh", "svd"))
    if matrix.ndim < 2:
        raise ValueError(f"matrix must have at least two dimensions, got shape {tuple(matrix.shape)}")
    if matrix.numel() == 0:
        return matrix.clone()
    exact = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    smallest = torch.finfo(exact.dtype).eps * max(matrix.shape[-2:])
    if method == "svd":
        left, values, right = torch.linalg.svd(exact, full_matrices=False)
        kept = values > smallest * values[..., :1]
        found: Tensor = (left * kept[..., None, :]) @ right
        return found.to(matrix.dtype)
    exact = exact.double()
    is_tall = matrix.shape[-2] > matrix.shape[-1]
    wide = exact.mT if is_tall else exact
    wide = wide / wide.abs().amax(dim=(-2, -1), keepdim=True).clamp(min=torch.finfo(wide.dtype).tiny)
    squares, vectors = eigenvectors_of(wide @ wide.mT)
    # of squares that float64 holds to 2·10⁻¹⁶
    kept = squares > max(smallest**2, torch.finfo(wide.dtype).eps * max(matrix.shape[-2:])) * squares[..., -1:]
    factors = torch.where(kept, squares, torch.inf).rsqrt()
    factor: Tensor = (vectors * factors[..., None, :]) @ (vectors.mT @ wide)
    return (factor.mT if is_tall else factor).to(matrix.dtype)


def muon_step(
    parameter: Tensor,
    gradient: Tensor,
    buffer: Tensor,
    *,
    lr: float | Tensor,
    momentum: float | Tensor = 0.95,
    nesterov: bool = True,
    weight_decay: float | Tensor = 0.1,
    num_steps: int = 5,
    coefficients: Sequence[float] = MUON_COEFFICIENTS,
    dtype: torch.dtype | None = torch.bfloat16,
    gram: bool | None = None,
    adjust_lr: str = "original",
    copies: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""Take one step of Muon: momentum whose singular values are all made one.

    .. math::
        B_t = \mu B_{t-1} + (1 - \mu)\, G_t, \qquad
        \Theta_t = (1 - \eta\lambda)\, \Theta_{t-1} - \eta\, s\, \operatorname{NS}\bigl((1 - \mu)\, G_t + \mu B_t\bigr)

    Args:
        parameter: Θ, a matrix (m, n), floating point; or with ``copies`` a stack of them.
        gradient: G, of the loss at ``parameter``, the same shape.
        buffer: B, the same shape; zeros before the first step.
        lr: learning rate η, at least 0; a number or a tensor that broadcasts against the parameter.
        momentum: μ, in [0, 1); likewise.
        nesterov: look ahead, as in the equation; otherwise NS(Bₜ).
        weight_decay: λ, at least 0, decoupled; likewise.
        num_steps: as in :func:`newton_schulz`.
        coefficients: likewise.
        dtype: likewise. float32 is several times faster on a CPU without bfloat16 arithmetic.
        gram: likewise.
        adjust_lr: s, by shape: ``"original"`` √max(1, m/n), ``"match_rms_adamw"`` 0.2 √max(m, n), with which
            learning rates of AdamW fit, or ``"spectral_unclamped"`` √(m/n).
        copies: the first dimension counts copies of a model.

    Returns:
        The new parameter and buffer, same shapes and dtypes; the arguments are unchanged.

    Raises:
        ValueError: not a matrix, shapes differ, or a number is out of range or NaN.
        TypeError: an argument is of another kind.

    Convention:
        As ``torch.optim.Muon``: bit for bit the same products with ``gram=False``.

    Source:
        Jordan et al. (2024); Liu et al. (2025) for ``"match_rms_adamw"``.

    Example:
        >>> gradient = torch.tensor([[3.0, 0.0], [0.0, 1e-2]])
        >>> new, _ = muon_step(torch.zeros(2, 2), gradient, torch.zeros(2, 2), lr=1.0, weight_decay=0.0)
        >>> new.abs().diag() > 0.2  # Newton–Schulz has lifted the small one almost to the large one
        tensor([True, True])
    """
    require_shapes(parameter, gradient=gradient, buffer=buffer)
    if parameter.ndim - int(copies) != 2:
        raise ValueError(f"parameter must be a matrix, got shape {tuple(parameter.shape[int(copies) :])}")
    require_coefficient("momentum", momentum, parameter)
    require_at_least_zero(parameter, lr=lr, weight_decay=weight_decay)
    require_type("nesterov", nesterov, bool)
    scale = muon_scale(parameter.shape, adjust_lr)
    old = buffer
    buffer = torch.lerp(old, gradient, 1 - momentum if not isinstance(momentum, Tensor) else (1 - momentum).to(old))
    direction = buffer
    if nesterov:
        ahead = momentum.to(old) if isinstance(momentum, Tensor) else momentum
        direction = torch.lerp(gradient, buffer, ahead)
    update = newton_schulz(direction, num_steps=num_steps, coefficients=coefficients, dtype=dtype, gram=gram)
    parameter, _ = decayed(parameter, gradient, lr=lr, weight_decay=weight_decay, decoupled=True)
    return parameter - lr * scale * update, buffer


def eigenvectors_of(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues, ascending, and eigenvectors of symmetric matrices; NaN for those that are not finite.

    Torch would raise for all of a batch, and one diverged copy is no fault of the others.
    """
    is_finite = matrix.isfinite().all(dim=-1).all(dim=-1)[..., None]
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    values, vectors = torch.linalg.eigh(torch.where(is_finite[..., None], matrix, identity))
    return values.masked_fill(~is_finite, torch.nan), vectors


def muon_scale(shape: Sequence[int], adjust_lr: str) -> float:
    """Return what the learning rate of a matrix is multiplied by."""
    require_adjust_lr(adjust_lr)
    rows, columns = shape[-2:]
    if rows == 0 or columns == 0:
        return 1.0
    if adjust_lr == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(rows / columns if adjust_lr == "spectral_unclamped" else max(1.0, rows / columns))


def require_adjust_lr(value: object) -> None:
    """Refuse what is no name of a scale."""
    require_one_of("adjust_lr", value, ("original", "match_rms_adamw", "spectral_unclamped"))


def require_iteration_dtype(value: object) -> None:
    """Refuse what is neither a floating point dtype that has products nor None."""
    if value not in (None, torch.float64, torch.float32, torch.bfloat16, torch.float16):
        raise TypeError(f"dtype must be float64, float32, bfloat16, float16 or None, got {value!r}")


def require_coefficients(value: object) -> None:
    """Refuse what is not three finite numbers."""
    numbers = value if isinstance(value, (tuple, list)) else ()
    if len(numbers) != 3 or not all(isinstance(n, (int, float)) and math.isfinite(n) for n in numbers):
        raise ValueError(f"coefficients must be three finite numbers, got {value!r}")


def _iteration(batch: Tensor, num_steps: int, coefficients: Sequence[float]) -> Tensor:
    """Iterate on (m, n) or (B, m, n), m at most n."""
    a, b, c = coefficients
    multiply_add = torch.addmm if batch.ndim == 2 else torch.baddbmm
    for _ in range(num_steps):
        product = batch @ batch.mT
        change = multiply_add(product, product, product, beta=b, alpha=c)
        batch = multiply_add(batch, change, batch, beta=a)
    return batch


def _gram_iteration(batch: Tensor, num_steps: int, coefficients: Sequence[float]) -> Tensor:
    """Iterate on the Gram matrices (…, m, m): every factor of X is a polynomial of XXᵀ, and they commute."""
    a, b, c = coefficients
    multiply_add = torch.addmm if batch.ndim == 2 else torch.baddbmm
    gram = batch @ batch.mT
    total = None
    for step in range(num_steps):
        factor = multiply_add(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        total = factor if total is None else factor @ total
        if step < num_steps - 1:
            gram = factor @ gram @ factor
    assert total is not None
    return total @ batch
