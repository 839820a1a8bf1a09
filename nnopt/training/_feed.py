"""Batches for :func:`fit`, epoch after epoch, from a place that a checkpoint can name."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from nnopt.types import Batch

__all__ = [
    "Feed",
    "global_random_state",
    "require_pair",
    "seed_global_random_state",
    "set_global_random_state",
]


def global_random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the state of torch's global generators that a run on ``device`` draws from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_global_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Put back what :func:`global_random_state` returned; a CPU's checkpoint has nothing for CUDA."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def seed_global_random_state(seed: int, device: torch.device) -> None:
    """Seed the global generators that a run on ``device`` draws from, and no other device's."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


class Feed:
    """Groups of batches in the order of ``batches``, and the place reached in it.

    The place is the state of every generator when the epoch began and the number of batches taken since:
    whoever restores the one and takes the others again stands where the first run stood.

    Args:
        batches: iterable, one iteration an epoch; its ``generator``, if it has one, draws the order.
        device: where batches are moved.
    """

    def __init__(self, batches: Iterable[Batch], device: torch.device) -> None:
        self.batches = batches
        self.device = device
        self.epoch = 0
        self.taken = 0
        self._iterator: Iterator[Batch] | None = None
        self._start: dict[str, Any] = {}

    def group(self, size: int) -> list[Batch]:
        """Return the next ``size`` batches of this epoch, or fewer at its end; none: the next epoch begins.

        Raises:
            ValueError: an epoch has no batch, or a batch no row.
            TypeError: a batch is not a pair of tensors.
        """
        group = [self._checked(batch) for batch in islice(self._current(), size)]
        self.taken += len(group)
        if not group:
            if self.taken == 0:
                raise ValueError(
                    f"batches must give a batch in every epoch, got none in epoch {self.epoch + 1}"
                    + (" (a generator can be read only once: pass a list or a loader)" if self.epoch else "")
                )
            self.epoch, self.taken, self._iterator = self.epoch + 1, 0, None
        return group

    def state(self) -> dict[str, Any]:
        """Return the place as tensors and integers."""
        start = self._snapshot() if self._iterator is None else self._start
        return {"epoch": self.epoch, "taken": self.taken, **start}

    def load(self, state: dict[str, Any]) -> None:
        """Go to the place that ``state`` names; torch's global generators are moved.

        Raises:
            ValueError: ``batches`` draws its order from a generator and that of ``state`` did not, or the
                other way round, or has fewer batches.
        """
        generator = self._generator()
        if (generator is None) != (state["generator"] is None):
            raise ValueError("batches must have a generator if, and only if, the run of the checkpoint had one")
        if generator is not None:
            generator.set_state(state["generator"])
        set_global_random_state(state["global"], self.device)
        self.epoch, self.taken, self._iterator = state["epoch"], state["taken"], None
        if self.taken:
            skipped = sum(1 for _ in islice(self._current(), self.taken))
            if skipped < self.taken:
                raise ValueError(
                    f"batches must be those of the checkpoint, which had taken {self.taken} of an epoch, got {skipped}"
                )

    def _current(self) -> Iterator[Batch]:
        if self._iterator is None:
            self._start = self._snapshot()
            self._iterator = iter(self.batches)
        return self._iterator

    def _generator(self) -> torch.Generator | None:
        generator = getattr(self.batches, "generator", None)
        return generator if isinstance(generator, torch.Generator) else None

    def _snapshot(self) -> dict[str, Any]:
        generator = self._generator()
        return {
            "generator": None if generator is None else generator.get_state(),
            "global": global_random_state(self.device),
        }

    def _checked(self, batch: object) -> Batch:
        inputs, targets = require_pair(batch)
        return inputs.to(self.device), targets.to(self.device)


def require_pair(batch: object) -> Batch:
    """Return ``batch`` if it is a pair of tensors with as many rows, at least one; refuse it otherwise."""
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise TypeError(f"a batch must be a pair (inputs, targets), got {type(batch).__name__}")
    for name, value in zip(("inputs", "targets"), batch):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} of a batch must be a tensor, got {type(value).__name__}")
        if value.ndim == 0 or len(value) == 0:
            raise ValueError(f"{name} of a batch must have rows, got shape {tuple(value.shape)}")
    inputs, targets = batch
    if len(inputs) != len(targets):
        raise ValueError(f"inputs and targets of a batch must have as many rows, got {len(inputs)} and {len(targets)}")
    return inputs, targets
