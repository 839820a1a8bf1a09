"""The classes of Shampoo and SOAP, equal to their pure steps, with parameters of equal shape in one batch."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from nnopt.checks import require_fraction, require_integer, require_non_negative

from ._checks import require_betas, require_range
from ._optimizer import (
    CheckedOptimizer,
    ParameterGroup,
    Parameters,
    StateForm,
    require_count,
    require_flag,
    require_optional_flag,
)
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

    def _shapes(self, parameter: Tensor) -> dict[str, tuple[int, ...]]:
        """Return the states of the pure step, in their order, with their shapes after the first step."""
        raise NotImplementedError

    def _state_forms(self, parameter: Tensor) -> Sequence[StateForm]:
        return [{**self._shapes(parameter), "step": require_count}]

    def _require_parameter(self, name: str, parameter: Tensor, settings: Mapping[str, Any]) -> None:
        super()._require_parameter(name, parameter, settings)
        require_range(name, parameter)

    @_disable_dynamo  # the counts are numbers: compiled, it would be compiled anew at every step
    def _update(self, group: ParameterGroup, parameters: list[Tensor], gradients: list[Tensor]) -> None:
        settings = {name: group[name] for name in self.CHECKS if name not in ("maximize", "foreach")}
        if isinstance(settings["lr"], Tensor):
            settings["lr"] = settings["lr"].item()
        together: dict[tuple[torch.Size, int, int], list[int]] = {}
        for i, parameter in enumerate(parameters):
            if parameter.numel():
                step = self.state[parameter]["step"] + 1 if self.state.get(parameter) else 1
                apart = i if group["foreach"] is False or parameter.numel() > _SMALL else -1
                together.setdefault((parameter.shape, step, apart), []).append(i)
        for (_, step, _), places in together.items():
            self._move([parameters[i] for i in places], [gradients[i] for i in places], step=step, **settings)

    def _move(self, parameters: list[Tensor], gradients: list[Tensor], *, step: int, **settings: Any) -> None:
        columns = [parameters, gradients]
        shapes = self._shapes(parameters[0])
        for name, shape in shapes.items():
            if step > 1:
                columns.append([self.state[parameter][name] for parameter in parameters])
            else:  # zeros in the shape of the parameter; the others get theirs from the first step
                is_alike = shape == parameters[0].shape
                columns.append([torch.zeros_like(p) if is_alike else p.new_zeros(0) for p in parameters])
        copies = len(parameters) > 1
        arguments = [torch.stack(column) if copies else column[0] for column in columns]
        new, *new_states = type(self).STEP(*arguments, copies=copies, step=step, **settings)
        torch._foreach_copy_(parameters, list(new) if copies else [new])
        states = [self.state[parameter] for parameter in parameters]
        for name, value in zip(shapes, new_states, strict=True):
            for state, one in zip(states, value if copies else [value], strict=True):
                # a part of a batch would keep all of it in memory
                state[name] = one.clone() if copies else one
        for state in states:
            state["step"] = step


def _sides(parameter: Tensor) -> list[tuple[int, int]]:
    """Return the shapes of sums over the columns and over the rows of a matrix."""
    rows = parameter.shape[0]
    columns = math.prod(parameter.shape[1:])
    return [(rows, rows), (columns, columns)]


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
        TypeError: a parameter is complex, an integer, sparse, or float16, in which sums of squares overflow.

    Convention:
        State: ``step``, ``left``, ``right``, ``left_root``, ``right_root``: for an (m, n) matrix 2 (m² + n²)
        numbers, so that long sides, as of a large vocabulary, belong to another optimizer. Inside ``torch.compile``
        the update runs as it is.

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

    def _shapes(self, parameter: Tensor) -> dict[str, tuple[int, ...]]:
        names = ("left", "right", "left_root", "right_root")
        if parameter.ndim < 2:  # the step of AdaGrad, with its total in the first
            return {**dict.fromkeys(names, (0,)), "left": parameter.shape}
        return dict(zip(names, _sides(parameter) * 2, strict=True))


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
        TypeError: a parameter is complex, an integer, sparse, or float16, in which sums of squares overflow.

    Convention:
        The first step of a matrix finds its coordinates and moves nothing. State: ``step``, ``exp_avg``,
        ``exp_avg_sq``, ``left``, ``right``, ``left_basis``, ``right_basis``: for an (m, n) matrix
        2 mn + 2 (m² + n²) numbers. Inside ``torch.compile`` the update runs as it is.

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

    def _shapes(self, parameter: Tensor) -> dict[str, tuple[int, ...]]:
        names = ("left", "right", "left_basis", "right_basis")
        sides = [(0,)] * 4 if parameter.ndim < 2 else _sides(parameter) * 2  # a vector gets the step of Adam
        moments = dict.fromkeys(("exp_avg", "exp_avg_sq"), parameter.shape)
        return {**moments, **dict(zip(names, sides, strict=True))}
