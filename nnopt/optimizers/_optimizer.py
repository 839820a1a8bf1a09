"""What every optimizer class of this room does the same way: settings, groups, checkpoints and the order of a step."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias, overload

import torch
from torch import Tensor

from nnopt.checks import require_integer, require_non_negative, require_one_of, require_shape, require_type

__all__ = ["CheckedOptimizer", "ParameterGroup", "Parameters", "StateForm"]

Parameters: TypeAlias = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]
"""Tensors, pairs of a name and a tensor, or groups: dictionaries with ``params`` and settings of their own."""

ParameterGroup: TypeAlias = dict[str, Any]
"""One of ``optimizer.param_groups``."""

StateForm: TypeAlias = Mapping[str, tuple[int, ...] | Callable[[str, Any], None]]
"""Name of a state -> the shape of a tensor, or a check of a number."""

# what torch adds to a group, beside the settings: names of parameters; a scheduler's mark to start again from
_OTHER_KEYS = {"params", "param_names", "initial_lr"}


class CheckedOptimizer(torch.optim.Optimizer):
    """An optimizer that refuses what it does not know before it changes anything.

    A class names its settings with a check for each in ``CHECKS``, says in ``_state_forms`` what it remembers of a
    parameter, and writes ``_update``. It need not think of unknown keys in a group, of values out of range at
    construction, in ``add_param_group``, in a checkpoint or, for ``lr``, at a step, of checkpoints of another rule or
    of other shapes, of sparse and complex tensors, of ``maximize``, of closures, of autograd's version counters, or
    of a learning rate shared by two optimizers.

    Args:
        params: see :data:`Parameters`.
        settings: defaults of all groups, one for each name in ``CHECKS``.

    Raises:
        ValueError: a setting is out of range or NaN, a group has an unknown key, a parameter repeats.
        TypeError: a parameter is complex, an integer or sparse.
    """

    CHECKS: ClassVar[Mapping[str, Callable[[str, Any], None]]]

    def __init__(self, params: Parameters, settings: dict[str, Any]) -> None:
        self._require_settings(settings)
        super().__init__(params, settings)

    def add_param_group(self, param_group: ParameterGroup) -> None:
        """Add parameters with settings of their own; the dictionary itself is left as it is.

        Raises:
            ValueError: as at construction.
            TypeError: as at construction.
        """
        require_type("param_group", param_group, dict)
        if "params" not in param_group:
            raise ValueError(f"param_group must have params, got {sorted(param_group)}")
        given = param_group["params"]
        # a list, since a generator can be read only once; a set is left to torch, which refuses it
        group = {**param_group, "params": given if isinstance(given, (Tensor, set)) else list(given)}
        for name in group:
            require_one_of("key of a parameter group", name, [*self.CHECKS, *sorted(_OTHER_KEYS)])
        self._require_settings({**self.defaults, **group})
        members = [given] if isinstance(given, Tensor) else group["params"]
        tensors = []
        for member in members:
            name, tensor = member if isinstance(member, tuple) else ("", member)
            tensors.append(tensor)
            if isinstance(tensor, Tensor):  # what is none is left to torch
                self._require_parameter(f"params {name}".rstrip(), tensor, {**self.defaults, **group})
        if len(tensors) != len({id(tensor) for tensor in tensors}):
            raise ValueError("params must not repeat a parameter in one group")
        for name, default in self.defaults.items():
            value = group.setdefault(name, default)
            if isinstance(value, Tensor):  # a scheduler writes into it: each group has its own
                group[name] = value.detach().clone()
        super().add_param_group(group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the state of a copy or a checkpoint, with the same checks as at construction, or change nothing."""
        for group in state["param_groups"]:
            require_setting_names(group, self.CHECKS)
            self._require_settings(group)
            for parameter in group["params"]:
                self._require_state(parameter, state["state"].get(parameter))
        super().__setstate__(state)
        self.defaults = {name: self.defaults[name] for name in self.CHECKS}  # torch adds one that we do not know

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient; gradients are left as they are.

        Args:
            closure: computes gradients anew and returns the loss.

        Returns:
            What the closure returned.

        Raises:
            TypeError: a gradient is sparse or of another dtype than its parameter; nothing was changed.
            ValueError: the learning rate of a group is negative, NaN or infinite by now; nothing was changed.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # every rate and every gradient is looked at before the first parameter moves
        is_compiling = torch.compiler.is_compiling()
        for group in self.param_groups:
            lr = group["lr"]
            is_elsewhere = is_compiling or (isinstance(lr, Tensor) and lr.device.type != "cpu")
            if not (is_elsewhere or (type(lr) is float and 0.0 <= lr < math.inf)):
                require_non_negative("lr", lr)
        ready = [(group, *kind) for group in self.param_groups for kind in _with_gradients(group["params"])]
        for group, parameters, gradients in ready:
            if not is_compiling:  # fused kernels do not tell autograd what they have written into
                torch.autograd.graph.increment_version(parameters)
            ascent = group["maximize"]
            self._update(group, parameters, list(torch._foreach_neg(gradients)) if ascent else gradients)
        return loss

    def _update(self, group: ParameterGroup, parameters: list[Tensor], gradients: list[Tensor]) -> None:
        """Move parameters of one group, one device and one dtype; the gradients must stay as they are."""
        raise NotImplementedError

    def _state_forms(self, parameter: Tensor) -> Sequence[StateForm]:
        """Return what may be remembered of a parameter that has moved: one of these forms, whole."""
        raise NotImplementedError

    def _require_parameter(self, name: str, parameter: Tensor, settings: Mapping[str, Any]) -> None:
        """Refuse a parameter that the rule cannot move with these settings."""
        require_real([parameter])

    def _require_settings(self, settings: Mapping[str, Any]) -> None:
        for name, check in self.CHECKS.items():
            check(name, settings[name])

    def _require_state(self, parameter: Tensor, state: Mapping[str, Any] | None) -> None:
        """Refuse what another rule, or a parameter of another shape, has left."""
        if not state:
            return
        forms = self._state_forms(parameter)
        known = [form for form in forms if form.keys() == state.keys()]
        if not known:
            names = " or ".join(", ".join(form) for form in forms)
            raise ValueError(f"state of a parameter must be {names}, got {', '.join(map(str, state))}")
        for name, wanted in known[0].items():
            if callable(wanted):
                wanted(name, state[name])
            else:
                require_type(name, state[name], Tensor)
                require_shape(name, state[name], tuple(wanted))


def _with_gradients(parameters: list[Tensor]) -> list[tuple[list[Tensor], list[Tensor]]]:
    """Return parameters and their gradients, apart by device and dtype, or refuse a gradient."""
    with_gradient: list[Tensor] = []
    gradients: list[Tensor] = []
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is not None:
            with_gradient.append(parameter)
            gradients.append(gradient)
    if not gradients:
        return []
    if [gradient.layout for gradient in gradients].count(torch.strided) < len(gradients):
        raise TypeError(f"gradients must be dense, got layouts {sorted({str(g.layout) for g in gradients})}")
    dtypes = [gradient.dtype for gradient in gradients]
    if [parameter.dtype for parameter in with_gradient] != dtypes:
        raise TypeError(f"gradients must have the dtype of their parameters, got {sorted(map(str, set(dtypes)))}")
    devices = list(map(Tensor.get_device, gradients))
    if dtypes.count(dtypes[0]) == devices.count(devices[0]) == len(gradients):
        return [(with_gradient, gradients)]
    apart: dict[tuple[int, torch.dtype], tuple[list[Tensor], list[Tensor]]] = {}
    for parameter, gradient, device, dtype in zip(with_gradient, gradients, devices, dtypes, strict=True):
        members = apart.setdefault((device, dtype), ([], []))
        members[0].append(parameter)
        members[1].append(gradient)
    return list(apart.values())


def require_real(tensors: Iterable[object]) -> None:
    """Refuse parameters that are complex, integers or sparse; what is no tensor is left to torch."""
    for tensor in tensors:
        if isinstance(tensor, Tensor) and not (tensor.is_floating_point() and tensor.layout is torch.strided):
            raise TypeError(f"params must be dense and real, got {tensor.dtype} in layout {tensor.layout}")


def require_setting_names(group: ParameterGroup, names: Iterable[str]) -> None:
    """Refuse a group of a checkpoint that lacks a setting: it is another rule's."""
    missing = [name for name in names if name not in group]
    if missing:
        raise ValueError(f"checkpoint must have the setting {missing[0]!r}, got {sorted(group)}")


def require_count(name: str, value: object) -> None:
    """Refuse what is no number of steps."""
    require_integer(name, value, minimum=0)


def require_flag(name: str, value: object) -> None:
    """Refuse what is neither True nor False."""
    require_type(name, value, bool)


def require_optional_flag(name: str, value: object) -> None:
    """Refuse what is neither True, False nor None."""
    require_type(name, value, (bool, type(None)))
