"""The classes of Shampoo and SOAP, equal to their pure steps, with parameters of equal shape in one batch."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from nnopt.checks import require_fraction, require_integer, require_non_negative

from ._checks import require_betas
from ._optimizer import CheckedOptimizer, ParameterGroup, Parameters, require_flag, require_optional_flag
from ._preconditioned import shampoo_step, soap_step

__all__ = ["SOAP", "Shampoo"]


def _require_interval(name: str, value: object) -> None:
    require_integer(name, value, minimum=1)


def _require_memory(name: str, value: object) -> None:
    if value is not None:
        require_fraction(name, value, open_end=True)


# elements from which the copies of a batch cost more than its calls
_SMALL = 8192


class _ByShape(CheckedOptimizer):
    """Parameters of one shape that have taken equally many steps move together, by one call of a pure step."""

    STEP: ClassVar[Callable[..., tuple[Tensor, ...]]]
    # state -> whether it has the parameter's shape; the others get theirs from the first step
    STATES: ClassVar[Mapping[str, bool]]

    def _update(self, group: ParameterGroup, parameters: list[Tensor], gradients: list[Tensor]) -> None:
        settings = {name: group[name] for name in self.CHECKS if name not in ("maximize", "foreach")}
        if isinstance(settings["lr"], Tensor) and not torch.compiler.is_compiling():
            settings["lr"] = settings["lr"].item()
        together: dict[tuple[object, ...], list[int]] = {}
        for i, parameter in enumerate(parameters):
            if parameter.numel():
                state = self.state[parameter]
                state["step"] = state.get("step", 0) + 1
                apart = i if group["foreach"] is False or parameter.numel() > _SMALL else -1
                together.setdefault((parameter.shape, state["step"], apart), []).append(i)
        for (_, step, _), places in together.items():
            self._move([parameters[i] for i in places], [gradients[i] for i in places], step=step, **settings)

    def _move(self, parameters: list[Tensor], gradients: list[Tensor], **settings: Any) -> None:
        states = [self.state[parameter] for parameter in parameters]
        for parameter, state in zip(parameters, states, strict=True):
            for name, is_alike in self.STATES.items():
                if name not in state:
                    state[name] = torch.zeros_like(parameter) if is_alike else parameter.new_zeros(0)
        columns = [parameters, gradients, *([state[name] for state in states] for name in self.STATES)]
        copies = len(parameters) > 1
        arguments = [torch.stack(column) if copies else column[0] for column in columns]
        new, *new_states = type(self).STEP(*arguments, copies=copies, **settings)
        torch._foreach_copy_(parameters, list(new) if copies else [new])
        for name, value in zip(self.STATES, new_states, strict=True):
            for state, one in zip(states, value if copies else [value], strict=True):
                # a part of a batch would keep all of it in memory
                state[name] = one.clone() if copies else one


class Shampoo(_ByShape):
    """Shampoo: the sums of squares of rows and of columns, as matrices, divide the gradient from both sides.

    Args:
        params: tensors, named tensors, or groups with settings of their own. A kernel counts as a matrix (m,
            rest); a vector gets the step of AdaGrad.
        lr: learning rate η, at least 0; a number, or a tensor of one number, which is copied.
        eps: ε, at least 0: where the sums start.
        weight_decay: λ, at least 0, decoupled.
        precondition_every: the roots are computed at each of so many first steps, then at its multiples.
        maximize: climb instead of descend.
        foreach: False steps one by one by the pure step; True or None batch parameters of equal shape.

    Raises:
        ValueError: a setting is out of range or NaN, a group has an unknown key, a parameter repeats.
        TypeError: a parameter is complex, an integer or sparse.

    Convention:
        State: ``step``, ``left``, ``right``, ``left_root``, ``right_root``: for an (m, n) matrix 2 (m² + n²)
        numbers, so that long sides, as of a large vocabulary, belong to another optimizer.

    Source:
        Gupta, Koren and Singer (2018), algorithm 1.

    Example:
        >>> weight = torch.zeros(2, 2, requires_grad=True)
        >>> optimizer = Shampoo([weight], lr=0.5)
        >>> (4 * weight[0, 0] - 0.1 * weight[1, 1]).backward()
        >>> optimizer.step()
        >>> weight.diag().tolist()
        [-0.5, 0.49997...]
    """

    STEP = staticmethod(shampoo_step)
    STATES: ClassVar[Mapping[str, bool]] = dict.fromkeys(("left", "right", "left_root", "right_root"), False)
    CHECKS: ClassVar[Mapping[str, Callable[[str, Any], None]]] = {
        "lr": require_non_negative,
        "eps": require_non_negative,
        "weight_decay": require_non_negative,
        "precondition_every": _require_interval,
        "maximize": require_flag,
        "foreach": require_optional_flag,
    }

    def __init__(
        self,
        params: Parameters,
        lr: float | Tensor = 1e-3,
        *,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        precondition_every: int = 10,
        maximize: bool = False,
        foreach: bool | None = None,
    ) -> None:
        given = locals()
        super().__init__(params, {name: given[name] for name in self.CHECKS})


class SOAP(_ByShape):
    """SOAP: Adam in the coordinates in which Shampoo would divide.

    Args:
        params: tensors, named tensors, or groups with settings of their own. A kernel counts as a matrix (m,
            rest); a vector gets Adam's step.
        lr: learning rate η, at least 0; a number, or a tensor of one number, which is copied.
        betas: β₁ and β₂ of Adam, each in [0, 1).
        memory: β of the means of GGᵀ and GᵀG, in [0, 1); None for β₂.
        eps: ε, at least 0.
        weight_decay: λ, at least 0, decoupled.
        precondition_every: steps between two corrections of the coordinates.
        maximize: climb instead of descend.
        foreach: False steps one by one by the pure step; True or None batch parameters of equal shape.

    Raises:
        ValueError: a setting is out of range or NaN, a group has an unknown key, a parameter repeats.
        TypeError: a parameter is complex, an integer or sparse.

    Convention:
        The first step of a matrix finds its coordinates and moves nothing. State: ``step``, ``exp_avg``,
        ``exp_avg_sq``, ``left``, ``right``, ``left_basis``, ``right_basis``: for an (m, n) matrix
        2 mn + 2 (m² + n²) numbers.

    Source:
        Vyas et al. (2025), algorithm 3.

    Example:
        >>> weight = torch.zeros(2, 2, requires_grad=True)
        >>> optimizer = SOAP([weight], lr=0.5, weight_decay=0.0)
        >>> (4 * weight[0, 0] - 0.1 * weight[1, 1]).backward()
        >>> for _ in range(2): optimizer.step()
        >>> weight.diag()
        tensor([-0.5000,  0.5000], grad_fn=<DiagonalBackward0_copy>)
    """

    STEP = staticmethod(soap_step)
    STATES: ClassVar[Mapping[str, bool]] = {
        "exp_avg": True,
        "exp_avg_sq": True,
        **dict.fromkeys(("left", "right", "left_basis", "right_basis"), False),
    }
    CHECKS: ClassVar[Mapping[str, Callable[[str, Any], None]]] = {
        "lr": require_non_negative,
        "betas": lambda name, value: require_betas(value),
        "memory": _require_memory,
        "eps": require_non_negative,
        "weight_decay": require_non_negative,
        "precondition_every": _require_interval,
        "maximize": require_flag,
        "foreach": require_optional_flag,
    }

    def __init__(
        self,
        params: Parameters,
        lr: float | Tensor = 3e-3,
        *,
        betas: tuple[float, float] = (0.95, 0.95),
        memory: float | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        precondition_every: int = 10,
        maximize: bool = False,
        foreach: bool | None = None,
    ) -> None:
        given = locals()
        super().__init__(params, {name: given[name] for name in self.CHECKS})
