"""A model that refuses to be evaluated while its parameters are those that schedule-free training runs with."""

import weakref

import torch
from torch import nn

__all__ = ["guard_model"]


def guard_model(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Let ``model`` run in evaluation mode only while ``optimizer._is_averaged``, as long as that optimizer lives.

    It takes the place of guards whose optimizer is gone, or steps parameters that this one steps from now on.
    """
    mine = _parameters_of(optimizer)
    for key, hook in list(model._forward_pre_hooks.items()):
        other = hook.optimizer() if isinstance(hook, _Guard) else None
        if isinstance(hook, _Guard) and (other is None or mine & _parameters_of(other)):
            del model._forward_pre_hooks[key]
    model.register_forward_pre_hook(_Guard(model, optimizer))


class _Guard:
    """Refuses the evaluation of one model, not of its copies, while its parameters are those of training."""

    def __init__(self, model: nn.Module | None, optimizer: torch.optim.Optimizer | None) -> None:
        self._model = None if model is None else weakref.ref(model)
        self._optimizer = None if optimizer is None else weakref.ref(optimizer)

    def optimizer(self) -> torch.optim.Optimizer | None:
        """Return the optimizer that decides, if it lives."""
        return None if self._optimizer is None else self._optimizer()

    def __call__(self, module: nn.Module, inputs: object) -> None:
        optimizer = self.optimizer()
        is_mine = self._model is not None and self._model() is module
        if optimizer is not None and is_mine and not module.training and not getattr(optimizer, "_is_averaged", True):
            raise RuntimeError(
                "evaluation must be inside `with optimizer.averaged():`, got weights of schedule-free training"
            )

    def __reduce__(self) -> tuple[type["_Guard"], tuple[None, None]]:
        return _Guard, (None, None)


def _parameters_of(optimizer: torch.optim.Optimizer) -> set[int]:
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
