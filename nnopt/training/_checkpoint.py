"""The file in which :func:`fit` keeps a run: whole or absent, checked before anything is changed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nnopt.storage import load_state, save_state

__all__ = ["read_checkpoint", "require_matching", "write_checkpoint"]

_FORMAT = 2
_KEYS = frozenset(("format", "model", "optimizer", "base_lrs", "feed", "random", "history", "best", "waited", "hooks"))


def write_checkpoint(path: Path, state: Mapping[str, Any], *, step: int) -> None:
    """Write the state of a run.

    Raises:
        OSError: the disk refused; an older checkpoint at ``path`` is untouched.
    """
    try:
        save_state(path, {"format": _FORMAT, **state})
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(
            error.errno,
            f"checkpoint of step {step} could not be written ({reason}); an older one is untouched",
            str(path),
        ) from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read what :func:`write_checkpoint` wrote.

    Raises:
        ValueError: the file is damaged, or is not a checkpoint of ``fit``.
    """
    state = load_state(path)
    if state.get("format") != _FORMAT or set(state) != _KEYS:
        raise ValueError(f"{path} must be a checkpoint of fit, got a file with {sorted(map(str, state))}")
    return state


def require_matching(model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of another model or optimizer: torch's own loaders raise when half is copied."""
    here = {name: _shape(value) for name, value in model.state_dict().items()}
    there = {name: _shape(value) for name, value in state["model"].items()}
    different = sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name))
    if different:
        name = different[0]
        raise ValueError(
            f"model must be that of the checkpoint, got {len(different)} other entries: "
            f"{name} is {here.get(name, 'missing')} here and {there.get(name, 'missing')} there"
        )
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    saved = [len(group["params"]) for group in state["optimizer"]["param_groups"]]
    if sizes != saved:
        raise ValueError(f"optimizer must have parameter groups of {saved}, as the checkpoint, got {sizes}")


def _shape(value: object) -> tuple[int, ...] | str:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
