"""One buffer for all parameters and one for all gradients, so that a fused step walks a single tensor."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from nnopt.checks import require_one_of, require_same_shape, require_type

from ._lion import Lion
from ._optimizer import ParameterGroup, require_real, require_setting_names

__all__ = ["flat"]

# rules that treat every number alone: one long parameter walks as its pieces would
_ELEMENTWISE = [
    *(torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad, torch.optim.Adadelta),
    *(torch.optim.Adamax, torch.optim.NAdam, torch.optim.RAdam, torch.optim.RMSprop, torch.optim.Rprop, Lion),
]
# what their states hold once for a whole parameter, and not for each of its numbers
_ONE_FOR_ALL = ("step", "mu_product")
# every piece starts at a multiple of this many numbers, so that vector instructions find it aligned
_ALIGNMENT = 16


def flat(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    r"""Move the optimizer's parameters and gradients into one buffer each, and step on the buffers.

    A step over a hundred small tensors spends its time between them. The parameters stay the same objects, with the
    same shapes and values: ``model``, ``model.state_dict()`` and the optimizer's own checkpoints do not show the
    difference and can be exchanged with those of the plain optimizer. Settings, schedules, ``GradScaler`` and
    in-place clipping work as before.

    Convention:
        Gradients live in the buffer, so ``zero_grad`` fills them with zeros in place, whatever ``set_to_none`` says;
        a parameter that the loss does not reach counts as one with a gradient of zero, as torch's with
        ``set_to_none=False``. Move the model to its device and dtype first.

    Args:
        optimizer: of a rule that treats every number alone: SGD, Adam, AdamW, Adagrad, Adadelta, Adamax, NAdam, RAdam,
            RMSprop, Rprop or :class:`Lion`; best with ``fused=True``, new or in the middle of a run. It is taken over:
            use what is returned instead, also for schedulers, which are made after it.

    Returns:
        An optimizer over the same parameters and groups. Its ``step`` raises ``ValueError`` if a parameter has left
        the buffer (``model.to``), was unfrozen since, or some, but not all, have no gradient; nothing was changed then.

    Raises:
        TypeError: not an optimizer, or parameters are not dense real tensors.
        ValueError: another rule, parameters of one group have taken different numbers of steps, or a scheduler holds
            the optimizer already.

    Example:
        >>> weight = torch.ones(3, requires_grad=True)
        >>> optimizer = flat(torch.optim.AdamW([weight], lr=0.1, weight_decay=0.0, fused=True))
        >>> weight.sum().backward()
        >>> optimizer.step()
        >>> weight.detach()
        tensor([0.9000, 0.9000, 0.9000])
    """
    require_type("optimizer", optimizer, torch.optim.Optimizer)
    require_one_of("class of optimizer", type(optimizer), _ELEMENTWISE)
    if hasattr(optimizer.step, "_wrapped_by_lr_sched"):
        raise ValueError("optimizer must have no scheduler yet, got one: make it of the flat optimizer")
    return _Flat(optimizer)


@dataclass
class _Buffer:
    """Parameters of one group, device and dtype, in one tensor, and their gradients in another."""

    parameters: list[Tensor]
    whole: Tensor
    gradient: Tensor
    gradients: list[Tensor]
    addresses: list[int]

    def cut(self, whole: Tensor) -> list[Tensor]:
        """Return the pieces of a tensor as long as the buffer, in the shapes of the parameters."""
        pieces, start = [], 0
        for parameter in self.parameters:
            pieces.append(whole[start : start + parameter.numel()].view(parameter.shape))
            start += _padded(parameter)
        return pieces


def _padded(parameter: Tensor) -> int:
    return -(-parameter.numel() // _ALIGNMENT) * _ALIGNMENT


def _buffer(parameters: list[Tensor]) -> _Buffer:
    size = sum(map(_padded, parameters))
    whole = torch.zeros(size, dtype=parameters[0].dtype, device=parameters[0].device)
    buffer = _Buffer(parameters, whole, torch.zeros_like(whole), [], [])
    buffer.gradients = buffer.cut(buffer.gradient)
    for parameter, piece, gradient in zip(parameters, buffer.cut(whole), buffer.gradients, strict=True):
        piece.copy_(parameter.detach())
        parameter.data = piece
        if parameter.grad is not None:
            gradient.copy_(parameter.grad)
            parameter.grad = gradient
    buffer.addresses = [parameter.data_ptr() for parameter in parameters]
    return buffer


class _Flat(torch.optim.Optimizer):
    """What :func:`flat` returns: groups of the model's parameters outside, an optimizer of long tensors inside."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        for group in inner.param_groups:
            require_real(group["params"])
            _require_alike(group["params"], inner.state)
        self._inner = inner
        self._buffers: list[list[_Buffer]] = []
        self._frozen: list[Tensor] = []
        self._is_complete = False
        groups, states = inner.param_groups, inner.state
        inner.param_groups, inner.state = [], type(states)(states.default_factory)
        super().__init__(groups, inner.defaults)
        self._is_complete = True
        self.state.update(states)
        self._give_states()

    def add_param_group(self, param_group: ParameterGroup) -> None:
        """Add parameters with settings of their own, in buffers of their own."""
        given = param_group["params"]
        group = {**param_group, "params": [given] if isinstance(given, Tensor) else list(given)}
        if self._is_complete:  # schedulers have left keys of their own in the groups that were there before
            for name in group:
                require_one_of("key of a parameter group", name, [*self.defaults, *_OUTSIDE])
        members = [member[1] if isinstance(member, tuple) else member for member in group["params"]]
        require_real(members)
        super().add_param_group(group)
        apart: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        for parameter in self.param_groups[-1]["params"]:
            if parameter.requires_grad:
                apart.setdefault((parameter.device, parameter.dtype), []).append(parameter)
            else:  # stays where it is
                self._frozen.append(parameter)
        with torch.no_grad():
            self._buffers.append([_buffer(parameters) for parameters in apart.values()])
        settings = {name: value for name, value in self.param_groups[-1].items() if name not in _OUTSIDE}
        inner_group = {**settings, "params": [buffer.whole for buffer in self._buffers[-1]]}
        self._inner.add_param_group(inner_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Fill the gradients with zeros; they stay in the buffer, whatever ``set_to_none`` says."""
        for buffer in self._every_buffer():
            buffer.gradient.zero_()
            for parameter, gradient in zip(buffer.parameters, buffer.gradients, strict=True):
                if parameter.grad is not gradient:
                    parameter.grad = gradient

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all parameters by one step on their buffers."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if any(parameter.requires_grad for parameter in self._frozen):
            raise ValueError("parameters must stay frozen, got one unfrozen: make a new flat optimizer")
        found = [(buffer, _require_in_place(buffer)) for buffer in self._every_buffer()]
        for buffer, elsewhere in found:
            buffer.whole.grad = None if elsewhere is None else buffer.gradient
            for index in elsewhere or ():
                buffer.gradients[index].copy_(cast(Tensor, buffer.parameters[index].grad))
        for outer, inner in zip(self.param_groups, self._inner.param_groups, strict=True):
            inner.update({name: value for name, value in outer.items() if name not in _OUTSIDE})
        self._inner.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the checkpoint that the plain optimizer would return; its tensors are copies."""
        self._take_states(torch.clone)
        saved = super().state_dict()
        self.state.clear()
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the checkpoint of a plain or of a flat optimizer.

        Raises:
            ValueError: groups of another rule or other sizes, states of other shapes, or parameters of one group with
                different numbers of steps; nothing was changed.
        """
        for group in state_dict["param_groups"]:
            require_setting_names(group, self.defaults)
        ids = iter(key for group in state_dict["param_groups"] for key in group["params"])
        for group in self.param_groups:
            named = {parameter: next(ids, None) for parameter in group["params"]}
            states = {p: state_dict["state"][key] for p, key in named.items() if key in state_dict["state"]}
            _require_alike(group["params"], states)
            for parameter, state in states.items():
                for name, value in state.items():
                    if isinstance(value, Tensor) and name not in _ONE_FOR_ALL:
                        require_same_shape("parameter", parameter, name, value)
        super().load_state_dict(state_dict)
        self._give_states()

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Flat":
        """Return a flat optimizer over the copies of the parameters, with the same settings and states."""
        inner = copy.deepcopy(self._inner, memo)
        inner.param_groups = copy.deepcopy(self.param_groups, memo)  # of the copied model's parameters
        inner.state.clear()
        twin = memo[id(self)] = _Flat(inner)
        twin.load_state_dict(self.state_dict())
        return twin

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuse to be pickled: memory that is shared with a model cannot be."""
        raise TypeError("a flat optimizer must not be pickled: save its state_dict()")

    def _every_buffer(self) -> list[_Buffer]:
        return [buffer for buffers in self._buffers for buffer in buffers]

    def _give_states(self) -> None:
        """Move the states of the parameters into the inner optimizer."""
        for buffer in self._every_buffer():
            states = [self.state.pop(p) for p in buffer.parameters if self.state.get(p)]
            if not states:
                self._inner.state.pop(buffer.whole, None)
                continue
            whole: dict[str, Any] = {}
            for name, first in states[0].items():
                whole[name] = copy.deepcopy(first)
                if isinstance(first, Tensor) and name not in _ONE_FOR_ALL:
                    whole[name] = torch.zeros_like(buffer.whole, dtype=first.dtype)
                    for piece, state in zip(buffer.cut(whole[name]), states, strict=True):
                        piece.copy_(state[name])
            self._inner.state[buffer.whole] = whole
        self.state.clear()

    def _take_states(self, of: Callable[[Tensor], Tensor]) -> None:
        """Write the inner states as states of the single parameters."""
        for buffer in self._every_buffer():
            whole = self._inner.state.get(buffer.whole)
            if not whole:
                continue
            for parameter in buffer.parameters:
                self.state[parameter] = dict(whole)
            for name, value in whole.items():
                if isinstance(value, Tensor):
                    each = [value] * len(buffer.parameters) if name in _ONE_FOR_ALL else buffer.cut(value)
                    for parameter, piece in zip(buffer.parameters, each, strict=True):
                        self.state[parameter][name] = of(piece)


# keys of a group that the inner optimizer has for itself, or has no use for
_OUTSIDE = ("params", "param_names", "initial_lr")


def _require_alike(parameters: list[Tensor], states: Any) -> None:
    """Refuse states that one long parameter cannot have: of some parameters only, or of different ages."""
    found = [states.get(parameter) or {} for parameter in parameters if parameter.requires_grad]
    ages = {(bool(state), *(float(state[name]) for name in _ONE_FOR_ALL if name in state)) for state in found}
    if len(ages) > 1:
        raise ValueError(f"parameters of one group must have taken equally many steps, got states {sorted(ages)}")


def _require_in_place(buffer: _Buffer) -> list[int] | None:
    """Refuse parameters that left the buffer or that alone wait for a gradient.

    Returns:
        Which gradients lie elsewhere, or None if there is no gradient at all.
    """
    elsewhere, missing = [], 0
    for index, parameter in enumerate(buffer.parameters):
        if parameter.data_ptr() != buffer.addresses[index] and parameter.numel():
            raise ValueError(
                f"parameters must stay in the buffer, got parameter {index} of shape {tuple(parameter.shape)} "
                "elsewhere: move the model first and make the flat optimizer after it"
            )
        gradient = parameter.grad
        if gradient is not buffer.gradients[index]:
            elsewhere.append(index)
            missing += gradient is None
            if gradient is not None and gradient.layout is not torch.strided:
                raise TypeError(f"gradients must be dense, got layout {gradient.layout}")
    if 0 < missing < len(buffer.parameters):
        raise ValueError(
            f"all parameters must have a gradient, got {missing} of {len(buffer.parameters)} without: "
            "use zero_grad of the flat optimizer"
        )
    return None if missing else elsewhere
