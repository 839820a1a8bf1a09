"""Shampoo and SOAP: a gradient's rows and columns get coordinates of their own before a step is taken."""

import torch
from torch import Tensor

from nnopt.checks import require_integer, require_non_negative

from ._checks import require_at_least_zero, require_betas, require_coefficient, require_range, require_shapes
from .adaptive import decayed, moments
from .orthogonal import eigenvectors_of

__all__ = ["shampoo_step", "soap_step"]


def shampoo_step(
    parameter: Tensor,
    gradient: Tensor,
    left: Tensor,
    right: Tensor,
    left_root: Tensor,
    right_root: Tensor,
    *,
    step: int,
    lr: float | Tensor,
    eps: float = 1e-6,
    weight_decay: float | Tensor = 0.0,
    precondition_every: int = 1,
    copies: bool = False,
) -> tuple[Tensor, ...]:
    r"""Take one step of Shampoo: divide by a root of the sum of squares, of rows and columns as a whole.

    .. math::
        L_t = L_{t-1} + G_t G_t^\top, \qquad R_t = R_{t-1} + G_t^\top G_t, \qquad
        \Theta_t = (1 - \eta\lambda)\, \Theta_{t-1} - \eta\, L_t^{-1/4}\, G_t\, R_t^{-1/4}

    with L₀ = R₀ = εI. Without a memory, and with ε = 0, that is the orthogonal factor of G.

    Args:
        parameter: Θ, (m, n), floating point. A kernel counts as a matrix (m, rest); a vector gets the step of
            AdaGrad, with a total in ``left`` that starts at ε.
        gradient: G, of the loss at ``parameter``, the same shape.
        left: L, (m, m); before the first step zeros of any shape.
        right: R, (n, n); likewise.
        left_root: L^(−1/4) of the latest step at which it was computed; likewise.
        right_root: likewise.
        step: t, the number of this update, from 1.
        lr: learning rate η, at least 0; a number or a tensor that broadcasts against the parameter.
        eps: ε, above or equal to 0.
        weight_decay: λ, at least 0, decoupled; as ``lr``.
        precondition_every: after as many steps, in each of which they are, roots are computed at its multiples only;
            stale roots of the first gradients would multiply whatever these did not have.
        copies: the first dimension counts copies of a model.

    Returns:
        The new parameter and its four states in the order of the arguments, in the parameter's dtype; the
        arguments are unchanged.

    Raises:
        ValueError: shapes do not fit, or a number is out of range or NaN.
        TypeError: ``step`` or ``precondition_every`` is not an integer, tensors are not real or of different dtypes,
            or they are float16, in which sums of squares overflow.

    Convention:
        As ``pytorch_optimizer.Shampoo``; but that one moves nothing before the first multiple of its interval.

    Source:
        Gupta, Koren and Singer (2018), algorithm 1.

    Example:
        >>> gradient, empty = torch.diag(torch.tensor([4.0, 0.01])), torch.zeros(2, 2)
        >>> shampoo_step(torch.zeros(2, 2), gradient, *[empty] * 4, step=1, lr=0.5, eps=0.0)[0]
        tensor([[-0.5000,  0.0000],
                [ 0.0000, -0.5000]])
    """
    _require(parameter, gradient, step=step, lr=lr, eps=eps, weight_decay=weight_decay, every=precondition_every)
    require_non_negative("eps", eps)
    states = (left, right, left_root, right_root)
    shrunk, _ = decayed(parameter, gradient, lr=lr, weight_decay=weight_decay, decoupled=True)
    if parameter.numel() == 0:
        return (shrunk.clone(), *(state.clone() for state in states))
    if parameter.ndim - int(copies) < 2:
        total = (left if step > 1 else torch.full_like(parameter, eps)) + gradient.square()
        return shrunk - lr * (gradient * total.clamp(min=_tiny(total)).rsqrt()), total, *states[1:]
    matrix = _as_matrix(gradient, copies)
    exact = matrix.to(_precise(matrix))
    squares = exact @ exact.mT, exact.mT @ exact
    if step == 1:
        left, right = (square + eps * torch.eye(square.shape[-1]).to(square) for square in squares)
    else:
        _require_states(matrix, left=left, right=right, left_root=left_root, right_root=right_root)
        left, right = left + squares[0], right + squares[1]
    if step <= precondition_every or step % precondition_every == 0:
        left_root, right_root = _inverse_fourth_root(left, eps), _inverse_fourth_root(right, eps)
    update = (left_root.to(exact) @ exact @ right_root.to(exact)).to(parameter).view_as(parameter)
    states = left, right, left_root, right_root
    return shrunk - lr * update, *(state.to(parameter.dtype) for state in states)


def soap_step(
    parameter: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    left: Tensor,
    right: Tensor,
    left_basis: Tensor,
    right_basis: Tensor,
    *,
    step: int,
    lr: float | Tensor,
    betas: tuple[float | Tensor, float | Tensor] = (0.95, 0.95),
    memory: float | Tensor | None = None,
    eps: float | Tensor = 1e-8,
    weight_decay: float | Tensor = 0.01,
    precondition_every: int = 10,
    copies: bool = False,
) -> tuple[Tensor, ...]:
    r"""Take one step of SOAP: Adam in the coordinates in which Shampoo would divide.

    .. math::
        G' = Q_L^\top G_t Q_R, \qquad M_t = \beta_1 M_{t-1} + (1 - \beta_1)\, G', \qquad
        V_t = \beta_2 V_{t-1} + (1 - \beta_2)\, G'^2, \qquad
        \Theta_t = (1 - \eta\lambda)\, \Theta_{t-1} - \eta\, \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}\,
        Q_L\, \frac{M_t}{\sqrt{V_t} + \varepsilon}\, Q_R^\top

    where M turns with the coordinates, and the columns of Q_L and Q_R are eigenvectors of running means of GGᵀ
    and GᵀG.

    Args:
        parameter: Θ, (m, n), floating point. A kernel counts as a matrix (m, rest); a vector gets Adam's step.
        gradient: G, of the loss at ``parameter``, the same shape.
        first: M, the same shape, in the new coordinates; zeros before the first step.
        second: V, likewise.
        left: mean of GGᵀ, (m, m); before the first step zeros of any shape.
        right: mean of GᵀG, (n, n); likewise.
        left_basis: Q_L, (m, m); likewise.
        right_basis: Q_R, (n, n); likewise.
        step: number of this update, from 1. The first only finds the coordinates of a matrix and does not move
            it: t = ``step`` − 1.
        lr: learning rate η, at least 0; a number or a tensor that broadcasts against the parameter.
        betas: β₁ and β₂, each in [0, 1); likewise.
        memory: β of the means of GGᵀ and GᵀG, in [0, 1); None for β₂.
        eps: ε, at least 0; likewise.
        weight_decay: λ, at least 0, decoupled; likewise.
        precondition_every: steps between two corrections of the bases, each one step of orthogonal iteration.
        copies: the first dimension counts copies of a model.

    Returns:
        The new parameter and its six states in the order of the arguments, in the parameter's dtype; the
        arguments are unchanged.

    Raises:
        ValueError: shapes do not fit, or a number is out of range or NaN.
        TypeError: ``step`` or ``precondition_every`` is not an integer, tensors are not real or of different dtypes,
            or they are float16, in which sums of squares overflow.

    Convention:
        As the authors' code and ``pytorch_optimizer.SOAP``: a first step that does not move, ε before bias
        correction. Both let vectors wait for a step too, decay after the step, and keep M in the old coordinates,
        which takes two more products a step and gives the same.

    Source:
        Vyas et al. (2025), algorithm 3.

    Example:
        >>> start, gradient = torch.zeros(2, 2), torch.diag(torch.tensor([4.0, 0.01]))
        >>> _, *state = soap_step(start, gradient, *[start] * 6, step=1, lr=0.5)
        >>> soap_step(start, gradient, *state, step=2, lr=0.5)[0].diag().round(decimals=4)
        tensor([-0.5000, -0.5000])
    """
    _require(parameter, gradient, step=step, lr=lr, eps=eps, weight_decay=weight_decay, every=precondition_every)
    require_shapes(parameter, first=first, second=second)
    require_betas(betas, parameter)
    memory = betas[1] if memory is None else memory
    require_coefficient("memory", memory, parameter)
    memory = _as_matrix(memory, copies) if isinstance(memory, Tensor) and memory.ndim > 1 else memory
    states = (left, right, left_basis, right_basis)
    shrunk, _ = decayed(parameter, gradient, lr=lr, weight_decay=weight_decay, decoupled=True)
    if parameter.numel() == 0:
        return (shrunk.clone(), first, second, *states)
    if parameter.ndim - int(copies) < 2:
        first, second = moments(gradient, first, second, betas)
        update = _correction(betas, step) * first / (second.sqrt() + eps)
        return shrunk - lr * update, first, second, *states
    matrix = _as_matrix(gradient, copies)
    exact = matrix.to(_precise(matrix))
    if step == 1:
        left, right = ((1 - memory) * square for square in (exact @ exact.mT, exact.mT @ exact))
        states = left, right, _eigenbasis(left), _eigenbasis(right)
        return parameter.clone(), first.clone(), second.clone(), *(state.to(parameter.dtype) for state in states)
    _require_states(matrix, left=left, right=right, left_root=left_basis, right_root=right_basis)
    lefts, rights = left_basis.to(exact), right_basis.to(exact)
    rotated = lefts.mT @ exact @ rights
    gradient = rotated.view_as(parameter).to(parameter)
    first, second = _mean(first, gradient, betas[0]), _mean(second, gradient.square(), betas[1])
    ratio = _correction(betas, step - 1) * first.to(exact) / (second.to(exact).sqrt() + eps)
    update = (lefts @ _as_matrix(ratio, copies) @ rights.mT).to(parameter).view_as(parameter)
    left, right = _square_mean(left, exact, memory), _square_mean(right, exact.mT, memory)
    if (step - 1) % precondition_every == 0:
        old_lefts, old_rights = lefts, rights
        lefts, places = _corrected(left.to(exact), lefts)
        rights, others = _corrected(right.to(exact), rights)
        turned = (lefts.mT @ old_lefts) @ _as_matrix(first, copies).to(exact) @ (old_rights.mT @ rights)
        first = turned.to(parameter).view_as(parameter)
        rows = _as_matrix(second, copies)
        rows = rows.gather(-2, places[..., :, None].expand_as(rows))
        second = rows.gather(-1, others[..., None, :].expand_as(rows)).view_as(parameter)
    states = left, right, lefts, rights
    return shrunk - lr * update, first, second, *(state.to(parameter.dtype) for state in states)


def _require(
    parameter: Tensor,
    gradient: Tensor,
    *,
    step: int,
    lr: float | Tensor,
    eps: float | Tensor,
    weight_decay: float | Tensor,
    every: int,
) -> None:
    require_range("parameter", parameter)
    require_shapes(parameter, gradient=gradient)
    require_integer("step", step, minimum=1)
    require_integer("precondition_every", every, minimum=1)
    require_at_least_zero(parameter, lr=lr, eps=eps, weight_decay=weight_decay)


def _require_states(matrix: Tensor, *, left: Tensor, right: Tensor, left_root: Tensor, right_root: Tensor) -> None:
    """Refuse states that are not those of an earlier step."""
    rows, columns = matrix.shape[-2:]
    for name, state, side in (
        ("left", left, rows),
        ("right", right, columns),
        ("the left root or basis", left_root, rows),
        ("the right root or basis", right_root, columns),
    ):
        wanted = (*matrix.shape[:-2], side, side)
        if state.shape != wanted:
            raise ValueError(f"{name} must have shape {wanted} after the first step, got {tuple(state.shape)}")


def _as_matrix(tensor: Tensor, copies: bool) -> Tensor:
    """Return (..., m, n) of a tensor whose own dimensions are two or more.

    Laid out in order, because products round by the layout and an eigenbasis may turn on it.
    """
    return tensor.flatten(int(copies) + 1).contiguous()


def _precise(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _tiny(tensor: Tensor) -> float:
    return torch.finfo(tensor.dtype).tiny


def _correction(betas: tuple[float | Tensor, float | Tensor], step: int) -> float | Tensor:
    """Return Adam's two corrections as one factor of the step."""
    beta1, beta2 = betas
    return (1 - beta2**step) ** 0.5 / (1 - beta1**step)


def _mean(old: Tensor, new: Tensor, beta: float | Tensor) -> Tensor:
    """Return β old + (1 − β) new, in one pass."""
    return torch.lerp(old, new, (1 - beta).to(old) if isinstance(beta, Tensor) else 1 - beta)


def _square_mean(old: Tensor, matrix: Tensor, beta: float | Tensor) -> Tensor:
    """Return β old + (1 − β) XXᵀ; with a number for β the product adds itself."""
    if isinstance(beta, Tensor):
        return _mean(old, (matrix @ matrix.mT).to(old), beta)
    multiply_add = torch.addmm if matrix.ndim == 2 else torch.baddbmm
    return multiply_add(old.to(matrix), matrix, matrix.mT, beta=beta, alpha=1 - beta)


def _inverse_fourth_root(matrix: Tensor, eps: float) -> Tensor:
    """Return the inverse fourth root of a symmetric positive matrix whose eigenvalues are at least ε."""
    exact = matrix.to(_precise(matrix))
    values, vectors = eigenvectors_of(exact)
    # rounding pushes small eigenvalues below ε; a direction that never had a gradient must not be divided by 0
    floor = torch.finfo(exact.dtype).eps * values[..., -1:] * (eps == 0)
    values = values.clamp(min=max(eps, _tiny(exact))).maximum(floor)
    root: Tensor = (vectors * values.pow(-0.25)[..., None, :]) @ vectors.mT
    return root


def _eigenbasis(matrix: Tensor) -> Tensor:
    """Return eigenvectors as columns, the largest eigenvalue first."""
    return eigenvectors_of(matrix)[1].flip(-1)


def _corrected(matrix: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Return a basis after one step of orthogonal iteration, sorted, and the places its columns came from."""
    product = matrix @ basis
    places = (basis * product).sum(dim=-2).argsort(dim=-1, descending=True)
    new: Tensor = torch.linalg.qr(product.gather(-1, places[..., None, :].expand_as(product))).Q
    return new, places
