"""The class of sharpness-aware minimization, around any optimizer."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nnopt.checks import require_non_negative, require_type

from ._optimizer import ParameterGroup
from .sharpness import sharpness_perturbation

__all__ = ["SharpnessAware"]


class SharpnessAware(torch.optim.Optimizer):
    """Sharpness-aware minimization (SAM): a base optimizer steps with the gradient of the worst point nearby.

    Every step computes two gradients, so a run costs twice as much. The base optimizer is not changed: groups,
    state, checkpoints, schedules and, of a schedule-free one, ``averaged()`` are the base's own.

    Args:
        base: makes the step; any optimizer of torch or of this room whose ``step`` needs no closure.
        radius: ρ of the ball, at least 0; 0 takes the base's steps, with one gradient.
        adaptive: a ball of relative changes of the weights (ASAM); needs a radius about ten times as large.

    Raises:
        ValueError: ``radius`` is negative or NaN.
        TypeError: ``base`` is no optimizer, or one that needs a closure.

    Convention:
        ``step(closure)`` calls the closure twice, as ``nnopt.training.fit`` and ``torch.optim.LBFGS`` do: it clears
        the gradients, computes the loss on the same batch, calls ``backward`` and returns the loss. Gradients stay
        as the second call leaves them. BatchNorm's running statistics see both calls, and dropout draws twice.
        ``GradScaler`` refuses closures, here as elsewhere.

    Source:
        Foret et al. (2021), algorithm 1.

    Example:
        >>> weight = torch.ones(1, requires_grad=True)
        >>> optimizer = SharpnessAware(torch.optim.SGD([weight], lr=0.25), radius=0.5)
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = weight.square().sum()
        ...     loss.backward()
        ...     return loss
        >>> optimizer.step(closure).item(), weight.item()  # the gradient is 2 (1 + 0.5)
        (1.0, 0.25)
    """

    base: torch.optim.Optimizer
    radius: float
    adaptive: bool
    _origins: list[Tensor]

    def __init__(self, base: torch.optim.Optimizer, *, radius: float, adaptive: bool = False) -> None:
        require_type("base", base, torch.optim.Optimizer)
        if isinstance(base, (torch.optim.LBFGS, SharpnessAware)):
            raise TypeError(f"base must step without a closure, got {type(base).__name__}")
        require_non_negative("radius", radius)
        require_type("adaptive", adaptive, bool)
        self._warned_capturable_if_run_uncaptured = True
        self.__setstate__({"base": base, "radius": radius, "adaptive": adaptive, "_origins": []})

    # what schedulers, and whoever looks, should see is the base's own, also after the base has replaced it
    param_groups = property(lambda self: self.base.param_groups)
    state = property(lambda self: self.base.state)
    defaults = property(lambda self: self.base.defaults)
    averaged = property(lambda self: self.base.averaged)  # only of a schedule-free base

    def add_param_group(self, param_group: ParameterGroup) -> None:
        """Add parameters to the base optimizer."""
        self.base.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """Return the checkpoint of the base optimizer; radius and ``adaptive`` are yours to give again."""
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a checkpoint of the base optimizer, also one that was trained without this class."""
        self.base.load_state_dict(state_dict)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients, as the base optimizer does it."""
        self.base.zero_grad(set_to_none)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Go to the worst point nearby, take the gradient there, come back, and let the base optimizer step.

        Args:
            closure: clears the gradients, computes the loss, calls ``backward``, and returns the loss.

        Returns:
            The loss before the step, at the parameters themselves.

        Raises:
            ValueError: there is no closure.
            TypeError: a gradient is sparse. After every error parameters are where they were.
        """
        if closure is None:
            raise ValueError("closure must be given: two gradients are needed, at two places, got None")
        with torch.enable_grad():
            loss = closure()
        parameters, gradients = self._with_gradients()
        if parameters and self.radius > 0:
            ways = sharpness_perturbation(parameters, gradients, radius=self.radius, adaptive=self.adaptive)
            self._keep(parameters)
            try:
                torch._foreach_add_(parameters, ways)
                with torch.enable_grad():
                    closure()
            finally:
                torch._foreach_copy_(parameters, self._origins)
        self.base.step()
        return loss

    def _with_gradients(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the parameters that have gradients, and these in the direction in which the goal gets worse."""
        parameters: list[Tensor] = []
        gradients: list[Tensor] = []
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                if gradient.layout is not torch.strided:
                    raise TypeError(f"gradients must be dense, got layout {gradient.layout}")
                parameters.append(parameter)
                gradients.append(-gradient if group.get("maximize") else gradient)
        return parameters, gradients

    def _keep(self, parameters: list[Tensor]) -> None:
        """Copy the parameters, into the memory of the last step where it fits."""
        fits = len(self._origins) == len(parameters) and all(
            kept.shape == parameter.shape and kept.dtype == parameter.dtype and kept.device == parameter.device
            for kept, parameter in zip(self._origins, parameters, strict=True)
        )
        if fits:
            torch._foreach_copy_(self._origins, parameters)
        else:
            self._origins = [parameter.detach().clone() for parameter in parameters]

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs."""
        return {"base": self.base, "radius": self.radius, "adaptive": self.adaptive, "_origins": []}
