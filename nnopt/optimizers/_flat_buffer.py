"""One buffer for all parameters and one for all gradients, so that a fused step walks a single tensor."""

import copy
from collections.abc import Callable
from typing import Any, NoReturn, cast

import torch
from torch import Tensor

from nnopt.checks import require_non_negative, require_one_of, require_same_shape, require_type

from ._buffer import Buffer
from ._lion import Lion
from ._optimizer import CheckedOptimizer, ParameterGroup, require_real, require_setting_names

__all__ = ["flat"]

# rules that treat every number alone: one long parameter walks as its pieces would
_ELEMENTWISE = [
    *(torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad, torch.optim.Adadelta),
    *(torch.optim.Adamax, torch.optim.NAdam, torch.optim.RAdam, torch.optim.RMSprop, torch.optim.Rprop, Lion),
]
# what their states hold once for a whole parameter, and not for each of its numbers
_ONE_FOR_ALL = ("step", "mu_product")


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
            RMSprop, Rprop or :class:`Lion`; best with ``fused=True``, new or in the middle of a run. It is taken over
            and refuses to step: use what is returned instead, also for schedulers, which are made after it.

    Returns:
        An optimizer over the same parameters and groups. Its ``step`` raises ``ValueError`` if a parameter has left
        the buffer (``model.to``), was unfrozen since, or some, but not all, have no gradient; nothing was changed then.

    Raises:
        TypeError: not an optimizer, or parameters are not dense real tensors.
        ValueError: another rule, a learning rate out of range, parameters of one group have taken different numbers
            of steps, or a scheduler or another flat optimizer holds the optimizer already.

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
    if optimizer.step is _refuse_to_step:
        raise ValueError("optimizer must not be in a flat optimizer yet, got one that is: use that")
    return _Flat(optimizer)


class _Flat(torch.optim.Optimizer):
    """What :func:`flat` returns: groups of the model's parameters outside, an optimizer of long tensors inside."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        for group in inner.param_groups:
            require_real(group["params"])
            require_non_negative("lr", group["lr"])
            _require_alike(group["params"], inner.state)
        self._inner = inner
        self._buffers: list[list[Buffer]] = []
        self._frozen: list[Tensor] = []
        self._is_complete = False
        groups, states = inner.param_groups, inner.state
        inner.param_groups, inner.state = [], type(states)(states.default_factory)
        super().__init__(groups, dict(inner.defaults))
        self._is_complete = True
        self.state.update(states)
        self._give_states()
        self._step_inside, inner.step = inner.step, _refuse_to_step  # type: ignore[method-assign]

    def add_param_group(self, param_group: ParameterGroup) -> None:
        """Add parameters with settings of their own, in buffers of their own.

        Raises:
            ValueError: a key that is no setting, or what the optimizer inside refuses; nothing was changed.
            TypeError: parameters are not dense real tensors.
        """
        given = param_group["params"]
        group = {**param_group, "params": [given] if isinstance(given, Tensor) else list(given)}
        if self._is_complete:  # schedulers have left keys of their own in the groups that were there before
            for name in group:
                require_one_of("key of a parameter group", name, [*self._inner.defaults, *_OUTSIDE])
        members = [member[1] if isinstance(member, tuple) else member for member in group["params"]]
        require_real(members)
        require_non_negative("lr", group.get("lr", self.defaults["lr"]))
        super().add_param_group(group)
        outer = self.param_groups[-1]
        apart: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        for parameter in outer["params"]:
            if parameter.requires_grad:
                apart.setdefault((parameter.device, parameter.dtype), []).append(parameter)
        try:
            buffers = [Buffer.of(parameters) for parameters in apart.values()]
            self._inner.add_param_group({**self._settings_of(outer), "params": [buffer.whole for buffer in buffers]})
        except BaseException:
            self.param_groups.pop()
            raise
        for buffer in buffers:
            buffer.fill()
        self._buffers.append(buffers)
        # those stay where they are
        self._frozen += [parameter for parameter in outer["params"] if not parameter.requires_grad]

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
        found = [(buffer, buffer.elsewhere()) for buffer in self._every_buffer()]
        for buffer, elsewhere in found:
            buffer.whole.grad = None if elsewhere is None else buffer.gradient
            for index in elsewhere or ():
                buffer.gradients[index].copy_(cast(Tensor, buffer.parameters[index].grad))
        for outer, inner in zip(self.param_groups, self._inner.param_groups, strict=True):
            inner.update(self._settings_of(outer))
        if not torch.compiler.is_compiling():  # the parts of a buffer do not see what is written into the whole
            for buffer, _ in found:
                torch.autograd.graph.increment_version(buffer.parameters)
        self._step_inside()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the checkpoint that the plain optimizer would return; its tensors are copies."""
        self._take_states(torch.clone)
        saved = super().state_dict()
        for buffer in self._every_buffer():  # frozen parameters keep theirs
            for parameter in buffer.parameters:
                self.state.pop(parameter, None)
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the checkpoint of a plain or of a flat optimizer.

        Raises:
            ValueError: groups of another rule or other sizes, a learning rate out of range, states of other shapes, or
                parameters of one group with different numbers of steps; nothing was changed.
        """
        checked = self._inner if isinstance(self._inner, CheckedOptimizer) else None
        for group in state_dict["param_groups"]:
            require_setting_names(group, self._inner.defaults)
            require_non_negative("lr", group["lr"])
            if checked is not None:
                checked._require_settings(group)
        ids = iter(key for group in state_dict["param_groups"] for key in group["params"])
        for group in self.param_groups:
            named = {parameter: next(ids, None) for parameter in group["params"]}
            states = {p: state_dict["state"][key] for p, key in named.items() if key in state_dict["state"]}
            _require_alike(group["params"], states)
            for parameter, state in states.items():
                if checked is not None:
                    checked._require_state(parameter, state)
                for name, value in state.items():
                    if isinstance(value, Tensor) and name not in _ONE_FOR_ALL:
                        require_same_shape("parameter", parameter, name, value)
        super().load_state_dict(state_dict)
        self._give_states()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take states and groups; torch adds a default, which is a setting inside only if it is one already."""
        super().__setstate__(state)
        self.defaults = dict(self._inner.defaults)

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

    def _every_buffer(self) -> list[Buffer]:
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

    def _settings_of(self, group: ParameterGroup) -> ParameterGroup:
        """Return what the inner optimizer knows of a group: not what schedulers note there."""
        return {name: group[name] for name in self._inner.defaults}

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


# keys of a group that are no settings
_OUTSIDE = ("params", "param_names", "initial_lr")


def _refuse_to_step(closure: object = None) -> NoReturn:
    raise RuntimeError("step must be of the flat optimizer, got the one that it has taken over")


def _require_alike(parameters: list[Tensor], states: Any) -> None:
    """Refuse states that one long parameter cannot have: of some parameters only, or of different ages."""
    found = [states.get(parameter) or {} for parameter in parameters if parameter.requires_grad]
    ages = {(bool(state), *(float(state[name]) for name in _ONE_FOR_ALL if name in state)) for state in found}
    if len(ages) > 1:
        raise ValueError(f"parameters of one group must have taken equally many steps, got states {sorted(ages)}")
