"""Least squares: the Gauss-Newton step, and the Levenberg-Marquardt method that finds its damping."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from nnopt.checks import require_integer, require_non_negative, require_positive

from ._vector import jacobian, leaves, moved

__all__ = ["LevenbergMarquardt", "gauss_newton_step"]


def gauss_newton_step(
    residual_fn: Callable[[], Tensor], parameters: Iterable[Tensor], *, damping: float, lr: float = 1.0
) -> list[Tensor]:
    r"""Take one damped Gauss-Newton step for the loss ½‖r(θ)‖².

    .. math:: \theta_{t+1} = \theta_t - \eta\,(J^\top J + \lambda I)^{-1} J^\top r(\theta_t)

    J, the Jacobian of the residuals, needs first derivatives only; JᵀJ is the part of the Hessian that comes from
    the slopes of r and not from their bending, and it is never indefinite.

    Args:
        residual_fn: computes residuals r of any shape, m numbers, from ``parameters`` as they are now.
        parameters: leaves that require gradients, n numbers together.
        damping: λ, at least 0; with 0 the shortest of the best steps is taken.
        lr: learning rate η, at least 0.

    Returns:
        The new parameters, without a graph; the arguments are unchanged. Memory: the m × n numbers of J.

    Raises:
        ValueError: ``damping`` or ``lr`` is negative or NaN, there are no parameters or residuals, a parameter is no
            leaf that requires gradients or comes twice, or a residual is not finite.
        TypeError: a parameter is complex.

    Source:
        Nocedal and Wright (2006), section 10.3; Levenberg (1944) for the damping.

    Example:
        >>> slope = torch.tensor([0.0], requires_grad=True)
        >>> (new,) = gauss_newton_step(lambda: 3.0 * slope - 6.0, [slope], damping=9.0)
        >>> round(new.item(), 6)
        1.0
    """
    require_non_negative("damping", damping)
    require_non_negative("lr", lr)
    parameters = leaves(parameters)
    residuals, slopes = jacobian(residual_fn, parameters)
    return moved(parameters, lr * damped_solution(slopes, -residuals, damping))


class LevenbergMarquardt:
    r"""Levenberg-Marquardt: Gauss-Newton steps whose damping follows how well the last parabola foretold the loss.

    Each try solves :func:`gauss_newton_step` and compares the loss ½‖r‖² with what the linearized residuals promised.
    A try that does not lower the loss is undone and the damping grows; one that keeps its promise divides it by three.

    It is no ``torch.optim.Optimizer``: those are told gradients, this one needs residuals, and has no learning rate
    that a schedule could move. The price is the m × n Jacobian and a solution of order m n² at each try: for models
    of up to some thousand parameters, on all their rows at once.

    Args:
        parameters: leaves that require gradients, n numbers together; they are changed in place.
        damping: λ at the start, above 0, in units of the largest diagonal entry of JᵀJ at the first step.
        max_tries: within one step, at least 1.

    Raises:
        ValueError: a number is out of range, there are no parameters, or one is no leaf that requires gradients or
            comes twice.
        TypeError: a parameter is complex, or ``max_tries`` no integer.

    Source:
        Levenberg (1944), Marquardt (1963); the rule for the damping is Nielsen's (1999).

    Example:
        >>> slope = torch.tensor([0.0], dtype=torch.float64, requires_grad=True)
        >>> method = LevenbergMarquardt([slope])
        >>> losses = [method.step(lambda: slope.exp() - 3.0) for _ in range(8)]
        >>> f"{slope.exp().item():.6f}"
        '3.000000'
    """

    def __init__(self, parameters: Iterable[Tensor], *, damping: float = 1e-3, max_tries: int = 10) -> None:
        parameters = leaves(parameters)
        require_positive("damping", damping)
        require_integer("max_tries", max_tries, minimum=1)
        self.parameters = parameters
        self.max_tries = max_tries
        self.num_tries = 0
        """How many tries there were in all steps so far; each has evaluated the residuals once."""
        self._relative = float(damping)
        self._damping: float | None = None
        self._growth = 2.0

    @property
    def damping(self) -> float | None:
        """Damping λ of the next try, in the units of JᵀJ; None before the first step."""
        return self._damping

    def step(self, residual_fn: Callable[[], Tensor]) -> float:
        """Move the parameters so that ½‖r‖² falls, if one of ``max_tries`` dampings can make it.

        Args:
            residual_fn: computes residuals r of any shape from the parameters as they are now.

        Returns:
            ½‖r‖² *after* the step; where no try lowered it, the value before, and the parameters are as before.

        Raises:
            ValueError: a residual is not finite at the parameters as they are; nothing was changed.
        """
        residuals, slopes = jacobian(residual_fn, self.parameters)
        loss = float(residuals @ residuals) / 2
        gradient = slopes.T @ residuals
        if self._damping is None:
            largest = float(slopes.square().sum(0).max())
            self._damping = self._relative * (largest if largest > 0 else 1.0)
        start = [parameter.detach().clone() for parameter in self.parameters]
        damping, growth, smallest = self._damping, self._growth, torch.finfo(residuals.dtype).eps * loss
        for _ in range(self.max_tries):
            step = damped_solution(slopes, -residuals, self._damping)
            self._set(moved(start, step))
            try:
                with torch.no_grad():
                    reached = float(residual_fn().square().sum()) / 2
            except BaseException:
                self._set(start)
                raise
            self.num_tries += 1
            # what the linearized residuals promise: ½(λ‖δ‖² − gᵀδ)
            promised = float(self._damping * (step @ step) - gradient @ step) / 2
            if reached < loss:  # false for NaN
                kept = (loss - reached) / promised if promised > 0 else 1.0
                self._damping *= max(1 / 3, 1 - (2 * min(kept, 1.0) - 1) ** 3)
                self._growth = 2.0
                return reached
            self._damping *= self._growth
            self._growth *= 2
        self._set(start)
        if not promised > smallest:  # at a minimum no damping helps, and it would grow beyond all numbers
            self._damping, self._growth = damping, growth
        return loss

    def state_dict(self) -> dict[str, float | None]:
        """Return what the next step depends on, besides the parameters."""
        return {"damping": self._damping, "growth": self._growth, "num_tries": self.num_tries}

    def load_state_dict(self, state: Mapping[str, float | None]) -> None:
        """Continue from :meth:`state_dict`.

        Raises:
            ValueError: a number is missing or out of range; nothing was changed.
        """
        if set(state) != {"damping", "growth", "num_tries"}:
            raise ValueError(f"state must have damping, growth and num_tries, got {sorted(state)}")
        damping, growth, tries = state["damping"], state["growth"], state["num_tries"]
        if damping is not None:
            require_positive("damping", damping)
        require_positive("growth", growth)
        require_positive("growth - 1", float(growth or 0) - 1)
        require_integer("num_tries", tries, minimum=0)
        assert growth is not None
        assert tries is not None
        self._damping, self._growth, self.num_tries = damping, float(growth), int(tries)

    @torch.no_grad()
    def _set(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)


def damped_solution(matrix: Tensor, right: Tensor, damping: float) -> Tensor:
    """Return the x that minimizes ‖Ax − b‖² + λ‖x‖², without squaring the condition number of A."""
    if damping == 0:
        solution: Tensor = torch.linalg.pinv(matrix) @ right
        return solution
    size = matrix.shape[1]
    root = damping**0.5 * torch.eye(size, dtype=matrix.dtype, device=matrix.device)
    stacked = torch.cat([matrix, root]), torch.cat([right, right.new_zeros(size)])
    found: Tensor = torch.linalg.lstsq(stacked[0], stacked[1].unsqueeze(1)).solution
    return found.squeeze(1)
