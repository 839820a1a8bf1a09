"""The class of Lion, equal to :func:`nnopt.optimizers.lion_step`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from nnopt.checks import require_non_negative

from ._checks import require_betas
from ._fused import alike, descend
from ._optimizer import (
    CheckedOptimizer,
    ParameterGroup,
    Parameters,
    StateForm,
    require_flag,
    require_optional_flag,
)
from .adaptive import lion_step

__all__ = ["Lion"]


class Lion(CheckedOptimizer):
    """Lion: every coordinate moves by the learning rate, in the direction of the sign of an average.

    Args:
        params: tensors, named tensors, or groups with settings of their own.
        lr: learning rate η, at least 0; a number, or a tensor of one number, which is copied.
        betas: β₁ of the step and β₂ of the memory, each in [0, 1).
        weight_decay: λ, at least 0, decoupled: parameters shrink by ηλ.
        maximize: climb instead of descend.
        foreach: True updates many tensors in one call, False one by one by the pure step, None as fast as it can:
            on a CPU with torch's fused kernels of SGD, whose steps differ from the others' by rounding.

    Raises:
        ValueError: a setting is out of range or NaN, a group has an unknown key, a parameter repeats.
        TypeError: a parameter is complex, an integer or sparse.

    Convention:
        Use a third to a tenth of AdamW's learning rate, and as much more decay. The state, ``exp_avg``, is one
        tensor in the parameter's dtype: half of AdamW's. A coordinate whose average is exactly 0 stays.

    Source:
        Chen et al. (2023), algorithm 2.

    Example:
        >>> weight = torch.ones(2, requires_grad=True)
        >>> optimizer = Lion([weight], lr=0.25)
        >>> (weight[0] * 1e-9 - weight[1] * 1e9).backward()
        >>> optimizer.step()
        >>> weight.tolist()
        [0.75, 1.25]
    """

    CHECKS: ClassVar[Mapping[str, Callable[[str, Any], None]]] = {
        "lr": require_non_negative,
        "betas": lambda name, value: require_betas(value),
        "weight_decay": require_non_negative,
        "maximize": require_flag,
        "foreach": require_optional_flag,
    }

    def __init__(
        self,
        params: Parameters,
        lr: float | Tensor = 1e-4,
        *,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        maximize: bool = False,
        foreach: bool | None = None,
    ) -> None:
        settings = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize, "foreach": foreach}
        super().__init__(params, settings)

    def _state_forms(self, parameter: Tensor) -> Sequence[StateForm]:
        return [{"exp_avg": parameter.shape}]

    def _update(self, group: ParameterGroup, parameters: list[Tensor], gradients: list[Tensor]) -> None:
        state = self.state
        try:
            averages: list[Tensor] = [state[parameter]["exp_avg"] for parameter in parameters]
        except KeyError:  # some have not moved yet
            for parameter in parameters:
                state[parameter].setdefault("exp_avg", torch.zeros_like(parameter))
            averages = [state[parameter]["exp_avg"] for parameter in parameters]
        lr, (beta1, beta2), decay = group["lr"], group["betas"], group["weight_decay"]
        if isinstance(lr, Tensor) and lr.device.type == "cpu" and not torch.compiler.is_compiling():
            lr = lr.item()
        if group["foreach"] is False:
            for parameter, gradient, average in zip(parameters, gradients, averages, strict=True):
                new = lion_step(parameter, gradient, average, lr=lr, betas=(beta1, beta2), weight_decay=decay)
                torch._foreach_copy_([parameter, average], list(new))
            return
        is_fused = group["foreach"] is None and not isinstance(lr, Tensor) and alike(parameters, gradients, averages)
        # in half precision, or with a small β₁, the memory would lose digits on its way there and back
        if is_fused and parameters[0].dtype in (torch.float32, torch.float64) and 0.5 <= beta1 != beta2:
            # only the sign of the average counts, and m' = m + (1−β₁)/β₁ g has it: m' takes the place of m while its
            # sign is taken, and β₂ m' + (1 − β₂/β₁) g is the new m; two cheap passes in place of two dear ones
            descend(averages, gradients, lr=(1 - beta1) / beta1, decay=0.0, ascent=True)
            directions = list(torch._foreach_sign(averages))
            rest = 1 - beta2 / beta1
            descend(averages, gradients, lr=-rest, decay=(beta2 - 1) / rest, ascent=False)
            descend(parameters, directions, lr=lr, decay=decay, ascent=False)
            return
        directions = list(torch._foreach_lerp(averages, gradients, 1 - beta1))
        torch._foreach_sign_(directions)
        torch._foreach_lerp_(averages, gradients, 1 - beta2)
        if decay != 0:
            torch._foreach_mul_(parameters, 1 - lr * decay)
        if isinstance(lr, Tensor):  # on a GPU, or compiled: the number is not known here
            torch._foreach_mul_(directions, lr)
            torch._foreach_sub_(parameters, directions)
        else:
            torch._foreach_add_(parameters, directions, alpha=-lr)
